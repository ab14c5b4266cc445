"""Calls and streams between a client and services, over every transport of the core."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from micro_core import (
    BackendUnavailable,
    BadRequest,
    Client,
    Conflict,
    DeadlineExceeded,
    Draining,
    EndpointNotFound,
    InternalError,
    MicroError,
    Node,
    NoNodes,
    NotFound,
    Service,
    ServiceInfo,
    ServiceNotFound,
    SocketClosed,
    Unavailable,
    UnsupportedMediaType,
    current,
    detached,
    mucp,
)
from micro_core.client.base import RpcRequest
from micro_core.message import Message
from micro_core.registry.memory import MemoryRegistry
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport

TRANSPORTS = {"http": HttpTransport, "memory": MemoryTransport}


@dataclass
class Ask:
    text: str


@dataclass
class Number:
    value: int


class Handler:
    """Does what the request's text says, and keeps an account."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.thread = threading.Event()

    async def echo(self, request: Ask) -> Ask:
        self.seen.append(request.text)
        return request

    async def fail(self, request: Ask) -> Ask:
        raise Conflict("taken", id=request.text, status="Odd")

    async def crash(self, request: Ask) -> Ask:
        raise ValueError(f"secret {request.text}")

    async def hang(self, request: Ask) -> Ask:
        self.seen.append(request.text)
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request

    async def own_timeout(self, request: Ask) -> Ask:
        raise TimeoutError("of its own")

    async def tell(self, request: Ask) -> dict[str, Any]:
        call = current()
        return {
            "service": call.service,
            "endpoint": call.endpoint,
            "remaining": call.remaining(),
            "tenant": call.metadata.get("TENANT"),
            "metadata": sorted(call.metadata),
        }

    async def unencodable(self, request: Ask) -> Any:
        return object()

    def block(self, request: Ask) -> Ask:
        self.thread.wait(5.0)
        return request

    async def count(self, request: Number) -> AsyncIterator[Number]:
        for value in range(request.value):
            yield Number(value)

    async def forever(self, request: Number) -> AsyncIterator[Number]:
        try:
            while True:
                yield request
                await asyncio.sleep(0)
        finally:
            self.cancelled.set()

    async def broken(self, request: Number) -> AsyncIterator[Number]:
        yield request
        raise NotFound("no more", id="broken")

    async def total(self, numbers: AsyncIterator[Number]) -> Number:
        return Number(sum([number.value async for number in numbers]))

    async def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]:
        async for number in numbers:
            yield Number(2 * number.value)


@dataclass
class World:
    """A registry of its own, and what to make services and clients with."""

    transport: str
    stack: AsyncExitStack
    registry: MemoryRegistry

    async def service(self, name: str, *handlers: object, **options: Any) -> Service:
        service = Service(
            name, registry=self.registry, transport=self.make(), broker="memory", **options
        )
        for handler in handlers:
            service.handle(handler)
        return await self.stack.enter_async_context(service)

    async def client(self, **options: Any) -> Client:
        client = Client(registry=self.registry, transport=self.make(), broker="memory", **options)
        return await self.stack.enter_async_context(client)

    def make(self) -> Any:
        return TRANSPORTS[self.transport]()


Body = Callable[[World], Awaitable[None]]


def over_every_transport(body: Body) -> Callable[[str], None]:
    @pytest.mark.parametrize("transport", TRANSPORTS)
    @functools.wraps(body)
    def run(transport: str) -> None:
        async def main() -> None:
            before = asyncio.all_tasks()
            async with asyncio.timeout(20.0), AsyncExitStack() as stack:
                registry = await stack.enter_async_context(MemoryRegistry("rpc"))
                await body(World(transport, stack, registry))
            left = asyncio.all_tasks() - before
            assert not left, left

        asyncio.run(main())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest reads the signature
    run.__annotations__ = {"transport": str}
    return run


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")
    monkeypatch.setenv("MICRO_CLIENT_FORWARD", "tenant")


# -- answers and errors --------------------------------------------------------------------------


@over_every_transport
async def test_a_call_is_answered_typed_and_plain(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    assert await client.call("s", "Handler.Echo", Ask("a"), Ask) == Ask("a")
    assert await client.call("s", "Handler.Echo", {"text": "ü\n"}) == {"text": "ü\n"}


@over_every_transport
async def test_a_micro_error_arrives_whole(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    with pytest.raises(Conflict) as caught:
        await client.call("s", "Handler.Fail", Ask("my-id"), Ask)
    error = caught.value
    assert (error.id, error.code, error.detail, error.status) == ("my-id", 409, "taken", "Odd")
    assert error.happened == "yes"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_any_other_exception_is_500_with_an_id_that_is_in_the_log(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> MicroError:
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(MemoryRegistry("rpc"))
            world = World(transport, stack, registry)
            await world.service("s", Handler())
            client = await world.client()
            with pytest.raises(InternalError) as caught:
                await client.call("s", "Handler.Crash", Ask("x"), Ask)
            return caught.value

    with caplog.at_level(logging.ERROR, "micro"):
        error = asyncio.run(body())
    assert (error.code, error.detail) == (500, "internal error")
    assert len(error.id) == 16
    record = next(r for r in caplog.records if error.id in r.getMessage())
    assert record.exc_info is not None
    assert "secret x" in str(record.exc_info[1])


@over_every_transport
async def test_unknown_service_and_unknown_endpoint_are_404(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    with pytest.raises(ServiceNotFound, match="nope") as service:
        await client.call("nope", "Handler.Echo", Ask("a"))
    with pytest.raises(NotFound, match=r"Handler\.Nope") as endpoint:
        await client.call("s", "Handler.Nope", Ask("a"))
    assert service.value.code == endpoint.value.code == 404


@over_every_transport
async def test_a_bad_request_names_the_path_and_runs_nothing(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    with pytest.raises(BadRequest, match="text") as caught:
        await client.call("s", "Handler.Echo", {"txt": "a"})
    assert caught.value.code == 400
    assert not handler.seen


@over_every_transport
async def test_an_unknown_content_type_is_415(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    transport = world.make()
    async with transport:
        node = (await world.registry.get_service("s"))[0].nodes[0]
        socket = await transport.dial(node.address)
        header = {
            "Micro-Id": "1",
            "Micro-Service": "s",
            "Micro-Endpoint": "Handler.Echo",
            "Content-Type": "application/x-pickle",
        }
        await socket.send(Message(header, b"\x80\x04N."))
        reply = await socket.recv()
        with pytest.raises(UnsupportedMediaType):
            mucp.raise_error(reply.header)
        await socket.close()
    with pytest.raises(UnsupportedMediaType):
        await client.call("s", "Handler.Echo", Ask("a"), content_type="application/x-pickle")


@over_every_transport
async def test_a_result_that_does_not_encode_is_an_error_of_the_server(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    with pytest.raises(InternalError) as caught:
        await client.call("s", "Handler.Unencodable", Ask("a"))
    assert caught.value.code == 500


# -- deadlines and cancellation ------------------------------------------------------------------


@over_every_transport
async def test_a_passed_deadline_is_408_on_time_and_cancels_the_handler(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        await client.call("s", "Handler.Hang", Ask("a"), timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 0.8
    assert caught.value.code == 408
    async with asyncio.timeout(0.5):
        await handler.cancelled.wait()


@over_every_transport
async def test_the_server_answers_408_by_itself(world: World) -> None:
    """A caller that does not watch its own deadline is told by the server."""
    handler = Handler()
    await world.service("s", handler)
    transport = world.make()
    async with transport:
        node = (await world.registry.get_service("s"))[0].nodes[0]
        socket = await transport.dial(node.address)
        now = asyncio.get_running_loop().time()
        request = RpcRequest("s", "Handler.Hang", "application/json", deadline=now + 0.2)
        header = mucp.request_header(request, "1", now)
        await socket.send(Message(header, b'{"text":"a"}'))
        with pytest.raises(DeadlineExceeded):
            mucp.raise_error((await socket.recv()).header)
        await socket.close()
    assert handler.cancelled.is_set()


@over_every_transport
async def test_a_caller_that_is_cancelled_cancels_its_handler(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    call = asyncio.create_task(client.call("s", "Handler.Hang", Ask("a"), timeout=None))
    await handler.started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(1.0):
        await handler.cancelled.wait()


@over_every_transport
async def test_a_timeout_of_the_handlers_own_is_no_408(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    with pytest.raises(InternalError):
        await client.call("s", "Handler.OwnTimeout", Ask("a"))


@over_every_transport
async def test_a_sync_handler_is_answered_on_time(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    with pytest.raises(DeadlineExceeded):
        await client.call("s", "Handler.Block", Ask("a"), timeout=0.2)
    handler.thread.set()
    assert await client.call("s", "Handler.Block", Ask("b"), Ask) == Ask("b")


@over_every_transport
async def test_a_call_made_by_a_handler_inherits_what_is_left_of_its_deadline(
    world: World,
) -> None:
    await world.service("leaf", Handler())
    middle = await world.service("middle")

    class Middle:
        async def ask(self, request: Ask) -> dict[str, Any]:
            await asyncio.sleep(0.05)
            inner = await middle.client.call("leaf", "Handler.Tell", request, timeout=None)
            with detached():
                free = await middle.client.call("leaf", "Handler.Tell", request, timeout=None)
            return {"inner": inner["remaining"], "free": free["remaining"]}

    middle.handle(Middle())
    client = await world.client()
    told = await client.call("middle", "Middle.Ask", Ask("a"), timeout=2.0)
    assert 1.0 < told["inner"] < 1.95
    assert told["free"] is None


@over_every_transport
async def test_the_handler_sees_metadata_without_case_and_nothing_of_the_protocol(
    world: World,
) -> None:
    await world.service("s", Handler())
    client = await world.client()
    told = await client.call(
        "s", "Handler.Tell", Ask("a"), metadata={"tenant": "7", "X-Other": "é"}, timeout=2.0
    )
    assert (told["service"], told["endpoint"], told["tenant"]) == ("s", "Handler.Tell", "7")
    assert told["metadata"] == ["Tenant", "X-Other"]
    assert 1.0 < told["remaining"] <= 2.0


@over_every_transport
async def test_a_handlers_calls_pass_on_trace_keys_and_what_is_asked_for(world: World) -> None:
    await world.service("leaf", Handler())
    middle = await world.service("middle")

    class Middle:
        async def ask(self, request: Ask) -> Any:
            return await middle.client.call("leaf", "Handler.Tell", request)

    middle.handle(Middle())
    client = await world.client()
    sent = {"tenant": "7", "authorization": "Bearer x", "traceparent": "t", "other": "o"}
    told = await client.call("middle", "Middle.Ask", Ask("a"), metadata=sent)
    assert told["metadata"] == ["Tenant", "Traceparent"]


# -- what may be repeated ------------------------------------------------------------------------


@over_every_transport
async def test_a_node_that_cannot_be_reached_is_passed_over(world: World) -> None:
    handler = Handler()
    service = await world.service("s", handler)
    assert service.node is not None
    gone = Node("s-gone", "127.0.0.1:1", service.node.metadata)
    await world.registry.register(ServiceInfo("s", "latest", [gone]))
    client = await world.client()
    for number in range(50):
        assert await client.call("s", "Handler.Echo", Ask(str(number)), Ask) == Ask(str(number))
    assert len(handler.seen) == 50


@over_every_transport
async def test_a_single_node_that_cannot_be_reached_is_an_error_that_says_so(
    world: World,
) -> None:
    metadata = {"protocol": "mucp", "transport": world.transport}
    gone = Node("s-gone", "127.0.0.1:1", metadata)
    await world.registry.register(ServiceInfo("s", "latest", [gone]))
    client = await world.client()
    with pytest.raises(BackendUnavailable, match="127.0.0.1:1") as caught:
        await client.call("s", "Handler.Echo", Ask("a"))
    assert caught.value.happened == "no"


@over_every_transport
async def test_a_call_that_may_have_run_is_not_repeated(world: World) -> None:
    """Two nodes cut every connection after the request has arrived."""
    arrived: list[str] = []

    async def cut(socket: Any) -> None:
        arrived.append((await socket.recv()).header["Micro-Id"])
        await socket.close()

    client = await world.client()
    transport = world.make()
    async with transport:
        for number in range(2):
            listener = await transport.listen("127.0.0.1:0", cut)
            world.stack.push_async_callback(listener.close)
            metadata = {"protocol": "mucp", "transport": world.transport}
            node = Node(f"cut-{number}", listener.address, metadata)
            await world.registry.register(ServiceInfo("cut", "latest", [node]))
        for _ in range(20):
            with pytest.raises(SocketClosed) as caught:
                await client.call("cut", "Any.Thing", Ask("a"))
            assert caught.value.happened == "maybe"
        assert len(arrived) == 20


@over_every_transport
async def test_a_handlers_own_503_is_not_repeated_even_if_its_cause_never_ran(
    world: World,
) -> None:
    seen: list[str] = []

    class Front:
        async def ask(self, request: Ask) -> Ask:
            seen.append(request.text)
            raise Draining("of somebody below")

    for _ in range(2):
        await world.service("front", Front())
    client = await world.client()
    with pytest.raises(Unavailable) as caught:
        await client.call("front", "Front.Ask", Ask("a"))
    assert seen == ["a"]
    assert caught.value.happened == "yes"


@over_every_transport
async def test_what_no_handler_saw_goes_to_another_node(world: World) -> None:
    handlers = [Handler(), Handler()]
    services = [await world.service("s", handler) for handler in handlers]
    services[0].server.draining = True
    client = await world.client(selector="roundrobin")
    for number in range(20):
        await client.call("s", "Handler.Echo", Ask(str(number)))
    assert not handlers[0].seen
    assert len(handlers[1].seen) == 20


@over_every_transport
async def test_calls_over_the_limit_are_refused_unseen(world: World) -> None:
    handler = Handler()
    service = await world.service("s", handler)
    service.server.max_calls = 3
    client = await world.client()
    calls = [asyncio.create_task(client.call("s", "Handler.Hang", Ask("a"))) for _ in range(3)]
    while service.server.active < 3:
        await asyncio.sleep(0.01)
    with pytest.raises(Unavailable) as caught:
        await client.call("s", "Handler.Echo", Ask("b"))
    assert caught.value.happened == "no"
    handler.release.set()
    await asyncio.gather(*calls)
    assert await client.call("s", "Handler.Echo", Ask("c"), Ask) == Ask("c")


# -- many at once --------------------------------------------------------------------------------


@over_every_transport
async def test_a_second_request_on_one_connection_starts_at_once(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    transport = world.make()
    async with transport:
        node = (await world.registry.get_service("s"))[0].nodes[0]
        socket = await transport.dial(node.address)
        for id, endpoint in (("1", "Handler.Hang"), ("2", "Handler.Echo"), ("3", "Handler.Hang")):
            request = RpcRequest("s", endpoint, "application/json")
            header = mucp.request_header(request, id, 0.0)
            await socket.send(Message(header, b'{"text":"a"}'))
        assert (await socket.recv()).header["Micro-Id"] == "2"
        handler.release.set()
        assert {(await socket.recv()).header["Micro-Id"] for _ in range(2)} == {"1", "3"}
        await socket.close()


@over_every_transport
async def test_answers_do_not_cross(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()

    async def caller(number: int) -> None:
        for turn in range(50):
            ask = Ask(f"{number}.{turn}")
            assert await client.call("s", "Handler.Echo", ask, Ask) == ask

    await asyncio.gather(*(caller(number) for number in range(32)))


@over_every_transport
async def test_two_services_in_one_process_are_two(world: World) -> None:
    one, two = Handler(), Handler()
    first = await world.service("one", one, version="1.0.0")
    second = await world.service("two", two, version="2.0.0")
    assert first.node is not None
    assert second.node is not None
    assert first.node.address != second.node.address
    client = await world.client()
    await client.call("one", "Handler.Echo", Ask("for one"))
    await client.call("two", "Handler.Echo", Ask("for two"))
    assert (one.seen, two.seen) == (["for one"], ["for two"])
    await first.stop()
    with pytest.raises(ServiceNotFound):
        await client.call("one", "Handler.Echo", Ask("gone"))
    assert await client.call("two", "Handler.Echo", Ask("still"), Ask) == Ask("still")


@over_every_transport
async def test_a_node_that_is_another_service_by_now_is_not_called(world: World) -> None:
    handler = Handler()
    service = await world.service("new", handler)
    assert service.node is not None
    stale = Node("old-1", service.node.address, service.node.metadata)
    await world.registry.register(ServiceInfo("old", "latest", [stale]))
    client = await world.client()
    with pytest.raises(NotFound, match="this is new"):
        await client.call("old", "Handler.Echo", Ask("a"))
    assert not handler.seen


# -- which nodes ---------------------------------------------------------------------------------


@over_every_transport
async def test_version_is_an_exact_filter(world: World) -> None:
    one, two = Handler(), Handler()
    await world.service("s", one, version="1.2")
    await world.service("s", two, version="1.2.1")
    client = await world.client()
    for _ in range(10):
        await client.call("s", "Handler.Echo", Ask("a"), version="1.2")
    assert (len(one.seen), len(two.seen)) == (10, 0)
    with pytest.raises(NoNodes, match=r"no version 3.*1\.2, 1\.2\.1"):
        await client.call("s", "Handler.Echo", Ask("a"), version="3")


@over_every_transport
async def test_nodes_that_speak_something_else_are_left_out_with_the_reason(world: World) -> None:
    nodes = [Node(f"s-{n}", f"127.0.0.1:{n + 1}", {"protocol": "grpc"}) for n in range(3)]
    await world.registry.register(ServiceInfo("s", "latest", nodes))
    client = await world.client()
    with pytest.raises(NoNodes, match="3 nodes, all speaking grpc: install micro-grpc") as caught:
        await client.call("s", "Handler.Echo", Ask("a"))
    assert caught.value.code == 503
    handler = Handler()
    await world.service("s", handler)
    await client.call("s", "Handler.Echo", Ask("a"), wait=True)
    assert handler.seen == ["a"]


@over_every_transport
async def test_a_node_is_called_over_its_own_transport(world: World) -> None:
    """The client was given the other one; it makes what the node names, and closes it."""
    await world.service("s", Handler())
    other = next(name for name in TRANSPORTS if name != world.transport)
    client = Client(registry=world.registry, transport=other, broker="memory")
    async with client:
        calls = [client.call("s", "Handler.Echo", Ask(str(n)), Ask) for n in range(8)]
        assert await asyncio.gather(*calls) == [Ask(str(n)) for n in range(8)]


@over_every_transport
async def test_waiting_for_a_service_to_appear(world: World) -> None:
    client = await world.client()
    call = asyncio.create_task(client.call("late", "Handler.Echo", Ask("a"), Ask, wait=True))
    await asyncio.sleep(0)
    await world.service("late", Handler())
    assert await call == Ask("a")
    with pytest.raises(DeadlineExceeded):
        await client.call("never", "Handler.Echo", Ask("a"), wait=True, timeout=0.1)


# -- streams -------------------------------------------------------------------------------------


@over_every_transport
async def test_a_server_stream_gives_all_and_ends(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    async with client.stream("s", "Handler.Count", Number(500), response=Number) as stream:
        assert [number.value async for number in stream] == list(range(500))
    async with client.stream("s", "Handler.Count", Number(0), response=Number) as stream:
        assert [number async for number in stream] == []


@over_every_transport
async def test_a_stream_ends_with_the_handlers_error(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    async with client.stream("s", "Handler.Broken", Number(7), response=Number) as stream:
        assert (await stream.recv()).value == 7
        with pytest.raises(NotFound, match="no more") as caught:
            await stream.recv()
        assert caught.value.id == "broken"
        with pytest.raises(StopAsyncIteration):
            await stream.recv()


@over_every_transport
async def test_leaving_a_stream_cancels_its_handler(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    async with client.stream("s", "Handler.Forever", Number(7), response=Number) as stream:
        await stream.recv()
    async with asyncio.timeout(2.0):
        await handler.cancelled.wait()


@over_every_transport
async def test_client_streams_and_both_ways_with_half_close(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    async with client.stream("s", "Handler.Total", response=Number) as stream:
        for value in range(300):
            await stream.send(Number(value))
        await stream.end()
        assert (await stream.recv()).value == sum(range(300))
    async with client.stream("s", "Handler.Double", response=Number) as stream:
        for value in range(20):
            await stream.send(Number(value))
            assert (await stream.recv()).value == 2 * value
        await stream.end()
        assert [item async for item in stream] == []


@over_every_transport
async def test_a_stream_and_a_call_do_not_stand_in_for_each_other(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    with pytest.raises(BadRequest, match="is a stream"):
        await client.call("s", "Handler.Count", Number(1))
    async with client.stream("s", "Handler.Echo", Ask("a")) as stream:
        with pytest.raises(BadRequest, match="is no stream"):
            await stream.recv()


@over_every_transport
async def test_an_unknown_endpoint_of_a_stream_is_404(world: World) -> None:
    await world.service("s", Handler())
    client = await world.client()
    async with client.stream("s", "Handler.Nope", Number(1)) as stream:
        with pytest.raises(NotFound):
            await stream.recv()


@over_every_transport
async def test_a_stream_may_have_a_deadline(world: World) -> None:
    handler = Handler()
    await world.service("s", handler)
    client = await world.client()
    with pytest.raises(DeadlineExceeded):
        async with client.stream(
            "s", "Handler.Forever", Number(1), response=Number, timeout=0.2
        ) as stream:
            async for _ in stream:
                pass
    async with asyncio.timeout(2.0):
        await handler.cancelled.wait()


def test_a_connection_whose_handler_runs_is_not_idle() -> None:
    async def body() -> None:
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(MemoryRegistry("rpc"))
            world = World("http", stack, registry)
            handler = Handler()
            service = Service(
                "s", registry=registry, transport=HttpTransport(idle_timeout=0.1), broker="memory"
            )
            service.handle(handler)
            await stack.enter_async_context(service)
            client = await world.client()
            call = asyncio.create_task(client.call("s", "Handler.Hang", Ask("a"), Ask))
            await asyncio.sleep(0.5)  # five times what would be idle
            handler.release.set()
            assert await call == Ask("a")

    asyncio.run(body())


# -- stopping ------------------------------------------------------------------------------------


@over_every_transport
async def test_a_stop_lets_running_calls_finish(world: World) -> None:
    handler = Handler()
    service = await world.service("s", handler)
    client = await world.client()
    call = asyncio.create_task(client.call("s", "Handler.Hang", Ask("a"), Ask))
    await handler.started.wait()
    stop = asyncio.create_task(service.stop())
    while not service.server.draining:
        await asyncio.sleep(0.01)
    handler.release.set()
    assert await call == Ask("a")
    await stop


@over_every_transport
async def test_a_client_that_has_not_heard_of_the_stop_is_served(world: World) -> None:
    """Nobody is connected when the stop begins, and one is still on its way."""
    service = await world.service("s", Handler())
    assert service.node is not None
    address = service.node.address
    service.running._delay = 5.0
    stop = asyncio.create_task(service.stop())
    while await world.registry.get_service("s"):
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    transport = world.make()
    async with transport:
        socket = await transport.dial(address)
        header = mucp.request_header(RpcRequest("s", "Handler.Echo", "application/json"), "1", 0.0)
        await socket.send(Message(header, b'{"text":"late"}'))
        reply = await socket.recv()
        assert reply.body == b'{"text":"late"}'
        assert reply.header["Connection"] == "close"
        await socket.close()
    async with asyncio.timeout(2.0):
        await stop


@over_every_transport
async def test_what_outlasts_the_grace_is_cancelled(world: World) -> None:
    handler = Handler()
    service = await world.service("s", handler)
    client = await world.client()
    call = asyncio.create_task(client.call("s", "Handler.Hang", Ask("a"), Ask))
    await handler.started.wait()
    begin = time.monotonic()
    await service.stop()
    assert 0.9 < time.monotonic() - begin < 3.0
    assert handler.cancelled.is_set()
    with pytest.raises(SocketClosed):
        await call


def test_an_endpoint_defined_twice_is_refused() -> None:
    service = Service("s")
    service.handle(Handler(), name="H")
    with pytest.raises(TypeError, match=r"H\.Echo is defined twice|defined twice"):
        service.handle(Handler(), name="H")


def test_a_client_that_is_not_open_says_so() -> None:
    async def body() -> None:
        with pytest.raises(BackendUnavailable, match="async with"):
            await Client().call("s", "A.B")

    asyncio.run(body())


def test_a_received_endpoint_error_is_a_not_found() -> None:
    assert issubclass(EndpointNotFound, NotFound)
