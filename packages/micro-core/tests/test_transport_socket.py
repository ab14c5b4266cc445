"""What every transport of the core promises of its sockets and listeners, over both loops."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from in_loops import until

from micro_core.errors import (
    BackendUnavailable,
    InvalidName,
    MessageTooLarge,
    SocketClosed,
)
from micro_core.message import Message
from micro_core.transport.base import Listener, Serve, Socket, Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport

ANY = {"http": "127.0.0.1:0", "memory": ""}


def every(body: Callable[..., Awaitable[None]]) -> Any:
    """Run the coroutine for each transport and loop; it must leave no task behind."""

    @pytest.mark.parametrize("kind", ["http", "http-uvloop", "memory"])
    @functools.wraps(body)
    def test(kind: str, **fixtures: object) -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                await body(kind.removesuffix("-uvloop"), **fixtures)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        factory = None
        if kind.endswith("-uvloop"):
            factory = pytest.importorskip("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return test


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not read delays close by this long."""
    monkeypatch.setattr("micro_core.transport.http_socket._FLUSH", 0.2)


def make(kind: str, **options: Any) -> Transport:
    return HttpTransport(**options) if kind == "http" else MemoryTransport(**options)


@asynccontextmanager
async def listening(
    kind: str, serve: Serve, **options: Any
) -> AsyncIterator[tuple[Transport, Listener]]:
    async with make(kind, **options) as transport:
        listener = await transport.listen(ANY[kind], serve)
        try:
            yield transport, listener
        finally:
            await listener.close()


@asynccontextmanager
async def linked(kind: str, **options: Any) -> AsyncIterator[tuple[Socket, Socket]]:
    """Both ends of a socket, the dialling one first."""
    accepted: asyncio.Queue[Socket] = asyncio.Queue()

    async def serve(socket: Socket) -> None:
        accepted.put_nowait(socket)
        await asyncio.Event().wait()

    async with listening(kind, serve, **options) as (transport, listener):
        client = await transport.dial(listener.address)
        try:
            yield client, await accepted.get()
        finally:
            await client.close()


async def echo(socket: Socket) -> None:
    while True:
        await socket.send(await socket.recv())


# -- messages ------------------------------------------------------------------------------------


@every
async def test_messages_pass_whole_in_both_directions(kind: str) -> None:
    sent = [
        Message({"Micro-Id": "1", "Content-Type": "application/json"}, b'{"a":1}\n'),
        Message({}, b""),
        Message({"Name": "Жанна 👋", "Empty": ""}, bytes(range(256))),
        Message({"Tab": "a\tb", "No-Break": "a\u00a0b"}, b"x" * 300_000),
    ]
    async with linked(kind) as (client, server):
        for one, other in ((client, server), (server, client)):
            for message in sent:
                await one.send(message)
            assert [await other.recv() for _ in sent] == sent


@every
async def test_header_names_arrive_canonical(kind: str) -> None:
    async with linked(kind) as (client, server):
        await client.send(Message({"micro-id": "7", "CONTENT-TYPE": "text/plain", "x": "y"}))
        assert (await server.recv()).header == {
            "Micro-Id": "7",
            "Content-Type": "text/plain",
            "X": "y",
        }


@every
async def test_sides_share_no_header(kind: str) -> None:
    async with linked(kind) as (client, server):
        message = Message({"Micro-Id": "1"})
        await client.send(message)
        message.header["Micro-Id"] = "2"
        received = await server.recv()
        received.header["Other"] = "3"
        assert received.header == {"Micro-Id": "1", "Other": "3"}
        assert message.header == {"Micro-Id": "2"}


@every
async def test_directions_are_not_paired(kind: str) -> None:
    async with linked(kind) as (client, server):
        for number in range(5):
            await client.send(Message({}, b"up %d" % number))
        for number in range(3):
            await server.send(Message({}, b"down %d" % number))
        assert [(await client.recv()).body for _ in range(3)] == [b"down 0", b"down 1", b"down 2"]
        assert [(await server.recv()).body for _ in range(5)][-1] == b"up 4"
        await server.send(Message({}, b"down 3"))
        assert (await client.recv()).body == b"down 3"


@every
async def test_several_tasks_may_send_at_once(kind: str) -> None:
    async with linked(kind) as (client, server):

        async def send(number: int) -> None:
            for _ in range(20):
                await client.send(Message({"N": str(number)}, b"%d" % number * 20_000))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(send(number))
            for _ in range(160):
                message = await server.recv()
                assert message.body == message.header["N"].encode() * 20_000


@every
async def test_many_messages_keep_their_order(kind: str) -> None:
    async with listening(kind, echo) as (transport, listener):
        client = await transport.dial(listener.address)

        async def send() -> None:
            for number in range(2000):
                await client.send(Message({"N": str(number)}, b"%d" % number))

        sender = asyncio.create_task(send())
        assert [int((await client.recv()).body) for _ in range(2000)] == list(range(2000))
        await sender


# -- refusals before sending ---------------------------------------------------------------------


@every
async def test_a_refused_message_leaves_the_socket_usable(kind: str) -> None:
    async with linked(kind, max_body=100) as (client, server):
        with pytest.raises(MessageTooLarge, match="101.*max_body") as caught:
            await client.send(Message({}, b"x" * 101))
        assert caught.value.happened == "no"
        for name, value in [
            ("Split", "a\r\nEvil: b"),
            ("Line", "a\nb"),
            ("Return", "a\rb"),
            ("Nul", "a\0b"),
            ("Na me", "a"),
            ("Na:me", "a"),
            ("Name\r\nEvil", "a"),
            ("", "a"),
            ("Naïve", "a"),
        ]:
            with pytest.raises(InvalidName) as invalid:
                await client.send(Message({"Good": "1", name: value}))
            assert invalid.value.happened == "no"
        await client.send(Message({"Good": "1"}, b"x" * 100))
        assert (await server.recv()).body == b"x" * 100


# -- the end -------------------------------------------------------------------------------------


@every
async def test_what_was_sent_before_the_end_is_received_first(kind: str) -> None:
    async with linked(kind) as (client, server):
        for number in range(3):
            await client.send(Message({}, b"%d" % number))
        await client.close()
        await until(lambda: server.closed)
        assert [(await server.recv()).body for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(SocketClosed):
            await server.recv()
        with pytest.raises(SocketClosed) as caught:
            await server.send(Message({}, b"late"))
        assert caught.value.happened == "no"


@every
async def test_a_waiting_recv_learns_that_the_peer_has_gone(kind: str) -> None:
    async with linked(kind) as (client, server):
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        assert not client.closed
        await server.close()
        with pytest.raises(SocketClosed):
            await waiting
        assert client.closed


@every
async def test_closed_turns_true_with_nobody_receiving(kind: str) -> None:
    async with linked(kind) as (client, server):
        await server.close()
        await until(lambda: client.closed)


@every
async def test_close_is_idempotent_and_wakes_who_waits(kind: str) -> None:
    async with linked(kind) as (client, _):
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        await asyncio.gather(client.close(), client.close())
        await client.close()
        for receiving in (waiting, client.recv()):
            with pytest.raises(SocketClosed):
                await receiving
        with pytest.raises(SocketClosed):
            await client.send(Message())


@every
async def test_a_cancelled_recv_ends_the_socket(kind: str) -> None:
    async with linked(kind) as (client, server):
        receiving = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving
        assert receiving.cancelled()
        assert client.closed
        with pytest.raises(SocketClosed):
            await server.recv()


class Late(deque[Message]):
    """An inbox that has its receiver cancelled between the message and the receiver's turn."""

    def __init__(self, receiving: asyncio.Task[Message]) -> None:
        super().__init__()
        self._receiving = receiving

    def append(self, message: Message) -> None:
        super().append(message)
        asyncio.get_running_loop().call_soon(self._receiving.cancel)


@every
async def test_a_recv_cancelled_as_its_message_comes_hands_it_to_nobody(kind: str) -> None:
    async with linked(kind) as (client, server):
        receiving = asyncio.create_task(client.recv())
        client._inbox = Late(receiving)  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        await server.send(Message({}, b"answer"))
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        assert client.closed
        with pytest.raises(SocketClosed):
            await client.recv()


@every
async def test_only_one_task_may_receive(kind: str) -> None:
    async with linked(kind) as (client, server):
        receiving = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await client.recv()
        await server.send(Message({}, b"for the first"))
        assert (await receiving).body == b"for the first"


# -- backpressure --------------------------------------------------------------------------------


@every
async def test_send_waits_while_the_peer_does_not_read(kind: str) -> None:
    body = b"x" * 500_000
    async with linked(kind) as (client, server):
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(100):
                await client.send(Message({"N": str(number)}, body))
                sent += 1

        sending = asyncio.create_task(send())
        seen = -1
        while sent != seen:  # until it moves no more
            seen = sent
            await asyncio.sleep(0.1)
        assert not sending.done()
        assert sent < 60  # what the kernel's buffers take, too
        assert server._held <= 2 * 2**20  # type: ignore[attr-defined]
        for number in range(100):
            assert (await server.recv()).header == {"N": str(number)}
        await sending


@every
async def test_small_unread_messages_are_bounded_in_number(kind: str) -> None:
    async with linked(kind) as (client, server):
        sending = asyncio.create_task(_send_small(client, 100_000))
        inbox = server._inbox  # type: ignore[attr-defined]
        seen = -1
        while len(inbox) != seen:
            seen = len(inbox)
            await asyncio.sleep(0.1)
        assert not sending.done()
        assert len(inbox) < 8000  # one read of the kernel's buffer beyond the bound
        sending.cancel()
        await asyncio.wait([sending])


async def _send_small(socket: Socket, count: int) -> None:
    for _ in range(count):
        await socket.send(Message({}, b"x"))


@every
async def test_a_cancelled_send_ends_the_socket(kind: str) -> None:
    async with linked(kind) as (client, server):
        sending = asyncio.create_task(_send_forever(client))
        await _stuck(client, server)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        assert client.closed


@every
async def test_a_waiting_send_learns_that_the_peer_has_gone(kind: str) -> None:
    async with linked(kind) as (client, server):
        sending = [asyncio.create_task(_send_forever(client)) for _ in range(3)]
        await _stuck(client, server)
        await server.close()
        await asyncio.wait(sending)
        for task in sending:
            error = task.exception()
            assert isinstance(error, SocketClosed)
            assert error.happened == "no"  # of the message that waited


async def _send_forever(socket: Socket) -> None:
    while True:
        await socket.send(Message({}, b"x" * 200_000))


async def _stuck(client: Socket, server: Socket) -> None:
    """Until a sender waits."""
    await until(lambda: bool(getattr(client, "_blocked", None) or getattr(server, "_senders", ())))


# -- listeners -----------------------------------------------------------------------------------


@every
async def test_serve_that_returns_ends_its_socket(kind: str) -> None:
    async def serve(socket: Socket) -> None:
        await socket.send(await socket.recv())

    async with listening(kind, serve) as (transport, listener):
        client = await transport.dial(listener.address)
        await client.send(Message({}, b"once"))
        assert (await client.recv()).body == b"once"
        with pytest.raises(SocketClosed):
            await client.recv()


@every
async def test_serve_that_raises_is_logged_and_ends_its_socket(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(socket: Socket) -> None:
        await socket.recv()
        raise ZeroDivisionError("a bug")

    async with listening(kind, serve) as (transport, listener):
        client = await transport.dial(listener.address)
        await client.send(Message())
        with pytest.raises(SocketClosed):
            await client.recv()
        other = await transport.dial(listener.address)
        assert not other.closed
    assert [record.name for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"micro.transport.{kind}"
    ]
    assert "a bug" in caplog.text


@every
async def test_closing_a_listener_ends_its_tasks_and_sockets(kind: str) -> None:
    cancelled: list[Socket] = []

    async def serve(socket: Socket) -> None:
        try:
            await socket.recv()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(socket)
            raise

    async with listening(kind, serve) as (transport, listener):
        clients = [await transport.dial(listener.address) for _ in range(3)]
        for client in clients:
            await client.send(Message())
        late = await transport.dial(listener.address)  # its task may not have run yet
        await until(lambda: True)
        await asyncio.gather(listener.close(), listener.close())
        await listener.close()
        for client in (*clients, late):
            with pytest.raises(SocketClosed):
                await client.recv()
        with pytest.raises(BackendUnavailable):
            await transport.dial(listener.address)
    assert len(cancelled) >= 3


@every
async def test_a_listener_may_be_closed_by_one_it_serves(kind: str) -> None:
    listeners: list[Listener] = []
    done = asyncio.Event()

    async def serve(socket: Socket) -> None:
        await socket.recv()
        await listeners[0].close()
        done.set()

    async with listening(kind, serve) as (transport, listener):
        listeners.append(listener)
        client = await transport.dial(listener.address)
        await client.send(Message())
        await done.wait()


@every
async def test_a_task_that_will_not_end_delays_close_by_a_bounded_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "http_server" if kind == "http" else kind
    monkeypatch.setattr(f"micro_core.transport.{module}._CLOSE", 0.05)
    stubborn = asyncio.Event()

    async def serve(socket: Socket) -> None:
        while not stubborn.is_set():
            with suppress(asyncio.CancelledError):
                await stubborn.wait()

    async with listening(kind, serve) as (transport, listener):
        client = await transport.dial(listener.address)
        await until(lambda: len(listener._serving) == 1)  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        await listener.close()
        with pytest.raises(SocketClosed):
            await client.recv()
        stubborn.set()
        await until(lambda: not len(listener._serving))  # type: ignore[attr-defined]


@every
async def test_closing_the_transport_ends_what_it_opened(kind: str) -> None:
    transport = make(kind)
    await transport.connect()
    listener = await transport.listen(ANY[kind], echo)
    client = await transport.dial(listener.address)
    await client.send(Message({}, b"x"))
    assert (await client.recv()).body == b"x"
    await transport.close()
    assert client.closed
    async with make(kind) as again:
        with pytest.raises(BackendUnavailable):
            await again.dial(listener.address)


# -- addresses -----------------------------------------------------------------------------------


@every
async def test_dialling_nobody_is_unavailable_and_names_the_address(kind: str) -> None:
    async with listening(kind, echo) as (transport, listener):
        gone = listener.address
        await listener.close()
        for address in (gone, "nonsense", "127.0.0.1", "", "127.0.0.1:http", "h:1\r\nEvil: 1"):
            with pytest.raises(BackendUnavailable) as caught:
                await transport.dial(address)
            assert caught.value.happened == "no"
            assert repr(address) in str(caught.value)
            assert caught.value.address == address


@every
async def test_two_listeners_cannot_have_one_address(kind: str) -> None:
    async with listening(kind, echo) as (transport, listener):
        with pytest.raises(BackendUnavailable) as caught:
            await transport.listen(listener.address, echo)
        assert listener.address in str(caught.value)
        address = listener.address
        await listener.close()
        again = await transport.listen(address, echo)
        assert again.address == address
        socket = await transport.dial(address)
        await socket.send(Message({}, b"again"))
        assert (await socket.recv()).body == b"again"


@every
async def test_both_ends_know_their_addresses(kind: str) -> None:
    async with linked(kind) as (client, server):
        assert client.local == server.peer
        assert client.peer == server.local
        assert client.local != client.peer
