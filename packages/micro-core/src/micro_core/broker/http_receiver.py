"""The receiving half of the http broker: POSTs to the inbox of the subscription they name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import NoReturn, cast
from urllib.parse import parse_qs

from ..errors import status_text
from ..message import Message
from ..transport.base import Socket
from ..transport.http_server import HttpListener, ServerSocket
from ..transport.http_socket import HttpOptions, Refused
from .base import Delivery
from .buffer import Buffer
from .envelope import decode

log = logging.getLogger("micro.broker")

_TARGET = ":target"  # no header that came over the wire has a colon in its name
_ROOM = 1.0  # seconds that a message may wait for room in a full inbox
_TAKEN = Message()


class Inbox:
    """Deliveries of one subscription; full or stopped it takes nothing."""

    def __init__(self, topic: str, limit: int, leave: Callable[[], Awaitable[None]]) -> None:
        self.topic = topic
        self._buffer: Buffer[Message] = Buffer(limit)
        self._leave = leave

    async def put(self, message: Message) -> bool:
        """Whether it was taken; waits a moment for room."""
        try:
            async with asyncio.timeout(_ROOM):
                await self._buffer.room()
        except TimeoutError:
            return False
        return self._buffer.offer(message)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Delivery:
        return Delivery(self.topic, await self._buffer.get())

    async def stop(self) -> None:
        """Tell the registry first: until it knows, publishers send in good faith."""
        try:
            await self._leave()
        finally:
            self._buffer.close()

    async def aclose(self) -> None:
        try:
            await self.stop()
        finally:
            self._buffer.clear()


class Receiver:
    """One listener for all subscriptions of a broker, told apart by the ``id`` of the query."""

    def __init__(self, options: HttpOptions) -> None:
        self.inboxes: dict[str, Inbox] = {}
        self.address = ""
        self._listener = _Listener(self._serve, options, None)

    async def listen(self, address: str) -> str:
        """Returns the address bound; raises OSError or ValueError."""
        await self._listener.start(address)
        self.address = self._listener.address
        return self.address

    async def close(self) -> None:
        if self.address:
            await self._listener.close()

    async def _serve(self, socket: Socket) -> None:
        """200 means taken; anything else that the message was not, and ends the connection."""
        peer = cast(_EventSocket, socket)
        while True:
            request = await peer.recv()
            try:
                await self._take(request)
            except Refused as refused:
                peer.refuse(refused)
                return
            await peer.send(_TAKEN)

    async def _take(self, request: Message) -> None:
        message = decode(request.body)
        if message is None:
            _refuse(500, "the request is no JSON object of Header and Body")
        topic = message.header.get("Micro-Topic")
        if not topic:
            _refuse(500, "Topic not found")
        inbox = self.inboxes.get(_id(request.header[_TARGET]))
        if inbox is None or inbox.topic != topic:
            _refuse(404, "no such subscription")
        if not await inbox.put(message):
            _refuse(503, "the subscriber is behind")


def _refuse(status: int, detail: str) -> NoReturn:
    """With the JSON of Go Micro's errors as the text."""
    import json

    error = {
        "id": "go.micro.broker",
        "code": status,
        "detail": detail,
        "status": status_text(status),
    }
    raise Refused(status, json.dumps(error))


@lru_cache(1024)
def _id(target: str) -> str:
    return parse_qs(target.partition("?")[2]).get("id", [""])[0]


class _EventSocket(ServerSocket):
    """Gives the request's target along with its header."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._header is not None:
            self._header[_TARGET] = self.target


class _Listener(HttpListener):
    def _make_socket(self) -> ServerSocket:
        return _EventSocket(self)
