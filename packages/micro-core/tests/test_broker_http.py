"""The http broker: Go's bytes on real sockets, between objects and between processes."""

from __future__ import annotations

import asyncio
import base64
import functools
import http.client
import json
import os
import re
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from in_loops import until

from micro_core.broker.http import BROADCAST, SERVICE, HttpBroker
from micro_core.broker.subscription import Event
from micro_core.errors import (
    BackendUnavailable,
    InvalidName,
    MessageTooLarge,
    NotSupported,
    OptionError,
    PublishUnknown,
)
from micro_core.message import Message
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node, ServiceInfo
from micro_core.transport.http_server import HttpListener, ServerSocket

GO_BODY = (
    b'{"Header":{"Content-Type":"text/plain","Id":"0","Micro-Topic":"go.fixture.topic"},'
    b'"Body":"aGVsbG8gZnJvbSBnbw=="}'
)


def in_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine function as a test; it fails for tasks and descriptors left behind."""

    @functools.wraps(body)
    def test(**fixtures: object) -> None:
        async def main() -> None:
            async with asyncio.timeout(40):
                await body(**fixtures)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        before = len(os.listdir("/proc/self/fd"))
        asyncio.run(main())
        assert len(os.listdir("/proc/self/fd")) <= before

    return test


class Seen:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.bodies.append(event.message.body)
        self.events.append(event)

    async def count(self, number: int) -> None:
        await until(lambda: len(self.bodies) >= number)


@asynccontextmanager
async def brokers(number: int, **options: Any) -> AsyncIterator[list[HttpBroker]]:
    made = [HttpBroker(registry=MemoryRegistry(), **options) for _ in range(number)]
    try:
        for broker in made:
            await broker.connect()
        yield made
    finally:
        for broker in made:
            await broker.close()


async def nodes() -> dict[str, ServiceInfo]:
    async with MemoryRegistry() as registry:
        return {n.id: i for i in await registry.get_service(SERVICE) for n in i.nodes}


async def raw(address: str, request: bytes) -> bytes:
    """What comes back for ``request``, until the other side closes or a second has passed."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = b""
    try:
        async with asyncio.timeout(1.0):
            while b"\r\n\r\n" not in answer:
                answer += await reader.read(65536)
            length = int(re.search(rb"(?i)content-length: (\d+)", answer)[1])  # type: ignore[index]
            while len(answer.partition(b"\r\n\r\n")[2]) < length:
                answer += await reader.read(65536)
    finally:
        writer.close()
        await writer.wait_closed()
    return answer


def post(id: str, body: bytes, *extra: str, method: str = "POST") -> bytes:
    """As Go's http.Client writes it."""
    lines = [
        f"{method} /?id={quote(id, safe='')} HTTP/1.1",
        "Host: 127.0.0.1:40347",
        "User-Agent: Go-http-client/1.1",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        "Accept-Encoding: gzip",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


# -- the promises of publish and subscribe -----------------------------------------------------


@in_loop
async def test_everybody_without_a_queue_gets_every_message_in_order() -> None:
    a, b, other = Seen(), Seen(), Seen()
    async with brokers(3) as (one, two, publisher):
        await publisher.publish("t", Message(body=b"nobody hears this"))
        await one.subscribe("t", a)
        await two.subscribe("t", b)
        await two.subscribe("u", other)
        for number in range(50):
            await publisher.publish("t", Message({"id": str(number)}, b"%d" % number))
        for seen in (a, b):
            await seen.count(50)
            assert seen.bodies == [b"%d" % number for number in range(50)]
        assert a.events[7].message.header == {"Id": "7", "Micro-Topic": "t"}
        assert a.events[7].topic == "t"
        assert other.bodies == []


@in_loop
async def test_consumers_of_a_queue_compete_and_each_queue_gets_all() -> None:
    a, b, c, d, live = Seen(), Seen(), Seen(), Seen(), Seen()
    async with brokers(2) as (one, two):
        await one.subscribe("t", a, queue="q")
        await two.subscribe("t", b, queue="q")
        await one.subscribe("t", c, queue="r")
        await one.subscribe("t", d, queue="r")  # two of one queue in one process compete too
        await one.subscribe("t", live)
        for number in range(40):
            await two.publish("t", Message(body=b"%d" % number))
        await live.count(40)
        await until(lambda: len(a.bodies + b.bodies) == len(c.bodies + d.bodies) == 40)
        for first, second in ((a, b), (c, d)):
            assert len(first.bodies) == len(second.bodies) == 20
            assert set(first.bodies + second.bodies) == set(live.bodies)


@in_loop
async def test_a_subscription_is_in_the_registry_as_go_writes_it_under_its_own_id() -> None:
    async with brokers(1) as (broker,):
        first = await broker.subscribe("go.topic", Seen())
        await broker.subscribe("go.topic", Seen(), queue="q")
        found = await nodes()
        assert sorted(info.version for info in found.values()) == [BROADCAST, "q"]
        for id, info in found.items():
            assert re.fullmatch(r"go\.topic-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id)
            (node,) = info.nodes
            assert node.metadata == {"broker": "http", "secure": "false", "topic": "go.topic"}
            assert re.fullmatch(r"127\.0\.0\.1:\d+", node.address)
            assert info.name == "micro.http.broker"
        await first.unsubscribe()
        assert [info.version for info in (await nodes()).values()] == ["q"]
    assert await nodes() == {}


@in_loop
async def test_any_bytes_and_any_printable_topic_arrive() -> None:
    seen = Seen()
    topic, body = "a/b c?d&e=é☃%20", bytes(range(256)) * 2000
    async with brokers(2) as (one, two):
        await one.subscribe(topic, seen)
        await two.publish(topic, Message({"Odd": 'é"☃\t'}, body))
        await two.publish(topic, Message())
        await seen.count(2)
        assert seen.bodies == [body, b""]
        assert seen.events[0].message.header["Odd"] == 'é"☃\t'


@pytest.mark.parametrize("reach", ["network", "host"])
@in_loop
async def test_published_right_after_subscribe_is_received(reach: str) -> None:
    class Reaching(MemoryRegistry):
        name = "reaching"

    Reaching.reach = reach  # type: ignore[assignment]
    async with HttpBroker("127.0.0.1:0", registry=Reaching()) as broker:
        for number in range(20):
            seen = Seen()
            subscription = await broker.subscribe("t", seen, queue="q" if number % 2 else None)
            await broker.publish("t", Message(body=b"%d" % number))
            await seen.count(1)
            await subscription.unsubscribe()
            await broker.publish("t", Message(body=b"nobody"))


@in_loop
async def test_a_remembered_list_follows_the_registry() -> None:
    class Network(MemoryRegistry):
        name = "network"
        reach = "network"

    seen = Seen()
    async with (
        HttpBroker("127.0.0.1:0", registry=Network()) as one,
        HttpBroker("127.0.0.1:0", registry=Network()) as two,
    ):
        await two.publish("t", Message(body=b"loads the list"))
        await one.subscribe("t", seen)
        while not seen.bodies:
            await two.publish("t", Message(body=b"x"))
            await asyncio.sleep(0.01)


@in_loop
async def test_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, admitted = Seen(), 0
    admit = HttpListener.admit

    def counted(listener: HttpListener, socket: ServerSocket) -> None:
        nonlocal admitted
        admitted += 1
        admit(listener, socket)

    monkeypatch.setattr(HttpListener, "admit", counted)
    async with brokers(2) as (one, two):
        await one.subscribe("t", seen)
        for _ in range(20):
            await two.publish("t", Message(body=b"x"))
        assert admitted == 1
        await asyncio.gather(*(two.publish("t", Message(body=b"x")) for _ in range(300)))
        assert len(one._receiver._listener.connections) <= 100
        await seen.count(320)


@in_loop
async def test_drain_handles_what_was_accepted_and_deregisters_first() -> None:
    go, seen = asyncio.Event(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await seen(event)

    async with brokers(2) as (one, two):
        subscription = await one.subscribe("t", handler, queue="q")
        for number in range(30):
            await two.publish("t", Message(body=b"%d" % number))
        draining = asyncio.create_task(subscription.drain(10))
        while await nodes():
            await asyncio.sleep(0)
        assert not draining.done()
        go.set()
        await draining
        assert seen.bodies == [b"%d" % number for number in range(30)]


@in_loop
async def test_close_is_idempotent_and_the_broker_may_be_connected_again() -> None:
    broker, seen = HttpBroker(registry=MemoryRegistry()), Seen()
    for number in range(3):
        await broker.connect()
        await broker.subscribe("t", seen)
        await broker.publish("t", Message(body=b"x"))
        await seen.count(number + 1)
        await broker.close()
        await broker.close()


# -- who does not take it ----------------------------------------------------------------------


def dead_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def record(version: str, *ids: str, topic: str = "t", **metadata: str) -> ServiceInfo:
    data = {"broker": "http", "secure": "false", "topic": topic} | metadata
    return ServiceInfo(SERVICE, version, [Node(id, dead_address(), data) for id in ids])


@in_loop
async def test_a_node_of_a_queue_that_cannot_be_reached_is_passed_over() -> None:
    seen = Seen()
    async with brokers(2) as (one, two), MemoryRegistry() as registry:
        await registry.register(record("q", "t-dead", "t-dead-too"))
        await one.subscribe("t", seen, queue="q")
        for number in range(20):
            await two.publish("t", Message(body=b"%d" % number))
        await seen.count(20)
        assert seen.bodies == [b"%d" % number for number in range(20)]
        assert two.health().drops == 0


@in_loop
async def test_a_queue_of_unreachable_nodes_is_a_typed_error() -> None:
    live = Seen()
    async with brokers(2) as (one, two), MemoryRegistry() as registry:
        await registry.register(record("q", "t-dead"))
        with pytest.raises(BackendUnavailable, match="cannot connect") as caught:
            await two.publish("t", Message())
        assert caught.value.happened == "no"
        await one.subscribe("t", live)
        with pytest.raises(PublishUnknown) as unknown:  # others have it: it is not "surely not"
            await two.publish("t", Message({"Micro-Id": "7"}))
        assert unknown.value.message_id == "7"
        await live.count(1)


@in_loop
async def test_unreachable_live_subscribers_are_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    monkeypatch.setattr("micro_core.broker.http_sender._BENCHED", 0.0)
    async with brokers(2) as (one, two), MemoryRegistry() as registry:
        await registry.register(record(BROADCAST, "t-dead"))
        with pytest.raises(BackendUnavailable):
            await two.publish("t", Message())
        drops = two.health().drops
        await one.subscribe("t", seen)
        for _ in range(10):
            await two.publish("t", Message(body=b"x"))
        await seen.count(10)
        assert (drops, two.health().drops) == (1, 11)
    assert caplog.text.count("t-dead") == 1


@in_loop
async def test_who_has_just_unsubscribed_is_neither_an_error_nor_a_drop() -> None:
    async with brokers(2) as (one, two), MemoryRegistry() as registry:
        await one.subscribe("u", Seen())
        ((_, info),) = (await nodes()).items()
        stale = Node("t-stale", info.nodes[0].address, {"broker": "http", "topic": "t"})
        await registry.register(ServiceInfo(SERVICE, BROADCAST, [stale]))
        await two.publish("t", Message())
        assert two.health().drops == 0
        await registry.register(ServiceInfo(SERVICE, "q", [stale]))
        with pytest.raises(BackendUnavailable, match="no such subscription"):
            await two.publish("t", Message())


class Slow(MemoryRegistry):
    """Deregisters when it is told to, and fails to register while it is told to."""

    name = "slow"
    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.leaving, self.go = asyncio.Event(), asyncio.Event()

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        if self.fails:
            raise ConnectionRefusedError("no registry")
        await super()._register(info, ttl)

    async def _deregister(self, info: ServiceInfo) -> None:
        self.leaving.set()
        await self.go.wait()
        await super()._deregister(info)


@in_loop
async def test_until_the_registry_knows_of_the_end_messages_are_taken() -> None:
    seen, registry = Seen(), Slow()
    async with brokers(1) as (publisher,), HttpBroker(registry=registry) as broker:
        subscription = await broker.subscribe("t", seen, queue="q")
        leaving = asyncio.create_task(subscription.unsubscribe())
        await registry.leaving.wait()
        await publisher.publish("t", Message(body=b"last"))
        registry.go.set()
        await leaving
        assert seen.bodies == [b"last"]
        await publisher.publish("t", Message(body=b"nobody"))


@in_loop
async def test_a_registry_that_cannot_be_told_is_an_error_and_leaves_nothing() -> None:
    registry = Slow()
    async with HttpBroker(registry=registry) as broker:
        registry.fails = True
        with pytest.raises(BackendUnavailable, match="no registry"):
            await broker.subscribe("t", Seen())
        assert broker._receiver.inboxes == {}
        registry.go.set()


@in_loop
async def test_other_peoples_records_are_left_alone() -> None:
    async with brokers(1) as (broker,), MemoryRegistry() as registry:
        await registry.register(record("q", "t-1", broker="grpc"))
        await registry.register(record("q", "t-2", topic="u"))
        await broker.publish("t", Message())
        await registry.register(record("q", "t-3", secure="true"))
        with pytest.raises(BackendUnavailable, match="TLS"):
            await broker.publish("t", Message())


@in_loop
async def test_a_full_subscriber_of_a_queue_is_passed_over_and_then_an_error() -> None:
    go, stuck, free = asyncio.Event(), Seen(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await stuck(event)

    async with brokers(3) as (one, two, publisher):
        await one.subscribe("t", handler, queue="q", prefetch=2)
        for number in range(3):
            await publisher.publish("t", Message(body=b"%d" % number))
        with pytest.raises(BackendUnavailable, match="behind"):
            await publisher.publish("t", Message(body=b"refused"))
        await two.subscribe("t", free, queue="q")
        for number in range(3, 13):
            await publisher.publish("t", Message(body=b"%d" % number))
        await free.count(10)
        go.set()
        await stuck.count(3)
        assert stuck.bodies + free.bodies == [b"%d" % number for number in range(13)]


@in_loop
async def test_a_publisher_is_held_up_while_the_subscriber_is_behind() -> None:
    seen = Seen()

    async def slow(event: Event) -> None:
        await asyncio.sleep(0.002)
        await seen(event)

    async with brokers(2) as (one, two):
        await one.subscribe("t", slow, prefetch=5)
        for number in range(100):
            await two.publish("t", Message(body=b"%d" % number))
        await seen.count(100)
        assert two.health().drops == 0


@in_loop
async def test_limits_and_names_are_checked_before_anything_is_sent() -> None:
    async with brokers(1, max_body=1000) as (broker,):
        seen = Seen()
        await broker.subscribe("t", seen)
        await broker.publish("t", Message(body=bytes(1000)))
        with pytest.raises(MessageTooLarge, match="max_body") as caught:
            await broker.publish("t", Message(body=bytes(1001)))
        assert caught.value.happened == "no"
        with pytest.raises(MessageTooLarge):
            await broker.publish("t", Message({"Long": "x" * 100_000}))
        with pytest.raises(InvalidName):
            await broker.subscribe("t", seen, queue=BROADCAST)
        with pytest.raises(InvalidName):
            await broker.subscribe("t" * 240, seen)
        with pytest.raises(NotSupported):
            await broker.publish("t", Message(), key=b"k")
        await seen.count(1)
        assert len(await nodes()) == 1
        assert len(broker._receiver.inboxes) == 1


@in_loop
async def test_an_address_that_cannot_be_had_is_a_typed_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with HttpBroker(address, registry=MemoryRegistry()) as broker:
            with pytest.raises(BackendUnavailable, match="cannot listen"):
                await broker.subscribe("t", Seen())
            assert broker._subscriptions == set()
    async with HttpBroker("nonsense", registry=MemoryRegistry()) as broker:
        with pytest.raises(BackendUnavailable, match="cannot listen"):
            await broker.subscribe("t", Seen())


@in_loop
async def test_advertise_is_what_publishers_are_told() -> None:
    async with brokers(1, advertise="192.0.2.7") as (broker,):
        await broker.subscribe("t", Seen())
        (info,) = (await nodes()).values()
        assert re.fullmatch(r"192\.0\.2\.7:\d+", info.nodes[0].address)


@in_loop
async def test_loopback_is_not_advertised_to_other_hosts() -> None:
    class Elsewhere(MemoryRegistry):
        name = "elsewhere"
        reach = "network"

        def local_host(self) -> str:
            return "192.0.2.1"

    async with HttpBroker("127.0.0.1:0", registry=Elsewhere()) as broker:
        for _ in range(2):
            with pytest.raises(OptionError, match="advertise"):
                await broker.subscribe("t", Seen())


# -- the wire ----------------------------------------------------------------------------------


@in_loop
async def test_what_go_posts_is_accepted() -> None:
    seen = Seen()
    async with brokers(1) as (broker,):
        await broker.subscribe("go.fixture.topic", seen)
        ((id, info),) = (await nodes()).items()
        answer = await raw(info.nodes[0].address, post(id, GO_BODY))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        chunked = post(id, b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(GO_BODY), GO_BODY)
        assert (await raw(info.nodes[0].address, chunked)).startswith(b"HTTP/1.1 200 ")
        await seen.count(2)
        for event in seen.events:
            assert event.message == Message(
                {"Content-Type": "text/plain", "Id": "0", "Micro-Topic": "go.fixture.topic"},
                b"hello from go",
            )


@in_loop
async def test_go_gets_the_bytes_it_reads() -> None:
    got: list[bytes] = []

    async def go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        got.extend([head, await reader.readexactly(length)])
        writer.write(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(go, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    id = "go.fixture.topic-693752e2-dbcc-4f96-97f3-4e4c7a4aae6e"
    metadata = {"broker": "http", "secure": "false", "topic": "go.fixture.topic"}
    async with brokers(1) as (broker,), MemoryRegistry() as registry:
        await registry.register(ServiceInfo(SERVICE, BROADCAST, [Node(id, address, metadata)]))
        header = {"Content-Type": "text/plain", "Id": "0", "Micro-Topic": "another"}
        await broker.publish("go.fixture.topic", Message(header, b"hello from go"))
    server.close()
    await server.wait_closed()
    head, body = got
    assert head.startswith(f"POST /?id={id} HTTP/1.1\r\nHost: {address}\r\n".encode())
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert body == GO_BODY


@in_loop
async def test_a_foreign_http_client_is_understood() -> None:
    seen = Seen()

    def foreign(address: str, id: str) -> list[int]:
        client = http.client.HTTPConnection(address, timeout=5)
        body = {
            "Body": base64.b64encode(b"hi").decode(),
            "Header": {"micro-topic": "t", "content-type": "text/plain"},
        }
        statuses: list[int] = []
        try:
            for _ in range(2):
                client.request("POST", f"/?id={quote(id)}", json.dumps(body, indent=2))
                response = client.getresponse()
                response.read()
                statuses.append(response.status)
            return statuses
        finally:
            client.close()

    async with brokers(1) as (broker,):
        await broker.subscribe("t", seen)
        ((id, info),) = (await nodes()).items()
        assert await asyncio.to_thread(foreign, info.nodes[0].address, id) == [200, 200]
        await seen.count(2)
        assert seen.bodies == [b"hi", b"hi"]


TOPICAL = b'{"Header":{"Micro-Topic":"%s"},"Body":null}'


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (post("ID", GO_BODY, method="GET"), 405, b"POST"),
        (post("ID", GO_BODY, method="PUT"), 405, b"POST"),
        (post("ID", b"not json"), 500, b'"code": 500'),
        (post("ID", b""), 500, b'"code": 500'),
        (post("ID", b"[" * 50_000), 500, b'"code": 500'),
        (post("ID", b'{"Header":{"A":1},"Body":null}'), 500, b'"code": 500'),
        (post("ID", b'{"Header":null,"Body":null}'), 500, b"Topic not found"),
        (post("ID", TOPICAL % b""), 500, b"Topic not found"),
        (post("ID", TOPICAL % b"u"), 404, b"no such subscription"),
        (post("t-unknown", TOPICAL % b"t"), 404, b"no such subscription"),
        (post("ID", TOPICAL % b"t", "Origin: http://evil.example"), 403, b"Origin"),
        (post("ID", b"x" * 70_000), 413, b"limit"),
        (b"nonsense\r\n\r\n", 400, b"HTTP"),
        (b"POST //[::1 HTTP/1.1\r\nContent-Length: 42\r\n\r\n" + TOPICAL % b"t", 404, b""),
        (post("ID", TOPICAL % b"t"), 200, b""),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, int) else "",
)
@in_loop
async def test_each_request_gets_its_answer(request_: bytes, status: int, text: bytes) -> None:
    seen = Seen()
    async with brokers(1, max_body=100) as (broker,):
        await broker.subscribe("t", seen)
        ((id, info),) = (await nodes()).items()
        answer = await raw(info.nodes[0].address, request_.replace(b"ID", id.encode()))
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert text in answer
        if text == b'"code": 500':
            error = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert (error["id"], error["status"]) == ("go.micro.broker", "Internal Server Error")
        await broker.publish("t", Message(body=b"still here"))
        await seen.count(1 + (status == 200))
        assert seen.bodies[-1] == b"still here"


# -- two processes -----------------------------------------------------------------------------

SUBSCRIBER = textwrap.dedent(
    """
    import asyncio, sys
    from micro_core.broker.http import HttpBroker
    from micro_core.registry.local import LocalRegistry

    async def main(directory, topic, queue):
        async def handler(event):
            print("got", event.message.body.decode(), event.message.header.get("Id"), flush=True)

        async with HttpBroker(registry=LocalRegistry(directory)) as broker:
            await broker.subscribe(topic, handler, queue=queue or None)
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main(*sys.argv[1:]))
    """
)


class Subscriber:
    """Another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdout is not None
        self._out = process.stdout

    async def line(self) -> str:
        async with asyncio.timeout(20):
            return (await self._out.readline()).decode().strip()

    async def lines(self, number: int) -> list[str]:
        return [await self.line() for _ in range(number)]

    async def end(self, signum: int | None = None) -> int:
        if signum is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
        else:
            self.process.send_signal(signum)
        async with asyncio.timeout(20):
            await self._out.read()
            return await self.process.wait()


@asynccontextmanager
async def subscriber(directory: Path, queue: str = "") -> AsyncIterator[Subscriber]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUBSCRIBER, str(directory), "t", queue),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    running = Subscriber(process)
    try:
        assert await running.line() == "ready"
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@in_loop
async def test_subscribers_in_other_processes_over_the_local_registry(tmp_path: Path) -> None:
    async with (
        subscriber(tmp_path) as one,
        subscriber(tmp_path) as two,
        subscriber(tmp_path, "q") as third,
        subscriber(tmp_path, "q") as fourth,
        HttpBroker(registry=LocalRegistry(str(tmp_path))) as broker,
    ):
        for number in range(20):
            await broker.publish("t", Message({"Id": str(number)}, b"%d" % number))
        wanted = [f"got {number} {number}" for number in range(20)]
        assert await one.lines(20) == wanted
        assert await two.lines(20) == wanted
        assert sorted(await third.lines(10) + await fourth.lines(10)) == sorted(wanted)
        assert await one.end() == 0
        await broker.publish("t", Message({"Id": "x"}, b"after"))
        assert await two.line() == "got after x"
        assert broker.health().drops == 0


@in_loop
async def test_a_killed_subscriber_holds_up_nobody(tmp_path: Path) -> None:
    async with (
        subscriber(tmp_path, "q") as one,
        subscriber(tmp_path, "q") as two,
        HttpBroker(registry=LocalRegistry(str(tmp_path))) as broker,
    ):
        for number in range(4):
            await broker.publish("t", Message(body=b"%d" % number))
        assert len(await one.lines(2) + await two.lines(2)) == 4
        await one.end(signal.SIGKILL)
        for number in range(10):
            await broker.publish("t", Message(body=b"%d" % number))
        assert await two.lines(10) == [f"got {number} None" for number in range(10)]


@in_loop
async def test_a_frozen_subscriber_costs_its_own_messages_only(tmp_path: Path) -> None:
    broker = HttpBroker(registry=LocalRegistry(str(tmp_path)))
    broker.publish_timeout = 1.0
    async with subscriber(tmp_path) as frozen, subscriber(tmp_path) as other, broker:
        await broker.publish("t", Message(body=b"first"))
        assert await frozen.line() == await other.line() == "got first None"
        frozen.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(10):
            for number in range(20):
                await broker.publish("t", Message(body=b"%d" % number))
        assert await other.lines(20) == [f"got {number} None" for number in range(20)]
        assert broker.health().drops == 20
        frozen.process.send_signal(signal.SIGCONT)


@in_loop
async def test_alone_it_finds_others_of_the_same_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    seen = Seen()
    async with HttpBroker() as one, HttpBroker() as two:
        await one.subscribe("t", seen)
        await two.publish("t", Message(body=b"x"))
        await seen.count(1)
