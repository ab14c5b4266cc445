"""One HTTP/1.1 connection as a Socket: parsing, the inbox, and backpressure both ways."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket as sockets
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from struct import pack
from typing import Any, ClassVar, cast

import httptools

from ..errors import BadRequest, MessageTooLarge, MicroError, SocketClosed, TooLarge
from ..message import Header, Message
from ..security import TLS
from .address import join_address
from .base import Socket
from .http_head import decode_fields, encode_head

_FLUSH = 5.0  # seconds that an ended connection may take to write what it has
_INBOX = 1 << 20  # bytes that wait for recv before reading pauses, where
_HEADER = 1 << 13  # a message counts as its body and so many
_JOINED = 1 << 16  # bytes of a body that is copied behind its head rather than written apart
_PART = 1 << 14  # bytes up to which parts of a body are put together as they come
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 19_000}

Reason = Callable[[], MicroError]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """The options of HttpTransport, under the names they have there.

    ``buffer`` is what all its sockets read into: what has been read is parsed at once.
    """

    max_body: int
    max_header_bytes: int
    max_headers: int
    max_connections: int
    header_timeout: float
    idle_timeout: float
    allow_origins: tuple[str, ...]
    tls: TLS | None
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(1 << 16)))


class Refused(Exception):
    """The message in the parser is not taken: an HTTP status, and why."""

    kinds: ClassVar[dict[int, type[MicroError]]] = {400: BadRequest, 413: TooLarge, 431: TooLarge}

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def reason(self, peer: str) -> Reason:
        """The error that ``recv`` raises."""
        kind = self.kinds.get(self.status, SocketClosed)
        return partial(kind, f"{peer}: {self}", happened="maybe")


def _drop(_data: memoryview) -> None:
    """What an ended connection does with data."""


class HttpSocket(Socket, asyncio.BufferedProtocol):
    """What both sides share. The parser calls the ``on_`` methods from ``buffer_updated``.

    ``gone`` is done when the connection is closed in the operating system too. It is a
    BufferedProtocol because asyncio otherwise allocates 256 KiB for every read, which took
    longer than parsing a message.
    """

    _transport: asyncio.Transport
    _file: sockets.socket
    _status = 200

    def __init__(self, options: HttpOptions, start: str) -> None:
        self._options = options
        self._start = start
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._reason: Reason | None = None
        self.cause: Exception | None = None
        self._inbox: deque[Message] = deque()
        self._held = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._blocked: set[asyncio.Future[None]] | None = None
        self._last = False
        self._quiet = 0.0
        self._segment = self._mark = self._stalled = 0
        self._surely_small = min(options.max_header_bytes, 4 * options.max_headers)  # bytes
        self._surely_fits = len(str(options.max_body))  # digits of a larger length
        # What the parser has of the message under way. It fills the containers itself, which is
        # faster than a callback each; of a repeated field the first counts.
        self._fresh = True
        self._header: Header | None = None
        self._line: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._parts: list[bytes] = []  # of the body, from the segments before
        self._size = 0
        self.on_header: Any = self._fields.setdefault
        self.on_body: Any = self._chunks.append
        self._feed: Callable[[memoryview], None] = self._new_parser().feed_data

    # -- Socket ------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._reason is not None or (self._paused and self._hung_up())

    async def recv(self) -> Message:
        if not self._inbox:
            try:
                await self._arrival()
            except asyncio.CancelledError:
                self.leave()
                raise
            if not self._inbox:
                self._raise_reason()
        message = self._inbox.popleft()
        self._held -= len(message.body) + _HEADER
        if self._paused:
            self._resume()
        return message

    async def send(self, message: Message) -> None:
        """A message refused here, with MessageTooLarge or InvalidName, leaves the socket open."""
        body = message.body
        if len(body) > self._options.max_body:
            raise MessageTooLarge(
                f"body of {len(body)} bytes for {self.peer}: raise max_body, "
                f"now {self._options.max_body}, on both sides"
            )
        head = encode_head(self._start, message.header, len(body))
        while self._blocked is not None and self._reason is None:
            await self._unblocked(self._blocked)
        if self._reason is not None or self._transport.is_closing():  # a failed write shows there
            raise self._unsendable()
        if len(body) <= _JOINED:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(memoryview(body))  # whose rest is cut off without a copy
        self._quiet = 0.0
        if self._last and not self._inbox:
            self.end(partial(SocketClosed, f"{self.peer} had asked for its last answer"))

    async def close(self) -> None:
        self.leave()
        if not self.gone.done():
            await asyncio.wait((self.gone,))

    async def abort(self) -> None:
        if not self.gone.done():  # a peer that does not read would not see another end
            with contextlib.suppress(OSError):
                self._file.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, pack("ii", 1, 0))
            self._transport.abort()
        await self.close()

    def _hung_up(self) -> bool:
        """Whether the peer has gone while we do not read, when the loop does not tell."""
        look = select.poll()
        look.register(self._file.fileno(), getattr(select, "POLLRDHUP", select.POLLHUP))
        return bool(look.poll(0))

    def _arrival(self) -> asyncio.Future[None]:
        if self._reason is not None:
            self._raise_reason()
        if self._waiter is not None:
            raise RuntimeError("another task is receiving from this socket")
        self._waiter = self._loop.create_future()
        return self._waiter

    def _raise_reason(self) -> None:
        assert self._reason is not None  # noqa: S101
        raise self._reason() from self.cause

    def _unsendable(self) -> SocketClosed:
        self.end(self._peer_left())
        assert self._reason is not None  # noqa: S101
        error = SocketClosed(str(self._reason()), happened="no")
        error.__cause__ = self.cause
        return error

    async def _unblocked(self, blocked: set[asyncio.Future[None]]) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        blocked.add(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.leave()
            raise

    # -- the end -----------------------------------------------------------------------------

    def leave(self) -> None:
        """What ``close`` does, without waiting."""
        self._inbox.clear()
        self.end(partial(SocketClosed, f"the socket to {self.peer} is closed"))

    def end(self, reason: Reason, *, linger: float = 0.0) -> None:
        """Take nothing more, write what was sent, close. Idempotent.

        ``linger`` seconds leave the peer the time to read what it was told: closing with its data
        unread would reset the connection.
        """
        if self._reason is not None:
            return
        self._reason = reason
        self._feed = _drop
        self._wake()
        self.resume_writing()
        if not linger:
            self._transport.close()
        elif self._paused:
            self._transport.resume_reading()
        if not self.gone.done():
            timer = self._loop.call_later(linger or _FLUSH, self._transport.abort)
            self.gone.add_done_callback(lambda _: timer.cancel())

    def drop(self) -> None:
        """What ``end`` does when its time is over."""
        self._transport.abort()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- asyncio.Protocol --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.local = join_address(transport.get_extra_info("sockname"))
        self.peer = self.peer or join_address(transport.get_extra_info("peername"))
        self._file = transport.get_extra_info("socket")
        _watch_peer(self._file)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cause = self.cause or exc
        if not self.gone.done():
            self.gone.set_result(None)
        self.end(self._peer_left())

    def eof_received(self) -> None:
        self.end(self._peer_left())

    def _peer_left(self) -> Reason:
        where = " in the middle of a message" if self._under_way() else ""
        return partial(SocketClosed, f"{self.peer} has closed the connection{where}")

    def pause_writing(self) -> None:
        self._blocked = set()

    def resume_writing(self) -> None:
        blocked, self._blocked = self._blocked, None
        for waiter in blocked or ():
            if not waiter.done():
                waiter.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._options.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._segment = nbytes
        try:
            self._feed(self._options.buffer[:nbytes])
            if self._line or self._fields:  # under way, see there
                self._bound_rest()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.cause = error
            self.refuse(_refused(error))
        except Refused as refused:
            self.refuse(refused)
        if self._held >= _INBOX:
            self._pause()

    def _pause(self) -> None:
        if not self._paused and self._reason is None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._held < _INBOX // 2:
            self._paused = False
            if self._reason is None:
                self._transport.resume_reading()

    # -- httptools ---------------------------------------------------------------------------

    @abstractmethod
    def _new_parser(self) -> httptools.HttpRequestParser | httptools.HttpResponseParser: ...

    @abstractmethod
    def refuse(self, refused: Refused) -> None:
        """End the connection because of what the peer sent."""

    def _take_head(self) -> Header:
        """The header of the message that begins; raises Refused for one over a limit."""
        if self._segment > self._surely_small or not self._fresh:
            fields = self._fields
            if len(fields) > self._options.max_headers:
                raise Refused(431, f"more than {self._options.max_headers} header fields")
            size = sum(len(name) + len(value) + 4 for name, value in fields.items())
            self._bound_head(size + sum(map(len, self._line)))
        header = decode_fields(self._fields)
        length = header.pop("Content-Length", "")
        if len(length) >= self._surely_fits and int(length) > self._options.max_body:
            raise self._too_large(length)
        coding = header.pop("Transfer-Encoding", "chunked"), header.pop("Content-Encoding", "")
        if coding[0].lower() != "chunked" or coding[1].lower() not in ("", "identity"):
            raise Refused(415, "bodies are not inflated: send them without Content-Encoding")
        return header

    def on_message_complete(self) -> None:
        if self._parts:
            self._chunks[:0] = self._parts
            self._parts.clear()
            self._size = 0
        body = b"".join(self._chunks)  # of one chunk that is no copy
        header = self._header
        self._quiet = 0.0
        self._fresh = True
        self._header = None
        self._line.clear()
        self._fields.clear()
        self._chunks.clear()
        if len(body) > self._options.max_body:
            raise self._too_large(f"over {len(body) - 1}")
        if self._status != 200:
            self._other_status(body)
        else:
            assert header is not None  # noqa: S101
            self._held += len(body) + _HEADER
            self._inbox.append(Message(header, body))
            waiter = self._waiter  # as _wake does
            if waiter is not None:
                self._waiter = None
                if not waiter.done():
                    waiter.set_result(None)

    def _other_status(self, body: bytes) -> None:
        """A response that is not a message; may raise Refused."""

    def _under_way(self) -> bool:
        return bool(self._line or self._fields)

    def _bound_rest(self) -> None:
        """A message goes on in the next segment. What comes without progress in its body is a
        head or trailers, and may not grow without end."""
        part = b"".join(self._chunks)
        self._chunks.clear()
        size = self._size = self._size + len(part)
        if self._parts and len(self._parts[-1]) < _PART:
            self._parts[-1] += part
        else:
            self._parts.append(part)
        if size > self._options.max_body:
            raise self._too_large(f"over {size - 1}")
        if self._fresh:
            self._fresh = False
            self._quiet = 0.0
            self._mark = -1
        if size > self._mark:
            self._mark = size
            self._stalled = 0
        else:
            self._stalled += self._segment
            self._bound_head(self._stalled)

    def _bound_head(self, size: int) -> None:
        if size > self._options.max_header_bytes:
            raise Refused(431, f"more than {self._options.max_header_bytes} bytes of header")

    def _too_large(self, size: str) -> Refused:
        return Refused(413, f"a body of {size} bytes: the limit is {self._options.max_body}")


def _refused(error: Exception) -> Refused:
    cause = error.__context__  # what a callback raised
    if cause is None:
        return Refused(400, f"not HTTP/1.1: {error}")
    if isinstance(cause, Refused):
        return cause
    raise cause


def _watch_peer(socket: sockets.socket) -> None:
    """Have the kernel notice a peer that vanished: keepalive if the connection is idle, the user
    timeout if data is under way; each is blind to the other's case."""
    with contextlib.suppress(OSError):  # a peer that is gone already
        socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(sockets, option):
                socket.setsockopt(sockets.IPPROTO_TCP, getattr(sockets, option), value)
