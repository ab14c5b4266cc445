"""A pair of subjects as a Socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol

from nats import errors

from micro_core.errors import (
    BackendUnavailable,
    MessageTooLarge,
    MicroError,
    SocketClosed,
    StreamOverflow,
    TooLarge,
)
from micro_core.message import Message
from micro_core.transport.base import Socket
from micro_nats import Connection

from .wire import decode, encode

_MESSAGE = 512  # bytes that a message counts more than its payload
END = b""  # Go's JSON is never empty: to Go it is a message that ends its socket, too


class Owner(Protocol):
    """Who a socket belongs to: a transport or a listener."""

    max_body: int
    max_unread: int

    def forget(self, socket: NatsSocket) -> None: ...


class NatsSocket(Socket):
    """One end. ``to`` is where it publishes, ``reply`` what it gives for answers and for 503."""

    def __init__(
        self, owner: Owner, connection: Connection, *, local: str, peer: str, reply: str
    ) -> None:
        self.local, self.peer = local, peer
        self.reply = reply
        self._owner = owner
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[bytes] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._end: tuple[type[MicroError], str, dict[str, Any]] | tuple[()] = ()
        self._spoken = False  # the peer has been heard
        self._unanswered = 0  # messages sent since it was last heard
        self.active = self._loop.time()

    @property
    def closed(self) -> bool:
        return bool(self._end)

    @property
    def waiting(self) -> bool:
        return self._waiter is not None

    # -- Socket ------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """A message refused here, with MessageTooLarge or InvalidName, leaves the socket open."""
        if len(message.body) > self._owner.max_body:
            raise MessageTooLarge(
                f"body of {len(message.body)} bytes for {self.peer}: raise max_body, "
                f"now {self._owner.max_body}"
            )
        self._check_payload(len(message.body) * 4 // 3)
        data = encode(message)
        self._check_payload(len(data))
        if self._connection.full:
            await self._room()
        if self._end:
            raise SocketClosed(self._end[1], happened="no")
        self._unanswered += 1
        self.active = self._loop.time()
        await self._publish(data)

    async def recv(self) -> Message:
        if not self._inbox:
            if not self._end:
                await self._arrival()
            if not self._inbox:
                self._raise_end()
        data = self._inbox.popleft()
        self._held -= len(data) + _MESSAGE
        try:
            message = decode(data)
            if len(message.body) > self._owner.max_body:
                raise TooLarge(
                    f"{self.peer} sent {len(message.body)} bytes: raise max_body, "
                    f"now {self._owner.max_body}"
                )
        except MicroError:
            await self.close()
            raise
        return message

    async def close(self) -> None:
        await self.leave(f"the socket to {self.peer} is closed")
        self._inbox.clear()

    # -- what the owner does -----------------------------------------------------------------

    async def leave(self, text: str) -> None:
        """End this side and tell the other one, if there is one."""
        if not self._end:
            known = self._spoken or self._unanswered > 0
            self.finish(SocketClosed, text)
            if known:
                await self.tell_end()

    async def tell_end(self) -> None:
        with contextlib.suppress(errors.Error):  # lost: the peer is told later, or finds out
            await self._connection.publish(self.peer, END, self.reply)

    async def deliver(self, data: bytes) -> None:
        """What the peer has sent; the end, if it is empty."""
        if self._end:
            return
        if not data:
            self.finish(SocketClosed, f"{self.peer} has ended the socket")
            return
        self._inbox.append(data)
        self._held += len(data) + _MESSAGE
        self._spoken = True
        self._unanswered = 0
        self.active = self._loop.time()
        if self._held > self._owner.max_unread:
            await self._overflow()
        elif self._waiter is not None:
            self._wake()

    def unheard(self) -> None:
        """The server says that nobody listens where a message went."""
        text = f"nobody listens at {self.peer} of transport nats"
        surely = "no" if self._unanswered == 1 else "maybe"
        if self._spoken or surely == "maybe":
            self.finish(SocketClosed, f"{text} any more", happened=surely)
        else:
            self.finish(BackendUnavailable, text, plugin="nats", address=self.peer)

    def finish(self, kind: type[MicroError], text: str, **more: Any) -> None:
        if not self._end:
            self._end = kind, text, more
            self._owner.forget(self)
            self._wake()

    # -- the rest ----------------------------------------------------------------------------

    def _check_payload(self, size: int) -> None:
        if size > (most := self._connection.max_payload):
            raise MessageTooLarge(
                f"{size} bytes of JSON for {self.peer}: the NATS server takes {most}, see its "
                "max_payload"
            )

    async def _publish(self, data: bytes) -> None:
        try:
            await self._connection.publish(self.peer, data, self.reply)
        except errors.Error as error:
            text = f"the connection to NATS is lost: {error}"
            self.finish(SocketClosed, text)
            raise SocketClosed(text, happened="no") from error

    async def _room(self) -> None:
        try:
            await self._connection.room()
        except asyncio.CancelledError:
            await self.close()
            raise
        except (errors.Error, OSError) as error:
            raise SocketClosed(f"the connection to NATS is lost: {error}", happened="no") from error

    async def _arrival(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task is receiving from this socket")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            self._waiter = None

    async def _overflow(self) -> None:
        text = f"{self.peer} sends faster than it is read: over max_unread, {self._held} bytes wait"
        self.finish(StreamOverflow, text)
        await self.tell_end()

    def _raise_end(self) -> None:
        if self._end:
            kind, text, more = self._end
            raise kind(text, **more)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
