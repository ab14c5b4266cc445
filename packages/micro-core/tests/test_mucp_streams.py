"""Streams of mucp over memory and http: half close, backpressure, leaving, size and number."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from in_loops import in_loop, until

from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.client.mucp import MucpClient
from micro_core.errors import BadRequest, MicroError, SocketClosed
from micro_core.message import Message
from micro_core.registry.records import Node
from micro_core.server.mucp import MucpServer
from micro_core.transport.base import Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.http_server import HttpListener
from micro_core.transport.memory import MemoryTransport

KINDS: dict[str, Callable[..., Transport]] = {"memory": MemoryTransport, "http": HttpTransport}
Handler = Callable[[RpcStream], Awaitable[None]]
over_both = pytest.mark.parametrize("kind", KINDS)


class Peer:
    """A mucp server whose streams run ``handler`` and whose calls echo, and a client of it."""

    def __init__(self, handler: Handler, transport: Transport) -> None:
        self.handler = handler
        self.transport = transport
        self.started = self.ended = self.cancelled = 0
        self.client = MucpClient(transport=transport)
        self.server = MucpServer(transport=transport)
        self.node = Node("s-1", "")

    async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        if stream is None:
            return RpcResponse(request.content_type, request.body)
        self.started += 1
        try:
            await self.handler(stream)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1
        return RpcResponse(request.content_type)

    async def open(self) -> RpcStream:
        return await self.client.open(self.node, self.request())

    async def call(self, body: bytes) -> RpcResponse:
        return await self.client.call(self.node, self.request(body))

    def request(self, body: bytes = b"") -> RpcRequest:
        return RpcRequest("s", "S.S", "application/octet-stream", body)


@asynccontextmanager
async def peer(kind: str, handler: Handler, **options: Any) -> AsyncIterator[Peer]:
    async with KINDS[kind](**options) as transport:
        one = Peer(handler, transport)
        address = "127.0.0.1:0" if kind == "http" else ""
        one.node = Node("s-1", await one.server.start(address, one.dispatch))
        try:
            yield one
        finally:
            await one.client.close()
            await one.server.stop(0.0)


async def items(stream: RpcStream) -> AsyncIterator[bytes]:
    while True:
        try:
            yield await stream.recv()
        except StopAsyncIteration:
            return


async def echo(stream: RpcStream) -> None:
    async for item in items(stream):
        await stream.send(item)


async def stuck(_: RpcStream) -> None:
    await asyncio.Event().wait()


# -- half close ------------------------------------------------------------------------------


@over_both
@in_loop
async def test_the_end_of_one_direction_leaves_the_other_open(kind: str) -> None:
    async def total(stream: RpcStream) -> None:
        sizes = [len(item) async for item in items(stream)]
        for size in sizes:
            await stream.send(str(size).encode())

    async with peer(kind, total) as one:
        stream = await one.open()
        for size in range(5):
            await stream.send(size * b"x")
        await stream.end()
        await stream.end()
        with pytest.raises(SocketClosed) as caught:
            await stream.send(b"late")
        assert caught.value.happened == "no"
        assert [item async for item in items(stream)] == [b"0", b"1", b"2", b"3", b"4"]
        with pytest.raises(StopAsyncIteration):
            await stream.recv()
        assert one.started == 1


@over_both
@in_loop
async def test_what_comes_after_the_end_of_a_stream_starts_nothing(kind: str) -> None:
    """Messages under way when a handler fails are not taken for a new stream."""

    async def fail(stream: RpcStream) -> None:
        await stream.recv()
        raise BadRequest("no more")

    async with peer(kind, fail) as one:
        stream = await one.open()
        for _ in range(50):
            await stream.send(b"x")
        with pytest.raises(BadRequest, match="no more"):
            await stream.recv()
        await one.call(b"after")
        assert one.started == 1


@over_both
@in_loop
async def test_two_streams_and_calls_on_one_connection_at_once(kind: str) -> None:
    async with peer(kind, echo) as one:
        socket = await one.transport.dial(one.node.address)
        base = {"Micro-Service": "s", "Micro-Endpoint": "S.S", "Content-Type": "x/y"}
        for id in "ab":
            await socket.send(Message({**base, "Micro-Id": id, "Micro-Stream": id}))
        await socket.send(Message({**base, "Micro-Id": "c"}, b"call"))
        for number in range(3):
            for id in "ab":
                header = {**base, "Micro-Id": id, "Micro-Stream": id}
                await socket.send(Message(header, f"{id}{number}".encode()))
        for id in "ab":
            header = {**base, "Micro-Id": id, "Micro-Stream": id, "Micro-Error": "EOS"}
            await socket.send(Message(header))
        seen: dict[str, list[bytes]] = {"a": [], "b": [], "c": []}
        ends = set[str]()
        while len(ends) < 2 or not seen["c"]:
            message = await socket.recv()
            id = message.header["Micro-Id"]
            if message.header.get("Micro-Error") == "EOS":
                ends.add(id)
            else:
                seen[id].append(message.body)
        assert seen == {"a": [b"a0", b"a1", b"a2"], "b": [b"b0", b"b1", b"b2"], "c": [b"call"]}
        assert one.started == 2
        await socket.close()


# -- backpressure and leaving ----------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 50_000])
@over_both
@in_loop
async def test_a_handler_that_does_not_read_stops_the_sender(kind: str, size: int) -> None:
    """What is buffered is bounded in number and in bytes, and nothing of it is lost."""
    go, received = asyncio.Event(), list[bytes]()

    async def late(stream: RpcStream) -> None:
        await go.wait()
        async for item in items(stream):
            received.append(item)

    sent = 0

    async def send(stream: RpcStream) -> None:
        nonlocal sent
        for number in range(30_000 if size == 10 else 400):
            await stream.send(f"{number:010}".encode().ljust(size))
            sent += 1
        await stream.end()

    async with peer(kind, late) as one:
        stream = await one.open()
        sending = asyncio.create_task(send(stream))
        before = -1
        while before != sent:  # it stands still
            before = sent
            await asyncio.sleep(0.1)
        assert not sending.done()
        if kind == "memory":
            assert sent <= 2 * 128 + 2
            assert sent * size < (5 << 20)
        go.set()
        await sending
        with pytest.raises(StopAsyncIteration):
            await stream.recv()
        assert [int(item) for item in received] == list(range(len(received)))
        assert len(received) == sent


@pytest.mark.parametrize("size", [10, 100_000])
@over_both
@in_loop
async def test_a_client_that_leaves_a_full_stream_is_noticed(kind: str, size: int) -> None:
    async with peer(kind, stuck) as one:
        stream = await one.open()
        await fill(stream, size)
        start = time.monotonic()
        await stream.close()
        await until(lambda: one.cancelled == 1)
        assert time.monotonic() - start < 3.0  # 0.25 s, and a busy machine


@in_loop
async def test_a_client_that_dies_with_a_full_stream_is_noticed() -> None:
    """The server has stopped reading, and the end comes behind what it does not read."""
    code = """
import asyncio, sys
sys.path[:0] = [sys.argv[2]]
import test_mucp_streams as t
async def main():
    async with t.HttpTransport() as transport:
        client = t.MucpClient(transport=transport)
        stream = await client.open(t.Node("s", sys.argv[1]), t.RpcRequest("s", "S.S", "x/y"))
        for _ in range(170):
            await stream.send(10_000 * b"x")
        print("full", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    async with peer("http", stuck) as one:
        command = [sys.executable, "-c", code, one.node.address, os.path.dirname(__file__)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"full\n"
        child.kill()
        await child.wait()
        await until(lambda: one.cancelled == 1)


def paused(one: Peer) -> bool:
    listener = one.server._listener
    assert isinstance(listener, HttpListener)
    return all(socket._paused for socket in listener.connections)


@over_both
@in_loop
async def test_a_client_that_does_not_read_and_leaves_is_noticed(kind: str) -> None:
    async def flood(stream: RpcStream) -> None:
        while True:
            await stream.send(1000 * b"x")

    async with peer(kind, flood) as one:
        stream = await one.open()
        await stream.recv()
        await asyncio.sleep(0.2)  # for all buffers to fill
        await stream.close()
        await until(lambda: one.cancelled + one.ended >= 1)


@over_both
@in_loop
async def test_a_handler_that_fails_frees_a_sender_that_waits(kind: str) -> None:
    go = asyncio.Event()

    async def fail(_: RpcStream) -> None:
        await go.wait()
        raise BadRequest("enough")

    async with peer(kind, fail) as one:
        stream = await one.open()
        sending = asyncio.create_task(fill_up(stream, 10_000))
        await asyncio.sleep(0.2)
        assert not sending.done()
        go.set()
        with pytest.raises(BadRequest, match="enough"):
            await stream.recv()
        await asyncio.wait([sending])
        assert isinstance(sending.exception(), SocketClosed | None)
        assert one.started == 1


@over_both
@in_loop
async def test_the_server_s_end_frees_both_sides_of_a_full_stream(kind: str) -> None:
    async with peer(kind, stuck) as one:
        stream = await one.open()
        sending = asyncio.create_task(fill_up(stream, 10_000))
        await asyncio.sleep(0.2)
        await one.server.stop(0.0)
        with pytest.raises(MicroError):
            await sending
        assert one.cancelled == 1


@in_loop
async def test_a_call_to_a_frozen_server_ends_at_its_deadline() -> None:
    """Also with more to write than all the buffers take."""
    code = """
import asyncio, sys
sys.path[:0] = [sys.argv[1]]
import test_mucp_streams as t
async def main():
    async with t.peer("http", t.echo) as one:
        print(one.node.address, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, os.path.dirname(__file__)]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        node = Node("s", (await child.stdout.readline()).decode().strip())
        async with HttpTransport(max_body=64 << 20) as transport:
            client = MucpClient(transport=transport)
            await client.call(node, RpcRequest("s", "S.S", "x/y", b"hello"))
            child.send_signal(signal.SIGSTOP)
            for size in (10, 40 << 20):
                start = time.monotonic()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await client.call(node, RpcRequest("s", "S.S", "x/y", size * b"x"))
                assert time.monotonic() - start < 2.0
            await client.close()
    finally:
        child.kill()
        await child.wait()


async def fill(stream: RpcStream, size: int) -> None:
    """Send until nothing goes on."""
    try:
        async with asyncio.timeout(0.3) as timeout:
            while True:
                await stream.send(size * b"x")
                timeout.reschedule(asyncio.get_running_loop().time() + 0.3)
    except TimeoutError:
        pass


async def fill_up(stream: RpcStream, size: int) -> None:
    for _ in range(5000):
        await stream.send(size * b"x")


# -- size and number -------------------------------------------------------------------------


Body = Callable[[], Awaitable[object]]


async def ratio(times: int, one: Body, other: Body) -> float:
    """Processor time of the quickest ``one`` over that of the quickest ``other``, interleaved."""
    least = [float("inf"), float("inf")]
    for _ in range(times):
        for number, body in enumerate((one, other)):
            gc.collect()
            start = time.process_time()
            await body()
            least[number] = min(least[number], time.process_time() - start)
    return least[0] / least[1]


@over_both
@in_loop
async def test_a_byte_of_a_long_body_costs_no_more(kind: str) -> None:
    """Both lengths are beyond the processor's caches, which make 1 MB cheaper still."""
    async with peer(kind, echo, max_body=16 << 20) as one:

        async def call(size: int, number: int) -> None:
            for _ in range(number):
                assert len((await one.call(bytes(size))).body) == size

        costs = await ratio(10, lambda: call(10 << 20, 1), lambda: call(10 << 18, 4))
        print(f"{kind}: 10 MB costs {costs:.2f} of four times 2.5 MB")
        assert costs <= 2.5  # what grows with the square costs 4


@over_both
@in_loop
async def test_a_stream_among_a_thousand_costs_no_more(kind: str) -> None:
    async with peer(kind, echo) as one:

        async def talk() -> None:
            stream = await one.open()
            for number in range(3):
                await stream.send(str(number).encode())
                assert await stream.recv() == str(number).encode()
            await stream.end()
            with pytest.raises(StopAsyncIteration):
                await stream.recv()
            await stream.close()

        async def together(number: int) -> None:
            before = one.started
            await asyncio.gather(*[talk() for _ in range(number)])
            assert one.started == before + number

        async def ten_times() -> None:
            for _ in range(10):
                await together(100)

        await together(100)
        costs = await ratio(3, lambda: together(1000), ten_times)
        print(f"{kind}: a stream of 1,000 costs {costs:.2f} of one of 100")
        assert costs <= 2
