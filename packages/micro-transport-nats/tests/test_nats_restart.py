"""A real server that is killed, and one that is frozen; prints what was measured."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from micro_conformance.backend import ComposeBackend
from micro_core import MicroError, SocketClosed
from micro_core.transport.base import Message, Socket
from micro_transport_nats import NatsTransport

Record = Callable[[str, float, float], None]


@pytest.fixture
def backend(compose_files: list[str]) -> Iterator[ComposeBackend]:
    async def ready(address: str) -> None:
        async with NatsTransport(address):
            pass

    server = ComposeBackend("nats", 4222, files=compose_files, ready=ready)
    asyncio.run(server.__aenter__())
    yield server
    asyncio.run(server.__aexit__(None, None, None))


async def serve(socket: Socket) -> None:
    """Answers all but what says ``wait``."""
    while True:
        message = await socket.recv()
        if message.body != b"wait":
            await socket.send(message)


async def asked(transport: NatsTransport, address: str, body: bytes) -> bytes:
    socket = await transport.dial(address)
    try:
        await socket.send(Message({}, body))
        return (await socket.recv()).body
    finally:
        await socket.close()


def test_pending_calls_end_and_the_next_hundred_work(
    backend: ComposeBackend, record: Record
) -> None:
    async def body() -> None:
        async with (
            NatsTransport(backend.address, ping_interval=0.5) as server,
            NatsTransport(backend.address, ping_interval=0.5) as caller,
        ):
            listener = await server.listen("", serve)
            for fault, mend in (
                (backend.kill, backend.start),
                (backend.pause, backend.resume),
            ):
                await _outage(caller, listener.address, fault, mend, record)

    asyncio.run(body())


async def _outage(caller, address, fault, mend, record) -> None:  # type: ignore[no-untyped-def]
    name = fault.__name__
    ended: list[float] = []
    pending = [asyncio.create_task(asked(caller, address, b"wait")) for _ in range(100)]
    for task in pending:
        task.add_done_callback(lambda _: ended.append(time.monotonic()))
    assert await asked(caller, address, b"x") == b"x"
    await asyncio.sleep(0.1)
    assert ended == []
    begin = time.monotonic()
    failing = asyncio.gather(*pending, return_exceptions=True)
    await fault()
    done = time.monotonic()
    async with asyncio.timeout(10):
        results = await failing
    assert {type(result) for result in results} == {SocketClosed}
    record(f"{name}: the last of 100 pending calls ends, s", max(ended) - begin, done - begin + 2.0)
    await mend()
    begin = time.monotonic()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(MicroError):
                async with asyncio.timeout(1):
                    await asked(caller, address, b"x")
                    break
            await asyncio.sleep(0.01)
    record(f"{name}: calls work again, s", time.monotonic() - begin, 5.0)
    asking = [asked(caller, address, b"%d" % n) for n in range(100)]
    assert await asyncio.gather(*asking) == [b"%d" % n for n in range(100)]
