"""A subject that is listened on: one socket for each reply subject that speaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextvars import copy_context
from typing import Any

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from micro_core.errors import SocketClosed
from micro_core.transport.base import Listener, Serve
from micro_core.transport.serving import Serving
from micro_nats import Connection

from .socket import END, NatsSocket, Owner

_CLOSE = 4.0
_ENDED = 4096  # peers whose sockets were ended here, of whose late messages a listener knows
log = logging.getLogger("micro.transport.nats")


class NatsListener(Listener, Owner):
    """What is said by a reply subject that is new is the first message of a socket.

    A peer whose socket was ended here is told so again when it goes on: what it says next would
    otherwise be taken for the beginning of something else.
    """

    def __init__(self, address: str, serve: Serve, transport: Any) -> None:
        self.address = address
        self.max_body, self.max_unread = transport.max_body, transport.max_unread
        self._transport = transport
        self._serving = Serving(serve, log)
        self._context = copy_context()  # not that of whoever reconnects
        self.sockets: dict[str, NatsSocket] = {}
        self._ended: dict[str, None] = {}
        self._lost: list[str] = []
        self._connection: Connection | None = None
        self._subscription: Subscription | None = None

    async def begin(self, connection: Connection) -> None:
        """Subscribe on a new connection, and tell the peers of the one before what they lost."""
        self._connection = connection
        self._subscription = await connection.hear(self.address, self._on_message)
        lost, self._lost = self._lost, []
        for peer in lost:
            await connection.publish(peer, END)

    def lose(self, error: Exception) -> None:
        """The connection has gone, and with it what peers have sent meanwhile."""
        self._connection = self._subscription = None
        for socket in list(self.sockets.values()):
            self._lost.append(socket.peer)
            socket.finish(SocketClosed, f"the connection to NATS is lost: {error}")

    def forget(self, socket: NatsSocket) -> None:
        if self.sockets.pop(socket.peer, None) is not None:
            self._ended[socket.peer] = None
            if len(self._ended) > _ENDED:
                del self._ended[next(iter(self._ended))]
        self._transport.drop(socket)

    async def _on_message(self, message: Msg) -> None:
        peer, data = message.reply, message.data
        socket = self.sockets.get(peer)
        if socket is not None:
            await socket.deliver(data)
            if not data:
                self._ended.pop(peer, None)  # it will not say more
        elif data and peer:
            await self._accept(peer, data)

    async def _accept(self, peer: str, data: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        if peer in self._ended or len(self.sockets) >= self._transport.max_sockets:
            await connection.publish(peer, END)
            return
        socket = self._transport.accepted(self, connection, peer)
        self.sockets[peer] = socket
        await socket.deliver(data)
        self._context.run(self._serving.start, socket)

    async def close(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._transport.listeners.discard(self)
        if subscription is not None:
            with contextlib.suppress(errors.Error):  # or it ended with the connection
                await subscription.unsubscribe()
        tasks = self._serving.cancel()
        for socket in list(self.sockets.values()):
            await socket.leave(f"{self.address} listens no more")
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE)
