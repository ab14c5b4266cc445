"""How a socket ends, and who notices."""

from __future__ import annotations

import asyncio

from micro_core import BackendUnavailable, Message, MicroError, SocketClosed, Transport
from micro_core.transport.base import Socket

from ..promise import promise
from ..suite import Suite
from .flow import Sender
from .lab import TransportLab, asked, echo


class Ends(Suite[Transport]):
    @promise(guarantee="peer_end_noticed")
    async def test_a_waiting_reader_notices_the_end(self, lab: TransportLab) -> None:
        """Who waits for a message gets SocketClosed once the other side has closed."""
        for closing in (0, 1):
            pair = await lab.pair()
            waiting = asyncio.create_task(lab.ends(pair[1 - closing]))
            await asyncio.sleep(0.01)
            await pair[closing].close()
            assert await waiting == []

    @promise(guarantee="peer_end_noticed")
    async def test_closed_tells_that_the_peer_has_gone(self, lab: TransportLab) -> None:
        """``closed`` turns true by itself once the other side has gone, and not before."""
        client, server = await lab.pair()
        assert (client.closed, server.closed) == (False, False)
        await server.close()
        await lab.eventually(lambda: client.closed, "the client knows that the server has gone")
        assert server.closed

    @promise(guarantee="peer_end_noticed")
    async def test_sending_to_nobody_is_noticed(self, lab: TransportLab) -> None:
        """Who goes on sending to a peer that has gone gets SocketClosed."""
        client, server = await lab.pair()
        await server.close()
        async with lab.refusing(SocketClosed):
            while True:
                await client.send(Message({}, b"anybody?"))
                await asyncio.sleep(0.01)

    @promise()
    async def test_what_was_sent_before_close_arrives(self, lab: TransportLab) -> None:
        """Messages sent before ``close`` arrive, and only then the end."""
        client, server = await lab.pair()
        bodies = [b"%d" % number * 1000 for number in range(20)]
        for body in bodies:
            await client.send(Message({}, body))
        await client.close()
        got: list[bytes] = []
        async with asyncio.timeout(self.patience):
            while len(got) < len(bodies):
                got.append((await server.recv()).body)
        assert got == bodies
        if lab.features.peer_end_noticed:
            assert await lab.ends(server) == []

    @promise()
    async def test_close_wakes_who_waits(self, lab: TransportLab) -> None:
        """Closing a socket ends a ``recv`` that waits on this very side with SocketClosed."""
        client, _ = await lab.pair()
        waiting = asyncio.create_task(lab.ends(client))
        await asyncio.sleep(0.01)
        await lab.within(client.close(), "the socket is closed")
        assert await waiting == []

    @promise()
    async def test_closing_twice_is_like_once(self, lab: TransportLab) -> None:
        """A socket may be closed again, by several at once, and by both sides."""
        client, server = await lab.pair()
        closing = [side.close() for side in (client, server, client, client, server)]
        await lab.within(asyncio.gather(*closing), "closed by five")
        await lab.within(asyncio.gather(client.close(), client.abort()), "closed again")
        assert client.closed
        assert server.closed

    @promise()
    async def test_a_closed_socket_refuses(self, lab: TransportLab) -> None:
        """After ``close`` both ``send`` and ``recv`` raise SocketClosed, and nothing was sent."""
        for end in (Socket.close, Socket.abort):
            client, _ = await lab.pair()
            await (client.close() if end is Socket.close else client.abort())
            async with lab.refusing(SocketClosed, happened="no"):
                await client.send(Message({}, b"late"))
            async with lab.refusing(SocketClosed):
                await client.recv()

    @promise()
    async def test_a_cancelled_recv_ends_the_socket(self, lab: TransportLab) -> None:
        """A ``recv`` that is cancelled ends the socket, so that nobody reads another's answer."""
        client, server = await lab.pair()
        waiting = asyncio.create_task(client.recv())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled(), "the cancellation was swallowed"
        assert client.closed
        async with lab.refusing(SocketClosed):
            await client.recv()
        if lab.features.peer_end_noticed:
            assert await lab.ends(server) == []

    @promise(guarantee="backpressure")
    async def test_a_cancelled_send_ends_the_socket(self, lab: TransportLab) -> None:
        """A ``send`` that is cancelled while it waits ends the socket."""
        client, server = await lab.pair()
        sender = Sender(client)
        await lab.eventually(sender.stalled, "the sender waits")
        assert await sender.give_up(), "the cancellation was swallowed"
        assert client.closed
        async with lab.refusing(SocketClosed):
            await client.send(Message({}, b"after"))
        await lab.within(server.close(), "the other side is closed")

    @promise()
    async def test_answers_are_never_mixed_up(self, lab: TransportLab) -> None:
        """Whoever gives up at any moment and asks again gets the answer to the second question."""
        listener = await lab.listen(echo)
        transport = await lab.new()
        socket = await lab.dial(listener, transport)
        for number in range(100):
            asking = asyncio.create_task(asked(socket, b"given up %d" % number))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            body = b"wanted %d" % number
            try:
                if asking.cancelled():
                    assert await asked(socket, body) == body, "the answer to another question"
            except SocketClosed:
                pass
            await socket.close()
            socket = await lab.dial(listener, transport)
            assert await asked(socket, body) == body

    @promise()
    async def test_dialling_nobody_is_unavailable(self, lab: TransportLab) -> None:
        """Dialling where nobody listens is a typed error, surely not connected, in time."""
        listener = await lab.listen(echo)
        await listener.close()
        transport = await lab.new()
        begin = asyncio.get_running_loop().time()
        async with lab.refusing(MicroError, happened="no") as caught:
            await asked(await transport.dial(listener.address), b"1")
        assert isinstance(caught[0], BackendUnavailable), repr(caught[0])
        assert caught[0].plugin == transport.name
        assert asyncio.get_running_loop().time() - begin <= transport.connect_timeout + 1

    @promise(timeout=120)
    async def test_odd_addresses_are_typed_errors(self, lab: TransportLab) -> None:
        """Dialling a text that is no address is a typed error, surely not connected."""
        transport = await lab.new()
        for address in ("", " ", ":", "a:b:c", "127.0.0.1:99999", "no such\r\nplace:1", "\0:1"):
            async with lab.refusing(MicroError, happened="no"):
                await asked(await transport.dial(address), b"1")

    @promise(timeout=600)
    async def test_idle_sockets_live(self, lab: TransportLab) -> None:
        """A socket on which nothing was said for a while works as before."""
        idle: float = getattr(self, "idle", 3.0)
        client = await lab.dial(await lab.listen(echo))
        assert await asked(client, b"before") == b"before"
        await asyncio.sleep(idle)
        assert not client.closed
        assert await asked(client, b"after") == b"after"
