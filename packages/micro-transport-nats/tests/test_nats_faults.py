"""The connection to NATS is lost, frozen or refused; peers die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats as native
import pytest
from in_loops import in_loop, until

from micro_conformance.proxy import ChaosProxy
from micro_core import BackendUnavailable, Message, MicroError, SocketClosed
from micro_core.transport.base import Socket
from micro_transport_nats import NatsTransport


@pytest.fixture
def nats(server_address) -> str:
    return server_address("nats")


@asynccontextmanager
async def behind(nats: str, **options: float) -> AsyncIterator[tuple[ChaosProxy, NatsTransport]]:
    """A transport whose way to the server can be broken."""
    async with ChaosProxy(nats) as proxy, NatsTransport(proxy.address, **options) as transport:
        yield proxy, transport


async def echo(socket: Socket) -> None:
    while True:
        await socket.send(await socket.recv())


async def silent(socket: Socket) -> None:
    await asyncio.Event().wait()


async def asked(socket: Socket, body: bytes) -> bytes:
    await socket.send(Message({}, body))
    return (await socket.recv()).body


async def asked_again(transport: NatsTransport, address: str) -> None:
    """Dials and asks until that works."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(MicroError):
                assert await asked(await transport.dial(address), b"again") == b"again"
                return
            await asyncio.sleep(0.01)


@in_loop
async def test_pending_calls_fail_at_once_and_new_ones_work(nats: str) -> None:
    async with behind(nats) as (proxy, caller), NatsTransport(nats) as other:
        quiet, speaking = await other.listen("", silent), await other.listen("", echo)
        pending = [
            asyncio.create_task(asked(await caller.dial(quiet.address), b"1")) for _ in range(100)
        ]
        idle = await caller.dial(speaking.address)
        assert await asked(idle, b"2") == b"2"
        assert not any(task.done() for task in pending)
        begin = asyncio.get_running_loop().time()
        proxy.reset()
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert asyncio.get_running_loop().time() - begin < 1
        assert {(type(r), r.happened) for r in results} == {(SocketClosed, "maybe")}
        assert idle.closed
        with pytest.raises(SocketClosed) as caught:
            await idle.send(Message({}, b"3"))
        assert caught.value.happened == "no"
        assert caller.health().state == "lost" or caller.health().reconnects
        await asked_again(caller, speaking.address)
        asking = [asked(await caller.dial(speaking.address), b"%d" % n) for n in range(100)]
        assert await asyncio.gather(*asking) == [b"%d" % n for n in range(100)]
        assert caller.health().state == "connected"
        assert caller.health().reconnects == 1


@in_loop
async def test_a_listener_is_back_at_its_address(nats: str) -> None:
    ended: asyncio.Queue[BaseException] = asyncio.Queue()

    async def serve(socket: Socket) -> None:
        try:
            await echo(socket)
        except BaseException as error:
            ended.put_nowait(error)
            raise

    async with behind(nats) as (proxy, server), NatsTransport(nats) as caller:
        listener = await server.listen("", serve)
        socket = await caller.dial(listener.address)
        assert await asked(socket, b"1") == b"1"
        waiting = asyncio.create_task(socket.recv())
        proxy.reset()
        assert isinstance(await ended.get(), SocketClosed)
        with pytest.raises(SocketClosed):  # told after the reconnect, as it might have missed some
            await waiting
        await asked_again(caller, listener.address)


@in_loop
async def test_a_peer_that_goes_on_in_an_ended_socket_is_not_taken_for_a_new_one(nats: str) -> None:
    """By a client of its own, which goes on whatever it was told."""
    served: list[bytes] = []

    async def once(socket: Socket) -> None:
        served.append((await socket.recv()).body)

    peer = await native.connect(nats)
    async with NatsTransport(nats) as transport:
        listener = await transport.listen("", once)
        inbox = peer.new_inbox()
        told = await peer.subscribe(inbox)
        for body in (b'{"Body":"MQ=="}', b'{"Body":"Mg=="}', b'{"Body":"Mw=="}'):
            await peer.publish(listener.address, body, reply=inbox)
            assert (await told.next_msg(5)).data == b""
        assert served == [b"1"]
    await peer.close()


@in_loop
async def test_a_frozen_server_is_noticed(nats: str) -> None:
    async with behind(nats, ping_interval=0.2) as (proxy, caller), NatsTransport(nats) as other:
        listener = await other.listen("", silent)
        pending = asyncio.create_task(asked(await caller.dial(listener.address), b"1"))
        await asyncio.sleep(0.1)
        proxy.freeze()
        with pytest.raises(SocketClosed):
            async with asyncio.timeout(2):
                await pending
        proxy.thaw()
        echoing = await other.listen("", echo)
        await asked_again(caller, echoing.address)


@in_loop
async def test_sending_into_a_frozen_server_waits_in_bounds_and_ends(nats: str) -> None:
    async with behind(nats, ping_interval=0.5) as (proxy, caller), NatsTransport(nats) as other:
        listener = await other.listen("", silent)
        socket = await caller.dial(listener.address)
        proxy.freeze()
        sent = 0
        with pytest.raises(SocketClosed):
            async with asyncio.timeout(5):
                while sent < 1000:
                    await socket.send(Message({}, bytes(1 << 16)))
                    sent += 1
        assert sent < 400  # 1 MiB here, and what the proxy and the kernel hold


@in_loop
async def test_close_is_bounded_while_the_server_is_frozen(nats: str) -> None:
    async with ChaosProxy(nats) as proxy:
        transport = NatsTransport(proxy.address)
        await transport.connect()
        socket = await transport.dial((await transport.listen("", silent)).address)
        proxy.freeze()
        for _ in range(10):
            await socket.send(Message({}, bytes(1 << 16)))
        async with asyncio.timeout(5):
            await transport.close()
        proxy.thaw()


@in_loop
async def test_a_cancelled_send_that_waits_ends_its_socket(nats: str) -> None:
    async with behind(nats, ping_interval=30) as (proxy, caller):
        socket = await caller.dial((await caller.listen("", silent)).address)
        proxy.freeze()

        async def flood() -> None:
            while True:
                await socket.send(Message({}, bytes(1 << 16)))

        sending = asyncio.create_task(flood())
        await asyncio.sleep(0.3)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        assert socket.closed
        proxy.thaw()


@in_loop
async def test_no_server_is_unavailable(nats: str) -> None:
    transport = NatsTransport("127.0.0.1:1")
    with pytest.raises(BackendUnavailable, match="refused|Connect call failed") as caught:
        await transport.connect()
    assert isinstance(caught.value.__cause__, OSError)
    async with NatsTransport("127.0.0.1:1", nats) as transport:  # the next address
        assert transport.health().state == "connected"


@in_loop
async def test_dialling_without_a_connection_is_unavailable(nats: str) -> None:
    async with behind(nats) as (proxy, caller):
        proxy.refuse()
        proxy.reset()
        await until(lambda: caller.health().state == "lost")
        with pytest.raises(BackendUnavailable, match="lost its connection"):
            await caller.dial("anything")


PEER = """
import asyncio, sys
from micro_core import Message
from micro_transport_nats import NatsTransport

async def silent(socket):
    await asyncio.Event().wait()

async def main():
    async with NatsTransport(sys.argv[1]) as transport:
        if len(sys.argv) == 2:
            print((await transport.listen("", silent)).address, flush=True)
        else:
            socket = await transport.dial(sys.argv[2])
            await socket.send(Message({}, b"hello"))
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def peer(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that listens, or that dials and then says nothing."""
    command = (sys.executable, "-c", PEER, *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


@in_loop
async def test_a_killed_server_process_is_noticed_by_who_waits(nats: str) -> None:
    async with NatsTransport(nats, ping_interval=0.2) as caller, peer(nats) as process:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        pending = asyncio.create_task(asked(await caller.dial(address), b"1"))
        await asyncio.sleep(0.5)
        assert not pending.done()  # asking whether the peer lives did it no harm
        process.kill()
        with pytest.raises(SocketClosed) as caught:
            async with asyncio.timeout(3):
                await pending
        assert caught.value.happened == "maybe"


@in_loop
async def test_a_killed_client_process_is_noticed_by_its_server(nats: str) -> None:
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def serve(socket: Socket) -> None:
        await socket.recv()
        begun.set()
        try:
            await socket.recv()
        except BaseException as error:
            ended.set_result(error)
            raise

    async with NatsTransport(nats, ping_interval=0.2) as server:
        listener = await server.listen("", serve)
        async with peer(nats, listener.address) as process:
            await begun.wait()
            await asyncio.sleep(0.5)
            assert not ended.done()
            process.kill()
            async with asyncio.timeout(3):
                assert isinstance(await ended, SocketClosed)


@in_loop
async def test_idle_sockets_end_and_busy_ones_do_not(nats: str) -> None:
    accepted: asyncio.Queue[Socket] = asyncio.Queue()

    async def serve(socket: Socket) -> None:
        accepted.put_nowait(socket)
        await silent(socket)

    async with NatsTransport(nats, idle_timeout=0.3, ping_interval=0.1) as server:
        async with NatsTransport(nats) as caller:
            listener = await server.listen("", serve)
            idle, busy = await caller.dial(listener.address), await caller.dial(listener.address)
            await busy.send(Message({}, b"busy"))
            (await accepted.get()).busy = True
            await idle.send(Message({}, b"idle"))
            await until(lambda: idle.closed)
            assert not busy.closed


@in_loop
async def test_nothing_is_printed_or_logged_as_an_error(
    nats: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with behind(nats) as (proxy, caller), NatsTransport(nats) as other:
        listener = await other.listen("", echo)
        proxy.reset()
        await until(lambda: caller.health().state == "lost")
        await asked_again(caller, listener.address)
    records = [r for r in caplog.records if r.name != "asyncio"]  # the proxy's
    assert [(r.name, r.levelname) for r in records] == [
        ("micro.nats", "WARNING"),
        ("micro.nats", "INFO"),
    ]
    assert capfd.readouterr() == ("", "")
