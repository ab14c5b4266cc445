"""Peers that talk to each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import cast

from micro_core import Message, MicroError, SocketClosed, Transport
from micro_core.transport.base import Listener, Serve, Socket

from ..lab import Lab


class TransportLab(Lab[Transport]):
    @property
    def bind(self) -> str:
        return cast(str, self.suite.bind)  # type: ignore[attr-defined]

    async def listen(self, serve: Serve) -> Listener:
        """A listener of a transport of its own, both closed at the end of the test."""
        transport = await self.new()
        listener = await transport.listen(self.bind, serve)
        self.stack.push_async_callback(listener.close)
        return listener

    async def dial(self, listener: Listener, transport: Transport | None = None) -> Socket:
        """A socket to the listener, closed at the end of the test."""
        socket = await (transport or await self.new()).dial(listener.address)
        self.stack.push_async_callback(socket.close)
        return socket

    async def pair(self) -> tuple[Socket, Socket]:
        """Both ends of a socket, the dialling one first."""
        peers = Peers()
        listener = await self.listen(peers.serve)
        client = await self.dial(listener)
        return client, await peers.meet(client)

    async def within(self, waiting: Awaitable[object], what: str) -> None:
        """Fails when it takes longer than the suite's patience."""
        try:
            async with asyncio.timeout(self.suite.patience):
                await waiting
        except TimeoutError:
            raise AssertionError(f"not within {self.suite.patience:g} s: {what}") from None

    async def ends(self, socket: Socket) -> list[bytes]:
        """Read to the end, which has to come and to be SocketClosed: the bodies before it."""
        bodies: list[bytes] = []
        try:
            async with asyncio.timeout(self.suite.patience):
                while True:
                    bodies.append((await socket.recv()).body)
        except SocketClosed:
            return bodies
        except TimeoutError:
            raise AssertionError("recv() does not notice that the socket has ended") from None

    @asynccontextmanager
    async def refusing(
        self, *kinds: type[MicroError], happened: str = ""
    ) -> AsyncIterator[list[MicroError]]:
        """The block raises one of these within the suite's patience; it is in what is yielded."""
        raised: list[MicroError] = []
        try:
            async with asyncio.timeout(self.suite.patience):
                yield raised
        except kinds as error:
            raised.append(error)
            assert not happened or error.happened == happened, f"happened is {error.happened!r}"
        except TimeoutError:
            raise AssertionError(f"{_names(kinds)} was expected, and nothing came") from None
        else:
            raise AssertionError(f"{_names(kinds)} was expected, and it was done")


class Peers:
    """The accepting ends. Dialling may need no round trip: a peer is met by its first message."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[Socket] = asyncio.Queue()

    async def serve(self, socket: Socket) -> None:
        self._accepted.put_nowait(socket)
        await asyncio.Event().wait()

    async def meet(self, client: Socket) -> Socket:
        """The other end of ``client``, after one message each way."""
        await client.send(Message({"Meet": "1"}, b"client"))
        async with asyncio.timeout(10):
            server = await self._accepted.get()
            assert (await server.recv()).body == b"client"
            await server.send(Message({"Meet": "2"}, b"server"))
            assert (await client.recv()).body == b"server"
        return server


async def echo(socket: Socket) -> None:
    """Sends everything back."""
    while True:
        await socket.send(await socket.recv())


async def asked(socket: Socket, body: bytes) -> bytes:
    """The body of the answer."""
    await socket.send(Message({"Micro-Id": "1"}, body))
    return (await socket.recv()).body


async def all_of(socket: Socket, count: int) -> list[Message]:
    return [await socket.recv() for _ in range(count)]


def _names(kinds: tuple[type[BaseException], ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)
