"""The chaos proxy does to a connection what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from micro_conformance.proxy import ChaosProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[ChaosProxy]:
    """A proxy before a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server, ChaosProxy(f"{host}:{port}") as proxy:
        yield proxy
    leftovers = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(100):
        await asyncio.sleep(0)
        leftovers = {task for task in leftovers if not task.done()}
    assert not leftovers


@asynccontextmanager
async def connected(proxy: ChaosProxy) -> AsyncIterator[Streams]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _in_loop(body: Callable[[ChaosProxy], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(20), echo() as proxy:
                await body(proxy)

        asyncio.run(main())

    return run


async def ask(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await reader.readexactly(len(data))


@_in_loop
async def test_it_passes_everything_on(proxy: ChaosProxy) -> None:
    data = bytes(range(256)) * 4000
    async with connected(proxy) as streams:
        assert await ask(streams, data) == data
        streams[1].write_eof()
        assert await streams[0].read() == b""
    assert proxy.connections == 1


@_in_loop
async def test_frozen_it_holds_back_and_loses_nothing(proxy: ChaosProxy) -> None:
    async with connected(proxy) as streams:
        assert await ask(streams, b"a") == b"a"
        proxy.freeze()
        asking = asyncio.create_task(ask(streams, b"b"))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        proxy.thaw()
        assert await asking == b"b"


@_in_loop
async def test_it_cuts_after_so_many_bytes(proxy: ChaosProxy) -> None:
    async with connected(proxy) as (reader, writer):
        proxy.cut(after=10)
        writer.write(b"0123456789abcdef")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(16)
    proxy.accept()
    async with connected(proxy) as streams:
        assert await ask(streams, b"again") == b"again"


@_in_loop
async def test_it_refuses_until_told_otherwise(proxy: ChaosProxy) -> None:
    async with connected(proxy) as streams:
        assert await ask(streams, b"a") == b"a"
        proxy.refuse()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask(streams, b"b")
    async with connected(proxy) as streams:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask(streams, b"c")
    proxy.accept()
    async with connected(proxy) as streams:
        assert await ask(streams, b"d") == b"d"


@_in_loop
async def test_slow_and_sliced_it_still_passes_everything_on(proxy: ChaosProxy) -> None:
    proxy.slice, proxy.rate, proxy.delay, proxy.jitter = 100, 200_000, 0.0001, 0.0002
    data = bytes(range(256)) * 40
    loop = asyncio.get_running_loop()
    async with connected(proxy) as streams:
        begin = loop.time()
        assert await ask(streams, data) == data
        assert loop.time() - begin >= len(data) / proxy.rate


@_in_loop
async def test_a_target_that_is_away_is_a_reset(proxy: ChaosProxy) -> None:
    async with ChaosProxy("127.0.0.1:1") as lost, connected(lost) as streams:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask(streams, b"a")
    assert proxy.connections == 0
