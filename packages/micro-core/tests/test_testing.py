"""What micro_core.testing promises to those who test their own services."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from in_loops import until

from micro_core import (
    Client,
    CodecError,
    DeadlineExceeded,
    Event,
    NotFound,
    Record,
    Service,
    ServiceNotFound,
    testing,
)
from micro_core.client.options import options
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node, ServiceInfo
from micro_core.store.sqlite import SqliteStore

Body = Callable[..., Awaitable[None]]


def in_loop(body: Body) -> Callable[..., None]:
    """As elsewhere, but without a timeout of the loop, which the clock would move."""

    @functools.wraps(body)
    def test(**fixtures: object) -> None:
        async def main() -> None:
            await body(**fixtures)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    return test


@dataclass
class Name:
    name: str


class Say:
    def __init__(self) -> None:
        self.cut = False

    async def hello(self, request: Name) -> Name:
        return Name(f"Hello {request.name}")

    async def refuse(self, request: Name) -> Name:
        raise NotFound(f"no {request.name}")

    async def wait(self, request: Name) -> Name:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.cut = True
            raise
        return Name("late")

    async def count(self, request: Name) -> AsyncIterator[Name]:
        for number in range(3):
            yield Name(f"{request.name}{number}")


def greeter(**parts: object) -> Service:
    service = Service("greeter", **parts)  # type: ignore[arg-type]
    service.handle(Say())
    return service


# -- running ---------------------------------------------------------------------------------


@in_loop
async def test_a_service_is_called_in_three_lines() -> None:
    async with testing.running(greeter()) as client:
        assert await client.call("greeter", "Say.Hello", Name("John"), Name) == Name("Hello John")
        with pytest.raises(NotFound, match="no John"):
            await client.call("greeter", "Say.Refuse", Name("John"), Name)
        async with client.stream("greeter", "Say.Count", Name("n"), response=Name) as stream:
            assert [each.name async for each in stream] == ["n0", "n1", "n2"]


@in_loop
async def test_code_may_name_plugins_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No flag, no variable, no address and no file of the real service counts."""
    monkeypatch.setenv("MICRO_REGISTRY", "nonsense")
    monkeypatch.setenv("MICRO_SERVER_NAME", "other")
    monkeypatch.setenv("MICRO_CLIENT_REQUEST_TIMEOUT", "nonsense")
    monkeypatch.setattr(sys, "argv", ["x", "--broker=nonsense"])
    file = tmp_path / "real.db"
    service = greeter(
        registry="consul",
        broker="kafka",
        transport="nats",
        client="grpc",
        server="grpc",
        address="10.1.2.3:80",
        advertise="greeter.example:80",
        store=SqliteStore(str(file)),
    )
    async with testing.running(service) as client:
        assert await client.call("greeter", "Say.Hello", Name("John"), Name) == Name("Hello John")
        await service.store.write(Record("a", b"1"))
        assert await service.store.list() == ["a"]
    assert not file.exists()


@in_loop
async def test_services_meet_each_other_and_nobody_else() -> None:
    front = Service("front")

    @front.endpoint("Front.Greet")
    async def greet(request: Name) -> Name:
        return await front.client.call("greeter", "Say.Hello", request, Name)

    async with MemoryRegistry() as outside, testing.running(front, greeter()) as client:
        await outside.register(ServiceInfo("stranger", "1", [Node("1", "x")]))
        assert await client.call("front", "Front.Greet", Name("Ann"), Name) == Name("Hello Ann")
        assert await outside.list_services() == ["stranger"]
        with pytest.raises(ServiceNotFound):
            await client.call("stranger", "Say.Hello")
        with pytest.raises(RuntimeError, match="front runs already"):
            await testing.running(front).__aenter__()


@in_loop
async def test_the_service_is_afterwards_as_it_was() -> None:
    service = greeter(registry="local")
    hooks: list[str] = []
    service.before_start(lambda: hooks.append("before"))
    service.after_stop(lambda: hooks.append("after"))
    code, identity = dict(service.code), service.identity
    for _ in range(2):
        async with testing.running(service) as client:
            assert service.node is not None
            assert await client.call("greeter", "Say.Hello", {"name": "J"}) == {"name": "Hello J"}
    assert (dict(service.code), service.identity) == (code, identity)
    assert hooks == ["before", "after"] * 2
    assert service.node is None
    with pytest.raises(LookupError, match="not running"):
        _ = service.running


@in_loop
async def test_an_error_of_the_start_comes_out_and_nothing_stays() -> None:
    first, second = greeter(), Service("second")

    @second.before_start
    def fails() -> None:
        raise KeyError("no configuration")

    with pytest.raises(KeyError, match="no configuration"):
        async with testing.running(first, second):
            raise AssertionError("it started")
    assert first.node is None


@in_loop
async def test_what_is_published_is_recorded_and_handled() -> None:
    service = greeter()
    seen: list[tuple[str, str | None]] = []

    @service.subscribe("names", queue="work", concurrency=4)
    async def work(name: Name) -> None:
        await asyncio.sleep(0.01)
        await service.client.publish("done", Name(name.name.upper()), metadata={"By": "work"})

    @service.subscribe("done")
    async def done(name: Name, event: Event) -> None:
        await asyncio.sleep(0.01)
        seen.append((name.name, event.message.header.get("By")))

    async with testing.running(service) as client:
        assert client.published == []
        for name in "abc":
            await client.publish("names", Name(name), key=name)
        await client.publish("nobody-listens", b"bytes")
        await client.handled()
        assert sorted(seen) == [("A", "work"), ("B", "work"), ("C", "work")]
        sent = [(one.topic, one.decode(), one.key) for one in client.published]
        assert sent[0] == ("names", {"name": "a"}, b"a")
        assert ("nobody-listens", b"bytes", None) in sent
        assert len(sent) == 7


@in_loop
async def test_a_handler_that_fails_is_tried_again_at_once_and_its_message_is_dead() -> None:
    service, tries = greeter(), []

    @service.subscribe("names", queue="work", attempts=5)
    async def work(name: Name) -> None:
        tries.append(name)
        raise ValueError("cannot work")

    async with testing.running(service) as client:
        await client.publish("names", Name("a"))
        await client.handled()
        dead = client.published[-1]
        assert (dead.topic, dead.decode(Name)) == ("names.dead", Name("a"))
        assert dead.message.header["Micro-Error"] == "ValueError: cannot work"
    assert len(tries) == 5


@in_loop
async def test_waiting_for_handlers_has_an_end() -> None:
    service = greeter()

    @service.subscribe("names")
    async def stuck(name: Name) -> None:
        await asyncio.Event().wait()

    async with testing.running(service) as client, testing.clock() as clock:
        await client.publish("names", Name("a"))
        with pytest.raises(TimeoutError):
            await client.handled(timeout=0.05)
        stop = asyncio.create_task(service.stop())
        await clock.advance(60)  # the grace of a stop
        await stop


# -- clock -----------------------------------------------------------------------------------


@in_loop
async def test_timers_run_in_order_each_at_its_time() -> None:
    loop, ran = asyncio.get_running_loop(), list[tuple[str, int]]()
    async with testing.clock() as clock:
        begin = loop.time()

        def note(name: str) -> None:
            ran.append((name, round(loop.time() - begin)))

        async def chain() -> None:
            for _ in range(3):
                await asyncio.sleep(100)
                note("chain")

        task = asyncio.create_task(chain())
        loop.call_later(150, note, "150")
        loop.call_later(50, note, "50")
        loop.call_later(60, note, "cancelled").cancel()
        await clock.advance(250)
        assert ran == [("50", 50), ("chain", 100), ("150", 150), ("chain", 200)]
        assert round(loop.time() - begin) == 250
        await clock.advance(50)
        assert task.done()


@in_loop
async def test_timeouts_and_deadlines_follow() -> None:
    async with testing.clock() as clock, testing.running(greeter()) as client:
        call = asyncio.create_task(
            client.call("greeter", "Say.Wait", Name("x"), Name, timeout=600.0)
        )
        await clock.advance(599)
        assert not call.done()
        await clock.advance(2)
        with pytest.raises(DeadlineExceeded):
            await call


@in_loop
async def test_a_registration_expires_and_a_kept_one_does_not() -> None:
    async with testing.clock() as clock, MemoryRegistry("t") as registry:
        await registry.register(ServiceInfo("a", "1", [Node("1", "x")]), ttl=3600)
        async with registry.keep(ServiceInfo("b", "1", [Node("2", "y")]), ttl=300) as keeper:
            await clock.advance(3599)
            assert await registry.list_services() == ["a", "b"]
            await clock.advance(2)
            assert await registry.list_services() == ["b"]
            assert keeper.registered


@in_loop
async def test_sockets_are_served_in_between() -> None:
    """The answer comes in 0 s of the moved time, so no timeout may strike."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            await asyncio.sleep(2)
            writer.write(data)
        writer.close()

    async def ask(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = 0
        for _ in range(20):
            async with asyncio.timeout(3):
                writer.write(b"x")
                answers += len(await reader.read(100))
        writer.close()
        await writer.wait_closed()
        return answers

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, testing.clock() as clock:
        asking = asyncio.create_task(ask(server.sockets[0].getsockname()[1]))
        await clock.advance(60)
        assert await asking == 20
        await until(lambda: len(asyncio.all_tasks()) == 1)


@in_loop
async def test_threads_and_ready_tasks_are_awaited_in_between() -> None:
    async with testing.clock() as clock:

        async def steps() -> str:
            for _ in range(50):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                return await asyncio.to_thread(lambda: "from a thread")

        task = asyncio.create_task(steps())
        await clock.advance(3600)
        assert task.result() == "from a thread"


@in_loop
async def test_a_busy_loop_does_not_stop_the_clock() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    async with testing.clock() as clock:
        before = clock.time()
        await clock.advance(10)
        assert clock.time() - before >= 10
    task.cancel()
    await asyncio.wait({task})


@in_loop
async def test_time_never_goes_back() -> None:
    loop = asyncio.get_running_loop()
    async with testing.clock() as clock:
        await clock.advance(1000)
        inside = loop.time()
    assert loop.time() >= inside
    async with testing.clock() as clock:
        await clock.advance(1000)
        assert loop.time() >= inside + 1000
    assert loop.time() < time.monotonic() + 2100


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
@in_loop
async def test_a_way_that_time_does_not_go_is_refused(seconds: float) -> None:
    async with testing.clock() as clock:
        with pytest.raises(ValueError, match="cannot be advanced"):
            await clock.advance(seconds)


def test_the_clock_of_uvloop_is_refused() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def body() -> None:
        with pytest.raises(RuntimeError, match=r"uvloop.*asyncio\.run"):
            async with testing.clock():
                pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


# -- recording -------------------------------------------------------------------------------


@in_loop
async def test_replies_come_in_their_order_and_the_last_one_stays() -> None:
    client = testing.RecordingClient()
    client.reply("greeter", "Say.Hello", Name("1"), {"name": "2"}, NotFound("3"), NotFound)

    async def ask() -> Name:
        return await client.call("greeter", "Say.Hello", Name("x"), Name)

    assert [await ask(), await ask()] == [Name("1"), Name("2")]
    with pytest.raises(NotFound, match="3"):
        await ask()
    for _ in range(2):
        with pytest.raises(NotFound):
            await ask()
    assert len(client.calls) == 5


@in_loop
async def test_a_function_answers_from_the_request() -> None:
    async def answer(request: Name) -> Name | Exception:
        return NotFound("nobody") if not request.name else Name(request.name.upper())

    def plain(request: object) -> str:
        return f"got {request}"

    client = testing.RecordingClient().reply("greeter", "Say.Hello", answer)
    client.reply("greeter", "Say.Plain", plain)
    assert await client.call("greeter", "Say.Hello", Name("a"), Name) == Name("A")
    with pytest.raises(NotFound, match="nobody"):
        await client.call("greeter", "Say.Hello", Name(""), Name)
    assert await client.call("greeter", "Say.Plain", 7) == "got 7"


@in_loop
async def test_calls_are_recorded_with_all_that_was_given() -> None:
    client = testing.RecordingClient().reply("greeter", "Say.Hello", Name("x"))
    request = Name("a")
    await client.call("greeter", "Say.Hello", request, Name)
    await client.call(
        "greeter", "Say.Hello", request, timeout=2.0, metadata={"trace-id": "1"}, version="2"
    )
    await client.publish("names", request, key="k", metadata={"a": "b"})
    first, second = client.calls
    assert first == testing.Called("greeter", "Say.Hello", Name("a"))
    assert first.request is request
    assert second.metadata == {"Trace-Id": "1"}
    assert second.options == {"timeout": 2.0, "version": "2"}
    [published] = client.published
    assert (published.endpoint, published.request) == ("names", request)
    assert (published.metadata, published.options) == ({"A": "b"}, {"key": "k"})


@in_loop
async def test_a_script_that_does_not_fit_is_found() -> None:
    client = testing.RecordingClient().reply("greeter", "Say.Hello", {"nam": "x"})
    with pytest.raises(CodecError, match="name"):
        await client.call("greeter", "Say.Hello", None, Name)
    with pytest.raises(AssertionError, match=r"client\.reply\('greeter', 'Say\.Bye', \.\.\.\)"):
        await client.call("greeter", "Say.Bye")
    with pytest.raises(ValueError, match="no reply"):
        client.reply("greeter", "Say.Hello")


@in_loop
async def test_a_stream_is_scripted_by_its_messages() -> None:
    client = testing.RecordingClient()
    client.reply("chat", "Chat.Talk", [Name("1"), {"name": "2"}, NotFound("the end")], [])
    got: list[Name] = []
    with pytest.raises(NotFound, match="the end"):
        async with client.stream("chat", "Chat.Talk", response=Name) as stream:
            await stream.send(Name("a"))
            await stream.end()
            async for message in stream:
                got.append(message)  # noqa: PERF401 -- the last one raises
    assert got == [Name("1"), Name("2")]
    assert client.calls[0].sent == [Name("a")]
    async with client.stream("chat", "Chat.Talk", response=Name) as stream:
        assert [message async for message in stream] == []


@in_loop
async def test_it_is_a_client_and_opens_nothing() -> None:
    async with testing.RecordingClient() as client:
        assert isinstance(client, Client)
        await client.publish("t", 1)
    assert len(client.published) == 1


class SayApi(Protocol):
    async def hello(self, request: Name) -> Name: ...
    def count(self, request: Name) -> AsyncIterator[Name]: ...


@in_loop
async def test_stubs_options_and_threads_are_recorded_too() -> None:
    async with testing.RecordingClient() as client:
        client.reply("greeter", "Say.Hello", Name("hi")).reply("greeter", "Say.Count", [Name("1")])
        say = client.stub("greeter", SayApi)
        with options(timeout=2.0, metadata={"a": "b"}):
            assert await say.hello(Name("x")) == Name("hi")
        assert [each async for each in say.count(Name("y"))] == [Name("1")]

        def in_a_thread() -> object:
            return client.blocking.call("greeter", "Say.Hello", Name("z"), Name)

        assert await asyncio.to_thread(in_a_thread) == Name("hi")
        assert [call.request.name for call in client.calls] == ["x", "y", "z"]
        assert client.calls[0].options == {"timeout": 2.0}
        assert client.calls[0].metadata == {"A": "b"}
        with pytest.raises(TypeError, match="tiemout"):
            await client.call("greeter", "Say.Hello", tiemout=1)  # type: ignore[call-overload]


def test_nothing_in_it_is_for_one_framework_of_tests() -> None:
    code = (
        "import sys, micro_core; assert 'micro_core.testing' not in sys.modules\n"
        "import micro_core.testing as t; assert 'pytest' not in sys.modules\n"
        "assert not [n for n in dir(t) if n.lower().startswith('test')], dir(t)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
