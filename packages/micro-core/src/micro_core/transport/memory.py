"""The transport ``memory``: within one event loop, with the manners of a network."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from contextvars import copy_context
from itertools import count
from typing import ClassVar

from ..errors import BackendUnavailable, MessageTooLarge, SocketClosed
from ..hub import hub
from ..message import Message, checked_header
from .base import Listener, Serve, Socket, Transport
from .serving import Serving

log = logging.getLogger("micro.transport.memory")

_UNREAD = 128  # messages, and
_UNREAD_BYTES = 1 << 20  # bytes of bodies, after which send waits
_CLOSE = 4.0


class MemorySocket(Socket):
    """One end of a pair. Bodies are handed over as they are, headers are copied."""

    _other: MemorySocket | None = None  # until either side ends, as a cycle would need collecting

    def __init__(self, local: str, peer: str, max_body: int) -> None:
        self.local = local
        self.peer = peer
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Message] = deque()
        self._held = 0
        self._end = ""
        self._waiter: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] = deque()  # that wait for room in the inbox

    @classmethod
    def pair(cls, local: str, peer: str, max_body: int) -> tuple[MemorySocket, MemorySocket]:
        one, other = cls(local, peer, max_body), cls(peer, local, max_body)
        one._other, other._other = other, one
        return one, other

    @property
    def closed(self) -> bool:
        return self._other is None

    async def send(self, message: Message) -> None:
        """A message refused here, with MessageTooLarge or InvalidName, leaves the socket open."""
        if len(message.body) > self._max_body:
            raise MessageTooLarge(
                f"body of {len(message.body)} bytes for {self.peer}: raise max_body, "
                f"now {self._max_body}"
            )
        header = checked_header(message.header)
        while (other := self._other) is not None and other._full():
            await self._wait(other._senders)
        if other is None:
            raise SocketClosed(self._end, happened="no")
        other._inbox.append(Message(header, message.body))
        other._held += len(message.body)
        if other._waiter is not None:
            other._wake()

    async def recv(self) -> Message:
        if not self._inbox:
            if self._other is None:
                raise SocketClosed(self._end)
            if self._waiter is not None:
                raise RuntimeError("another task is receiving from this socket")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.leave()
                raise
            if not self._inbox:
                raise SocketClosed(self._end)
        message = self._inbox.popleft()
        self._held -= len(message.body)
        if self._senders and not self._full():
            _release(self._senders)
        return message

    async def close(self) -> None:
        self.leave()

    def leave(self) -> None:
        self._inbox.clear()
        self._held = 0
        if (other := self._other) is not None:
            self._finish(f"the socket to {self.peer} is closed")
            other._finish(f"{self.local} has closed the connection")

    def _finish(self, text: str) -> None:
        self._end = text
        self._other = None
        self._wake()
        _release(self._senders)

    def _full(self) -> bool:
        return len(self._inbox) >= _UNREAD or self._held >= _UNREAD_BYTES

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.leave()
            raise


class MemoryListener(Listener):
    """A name in the hub, and the ``serve`` tasks of those who dialled it."""

    def __init__(self, address: str, serve: Serve, listeners: dict[str, MemoryListener]) -> None:
        self.address = address
        self._serving = Serving(serve, log)
        self._context = copy_context()  # not that of whoever dials
        self._sockets: weakref.WeakSet[MemorySocket] = weakref.WeakSet()
        self._listeners = listeners
        listeners[address] = self

    def accept(self, socket: MemorySocket) -> None:
        self._sockets.add(socket)
        self._context.run(self._serving.start, socket)

    async def close(self) -> None:
        if self._listeners.get(self.address) is self:
            del self._listeners[self.address]
        tasks = self._serving.cancel()
        for socket in self._sockets:
            socket.leave()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE)


class MemoryHub:
    """The listeners by name, and numbers for names."""

    def __init__(self) -> None:
        self.listeners: dict[str, MemoryListener] = {}
        self.numbers = count(1)


class MemoryTransport(Transport):
    """Reaches those of the same event loop whose transport has the same address.

    ``listen`` takes any name; ``""`` and ``host:0`` give a fresh one.

    max_body: most bytes of a message's body
    """

    name: ClassVar[str] = "memory"
    default_address: ClassVar[str] = "default"

    def __init__(self, *addresses: str, max_body: int = 4 * 1024 * 1024) -> None:
        super().__init__(*addresses)
        self._max_body = max_body
        self._opened: weakref.WeakSet[Listener | Socket] = weakref.WeakSet()

    async def _connect(self) -> None:
        self._hub = hub(MemoryHub, self.address)

    async def _dial(self, address: str) -> Socket:
        listener = self._hub.listeners.get(address)
        if listener is None:
            raise self._unavailable(
                address, "nobody listens there: memory reaches one event loop only"
            )
        local = f"memory-client-{next(self._hub.numbers)}"
        socket, accepted = MemorySocket.pair(local, address, self._max_body)
        listener.accept(accepted)
        self._opened.add(socket)
        return socket

    async def _listen(self, address: str, serve: Serve) -> Listener:
        if not address or address.endswith(":0"):
            address = f"memory-{next(self._hub.numbers)}"
        if address in self._hub.listeners:
            raise self._unavailable(address, 'somebody listens there: take "" for a fresh name')
        listener = MemoryListener(address, serve, self._hub.listeners)
        self._opened.add(listener)
        return listener

    async def _close(self) -> None:
        for opened in list(self._opened):
            await opened.close()

    def _unavailable(self, address: str, text: str) -> BackendUnavailable:
        return BackendUnavailable(
            f"transport memory {self.address}, name {address!r}: {text}",
            plugin=self.name,
            address=address,
        )


def _release(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
