"""What a listener does for its peers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from micro_core import BackendError, Message, SocketClosed, Transport
from micro_core.transport.base import Serve, Socket

from ..promise import promise
from ..suite import Suite
from .flow import MOST, PIECE
from .lab import Peers, TransportLab, asked, echo


class ServingPeers(Suite[Transport]):
    @promise()
    async def test_every_peer_is_served_by_itself(self, lab: TransportLab) -> None:
        """Ten peers are served at the same time, each by a call of ``serve`` of its own."""
        together = asyncio.Barrier(10)

        async def serve(socket: Socket) -> None:
            message = await socket.recv()
            await together.wait()
            await socket.send(message)
            await echo(socket)

        listener = await lab.listen(serve)
        sockets = [await lab.dial(listener) for _ in range(10)]
        asking = [asked(socket, b"%d" % n) for n, socket in enumerate(sockets)]
        async with asyncio.timeout(self.patience):
            assert await asyncio.gather(*asking) == [b"%d" % n for n in range(10)]

    @promise()
    async def test_a_serve_that_returns_ends_its_socket(self, lab: TransportLab) -> None:
        """The peer of a ``serve`` that has returned gets what it sent, and then the end."""

        async def once(socket: Socket) -> None:
            await socket.send(await socket.recv())

        client = await lab.dial(await lab.listen(once))
        assert await asked(client, b"only") == b"only"
        assert await lab.ends(client) == []

    @promise()
    async def test_a_serve_that_raises_ends_its_socket(self, lab: TransportLab) -> None:
        """A ``serve`` that raises ends its own socket and leaves the others alone."""

        async def picky(socket: Socket) -> None:
            while (message := await socket.recv()).body != b"bad":
                await socket.send(message)
            raise ValueError("bad")

        listener = await lab.listen(picky)
        good, bad = await lab.dial(listener), await lab.dial(listener)
        assert await asked(good, b"1") == b"1"
        await bad.send(Message({}, b"bad"))
        assert await lab.ends(bad) == []
        assert await asked(good, b"2") == b"2"
        assert await asked(await lab.dial(listener), b"3") == b"3"

    @promise()
    async def test_closing_a_listener_ends_everything(self, lab: TransportLab) -> None:
        """Closing a listener ends its sockets and each ``serve``, and nobody is served more."""
        cancelled = 0

        async def serve(socket: Socket) -> None:
            nonlocal cancelled
            try:
                await echo(socket)
            except asyncio.CancelledError:
                cancelled += 1
                raise
            except SocketClosed:
                cancelled += 1

        listener = await lab.listen(serve)
        clients = [await lab.dial(listener) for _ in range(5)]
        for client in clients:
            assert await asked(client, b"hello") == b"hello"
        await lab.within(listener.close(), "the listener is closed")
        assert cancelled == 5, f"{cancelled} of 5 have ended when close() returns"
        for client in clients:
            assert await lab.ends(client) == []
        transport = await lab.new()
        async with lab.refusing(BackendError, SocketClosed):
            await asked(await transport.dial(listener.address), b"late")

    @promise()
    async def test_closing_a_listener_twice_is_like_once(self, lab: TransportLab) -> None:
        """A listener may be closed again, and by several at once."""
        listener = await lab.listen(echo)
        client = await lab.dial(listener)
        assert await asked(client, b"1") == b"1"
        await lab.within(asyncio.gather(*[listener.close() for _ in range(5)]), "closed by five")
        await lab.within(listener.close(), "closed again")

    @promise()
    async def test_an_address_can_be_used_again(self, lab: TransportLab) -> None:
        """Once a listener is closed, another may listen on its address and gets its peers."""
        first = await lab.listen(Peers().serve)
        await first.close()
        transport = await lab.new()
        second = await transport.listen(first.address, echo)
        lab.stack.push_async_callback(second.close)
        assert await asked(await lab.dial(second), b"1") == b"1"

    @promise()
    async def test_a_taken_address_is_refused(self, lab: TransportLab) -> None:
        """Listening where somebody listens is a BackendError, and the first goes on."""
        listener = await lab.listen(echo)
        transport = await lab.new()
        async with lab.refusing(BackendError):
            other = await transport.listen(listener.address, Peers().serve)
            await other.close()
        assert await asked(await lab.dial(listener), b"1") == b"1"

    @promise()
    async def test_listeners_have_addresses_of_their_own(self, lab: TransportLab) -> None:
        """Listeners on any free address differ, and each tells the one that peers dial."""
        answers: list[bytes] = []
        listeners = [await lab.listen(_named(b"%d" % number)) for number in range(5)]
        assert len({listener.address for listener in listeners}) == 5
        for listener in listeners:
            assert listener.address
            answers.append(await asked(await lab.dial(listener), b"who"))
        assert answers == [b"0", b"1", b"2", b"3", b"4"]

    @promise()
    async def test_both_ends_know_their_addresses(self, lab: TransportLab) -> None:
        """Each end of a socket tells its own address and that of its peer."""
        peers = Peers()
        listener = await lab.listen(peers.serve)
        client = await lab.dial(listener)
        server = await peers.meet(client)
        assert client.peer == listener.address
        assert client.local
        assert client.local != client.peer
        assert (server.local, server.peer) == (client.peer, client.local)

    @promise()
    async def test_a_frozen_peer_does_not_hold_up_the_listener(self, lab: TransportLab) -> None:
        """Closing a listener takes at most 6 s while a peer does not read what it is sent."""

        async def flood(socket: Socket) -> None:
            await socket.recv()
            for _ in range(MOST):
                await socket.send(Message({}, bytes(PIECE)))
                await asyncio.sleep(0)

        listener = await lab.listen(flood)
        client = await lab.dial(listener)
        await client.send(Message({}, b"go"))
        await client.recv()
        await asyncio.sleep(0.5)
        begin = asyncio.get_running_loop().time()
        await lab.within(listener.close(), "the listener is closed")
        seconds = asyncio.get_running_loop().time() - begin
        lab.figure("seconds to close a listener while a peer is frozen", round(seconds, 2))
        assert seconds <= 6

    @promise()
    async def test_a_stubborn_serve_does_not_hold_up_the_listener(self, lab: TransportLab) -> None:
        """Closing a listener takes at most 6 s while a ``serve`` takes its time to end."""
        released = asyncio.Event()
        done = asyncio.Event()

        async def stubborn(socket: Socket) -> None:
            try:
                await echo(socket)
            finally:
                while not released.is_set():
                    with suppress(asyncio.CancelledError):
                        await released.wait()
                done.set()

        listener = await lab.listen(stubborn)
        assert await asked(await lab.dial(listener), b"1") == b"1"
        begin = asyncio.get_running_loop().time()
        try:
            await lab.within(listener.close(), "the listener is closed")
            assert asyncio.get_running_loop().time() - begin <= 6
        finally:
            released.set()
            await done.wait()


def _named(name: bytes) -> Serve:
    async def serve(socket: Socket) -> None:
        while True:
            await socket.recv()
            await socket.send(Message({}, name))

    return serve
