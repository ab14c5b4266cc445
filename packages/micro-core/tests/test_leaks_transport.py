"""What transports and the mucp pair leave behind: nothing, also when cancelled or frozen out."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hostile_server import Victim
from in_loops import in_loop, until

from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.client.mucp import MucpClient
from micro_core.errors import MicroError
from micro_core.message import Message
from micro_core.registry.records import Node
from micro_core.server.mucp import MucpServer
from micro_core.transport.base import Listener, Socket, Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport

TIMES = 1_000
REQUEST = RpcRequest("s", "S.S", "application/octet-stream", b"hello")
over_both = pytest.mark.parametrize("kind", ["memory", "http"])


def made(kind: str) -> tuple[Transport, str]:
    return (MemoryTransport(), "") if kind == "memory" else (HttpTransport(), "127.0.0.1:0")


async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
    if stream is not None:
        with suppress(StopAsyncIteration):
            while True:
                await stream.send(await stream.recv())
    return RpcResponse(request.content_type, request.body)


@asynccontextmanager
async def served(kind: str) -> AsyncIterator[tuple[MucpClient, Node, Transport]]:
    transport, address = made(kind)
    async with transport:
        server, client = MucpServer(transport=transport), MucpClient(transport=transport)
        try:
            yield client, Node("s-1", await server.start(address, dispatch)), transport
        finally:
            await client.close()
            await server.stop(0.0)


def things() -> tuple[int, int, int]:
    """Tasks, threads and descriptors."""
    gc.collect()
    return len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/proc/self/fd"))


# -- C26 ---------------------------------------------------------------------------------------


@over_both
@in_loop
async def test_five_hundred_cycles_leave_nothing(kind: str) -> None:
    async def cycle() -> None:
        async with served(kind) as (client, node, transport):
            assert (await client.call(node, REQUEST)).body == b"hello"
            stream = await client.open(node, REQUEST)
            await stream.send(b"x")
            assert await stream.recv() == b"x"
            await stream.close()
            await (await transport.dial(node.address)).close()

    await cycle()
    before = things()
    for _ in range(500):
        await cycle()
    await until(lambda: things() == before)


# -- C27 ---------------------------------------------------------------------------------------


@pytest.fixture
def frozen() -> Iterator[Victim]:
    victim = Victim()
    try:
        yield victim
    finally:
        os.kill(victim.process.pid, signal.SIGCONT)
        victim.stop()
        victim.log.close()


@in_loop
async def test_closing_is_bounded_while_the_other_side_is_frozen(
    frozen: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_core.transport.http_socket._FLUSH", 0.5)
    transport = HttpTransport(max_body=64 << 20)
    await transport.connect()
    client = MucpClient(transport=transport)
    node = Node("s-1", frozen.rpc)
    stream = await client.open(node, REQUEST)
    sockets = [await transport.dial(node.address) for _ in range(3)]
    await client.call(node, REQUEST)  # its connection is in the pool
    os.kill(frozen.process.pid, signal.SIGSTOP)
    for socket in sockets:
        await socket.send(Message({}, bytes(40 << 20)))  # more than the kernel takes
    closes: list[Callable[[], Awaitable[None]]] = [
        sockets[0].close,
        sockets[1].abort,
        stream.close,
        client.close,
        transport.close,
    ]
    for close in closes:
        start = time.monotonic()
        await close()
        await close()
        assert time.monotonic() - start < 3.0
    assert all(socket.closed for socket in sockets)


@in_loop
async def test_a_listener_closes_in_bounded_time_while_its_clients_are_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They have connected, asked for more than the kernel takes, and do not read."""
    monkeypatch.setattr("micro_core.transport.http_server._CLOSE", 0.5)
    go = asyncio.Event()

    async def flood(socket: Socket) -> None:
        while True:
            go.set()
            await socket.send(Message({}, bytes(1 << 20)))

    async with HttpTransport() as transport:
        listener = await transport.listen("127.0.0.1:0", flood)
        host, port = listener.address.split(":")
        code = f"import socket,time; s=socket.create_connection(({host!r},{port})); time.sleep(60)"
        child = await asyncio.create_subprocess_exec("python3", "-c", code)
        try:
            await go.wait()
            child.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.1)
            start = time.monotonic()
            await listener.close()
            await listener.close()
            assert time.monotonic() - start < 4.0
        finally:
            child.kill()
            await child.wait()


# -- C28 ---------------------------------------------------------------------------------------

Await = Callable[[], Awaitable[object]]


class Storm:
    """Cancels an operation in the very turn of the loop in which it would have returned."""

    def __init__(self) -> None:
        self.cancelled = self.returned = self.failed = self.swallowed = 0

    async def strike(self, operation: Await, turns: int) -> None:
        """Cancel after so many turns; counts a cancellation after which the task went on."""
        went_on = False

        async def work() -> None:
            nonlocal went_on
            with suppress(MicroError, StopAsyncIteration):
                await operation()
            await asyncio.sleep(0)  # here a cancellation that came too late is delivered
            went_on = True

        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        asked = task.cancel()
        await asyncio.wait([task])
        if not asked:
            self.returned += 1
        elif task.cancelled():
            self.cancelled += 1
        elif task.exception() is not None:
            self.failed += 1
        else:
            self.swallowed += went_on


async def turns_of(prepare: Callable[[], Awaitable[Await]]) -> int:
    """How many turns of the loop the operation takes."""
    operation = await prepare()
    task = asyncio.ensure_future(operation())
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await asyncio.wait([task])
    task.exception()
    return turns


@asynccontextmanager
async def echoing(kind: str) -> AsyncIterator[tuple[Transport, Listener]]:
    async def echo(socket: Socket) -> None:
        while True:
            await socket.send(await socket.recv())

    transport, address = made(kind)
    async with transport:
        listener = await transport.listen(address, echo)
        yield transport, listener
        await listener.close()


async def storm(
    prepare: Callable[[], Awaitable[Await]], clean: Callable[[], Awaitable[Any]]
) -> Storm:
    """Strike ``TIMES`` times around the turn in which the operation is done."""
    one = Storm()
    turns = await turns_of(prepare)
    await clean()
    for number in range(TIMES):
        operation = await prepare()
        await one.strike(operation, max(0, turns - 3 + number % 6) if number % 2 else turns)
        await clean()
    print(f"{turns} turns: {vars(one)}")
    assert one.swallowed == 0
    assert one.failed == 0
    assert one.cancelled
    return one


@pytest.mark.parametrize("operation", ["recv", "send", "dial", "close", "listen"])
@over_both
@in_loop
async def test_no_cancellation_of_a_transport_is_swallowed(  # noqa: C901
    kind: str, operation: str
) -> None:
    async with echoing(kind) as (transport, listener):
        open_: list[Any] = []

        async def nothing(_: Socket) -> None:
            await asyncio.Event().wait()

        async def listen() -> None:
            open_.append(await transport.listen("" if kind == "memory" else "127.0.0.1:0", nothing))

        async def dial() -> None:
            open_.append(await transport.dial(listener.address))

        async def prepare() -> Await:
            if operation in ("dial", "listen"):
                return dial if operation == "dial" else listen
            socket = await transport.dial(listener.address)
            open_.append(socket)
            if operation == "recv":
                await socket.send(Message({}, b"hello"))
            if operation == "send":
                return lambda: socket.send(Message({}, b"hello"))
            return socket.recv if operation == "recv" else socket.close

        async def clean() -> None:
            while open_:
                await open_.pop().close()

        before = things()
        await storm(prepare, clean)
        await until(lambda: things() == before)


@pytest.mark.parametrize("operation", ["call", "open", "recv", "send", "end", "close"])
@over_both
@in_loop
async def test_no_cancellation_of_rpc_is_swallowed(  # noqa: C901
    kind: str, operation: str
) -> None:
    async with served(kind) as (client, node, _):
        open_: list[RpcStream] = []

        async def open_one() -> RpcStream:
            open_.append(await client.open(node, REQUEST))
            return open_[-1]

        async def prepare() -> Await:
            if operation == "call":
                return lambda: client.call(node, REQUEST)
            if operation == "open":
                return open_one
            stream = await open_one()
            if operation == "recv":
                await stream.send(b"hello")
            if operation == "send":
                return lambda: stream.send(b"hello")
            return getattr(stream, operation)  # type: ignore[no-any-return]

        async def clean() -> None:
            while open_:
                await open_.pop().close()

        await client.call(node, REQUEST)
        await storm(prepare, clean)
        for number in range(20):  # no answer of another's call
            body = str(number).encode()
            request = RpcRequest("s", "S.S", "x/y", body)
            assert (await client.call(node, request)).body == body
