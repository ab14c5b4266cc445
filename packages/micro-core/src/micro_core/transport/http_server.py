"""The listening side of HTTP/1.1: messages go to ``serve``, the rest is answered here."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket as sockets
from functools import partial
from typing import Any

import httptools

from ..errors import SocketClosed, status_text
from ..security import FreshContext
from .address import join_address, split_address
from .base import Listener, Probe, Serve
from .http_socket import HttpOptions, HttpSocket, Reason, Refused
from .serving import Serving

log = logging.getLogger("micro.transport.http")

_LINGER = 1.0  # seconds for a peer to read a refusal
_CLOSE = 4.0  # seconds for tasks to end and buffers to be written
_SLOWEST = 1024.0  # bytes a second of a body that arrives
_BACKLOG = 1024


class Probed(Refused):
    """Not a message but a question of how the service is, and the answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, "has probed")
        self.body = body


class ServerSocket(HttpSocket):
    """Messages come in as POST, whatever the path, and go out as 200."""

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener
        super().__init__(listener.options, "HTTP/1.1 200 OK\r\n")

    def _new_parser(self) -> httptools.HttpRequestParser:
        self.on_url: Any = self._line.append
        parser = self._parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_keep_alive=True)  # what follows is not lost
        return parser

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.connections.discard(self)
        del self._parser  # the two hold each other

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.get_method() != b"POST":
            raise self._other_method(parser.get_method())
        header = self._take_head()
        if "Origin" in header and header["Origin"] not in self._options.allow_origins:
            raise Refused(403, "requests with an Origin need it in allow_origins")
        if "Upgrade" in header:
            raise Refused(400, "this is HTTP/1.1 without upgrades")
        if "Expect" in header:
            self._continue(header.pop("Expect"))
        if not parser.should_keep_alive():
            self._last = True
        self._header = header

    def _continue(self, expected: str) -> None:
        if expected.lower() != "100-continue":
            raise Refused(417, "the only expectation is 100-continue")
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def target(self) -> str:
        """Path and query of the request under way."""
        return b"".join(self._line).decode("latin-1")

    def _other_method(self, method: bytes) -> Refused:
        path = self.target.partition("?")[0]
        if method != b"GET" or path not in ("/_live", "/_ready"):
            return Refused(405, "messages are sent with POST")
        if (probe := self._listener.probe) is None:
            return Refused(404, "no probes here")
        return Probed(*probe(path))

    def refuse(self, refused: Refused) -> None:
        body = refused.body if isinstance(refused, Probed) else f"{refused}\n".encode()
        self._answer(refused.status, body, refused.reason(self.peer))

    def _answer(self, status: int, body: bytes, reason: Reason) -> None:
        """The last response, which is not a message."""
        if self.closed:
            return
        allow = "Allow: POST\r\n" if status == 405 else ""
        head = (
            f"HTTP/1.1 {status} {status_text(status)}\r\nContent-Type: text/plain\r\n{allow}"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        if self._transport.can_write_eof():  # TLS cannot
            with contextlib.suppress(OSError):  # of a peer that has reset the connection
                self._transport.write_eof()
        self.end(reason, linger=_LINGER)

    def tick(self, seconds: float) -> None:
        """Time has passed: end a connection that is idle, or that keeps a message from us."""
        self._quiet += seconds
        if self.closed or self._paused:
            return
        options = self._options
        if self._header is not None:
            if self._quiet >= options.idle_timeout + self._size / _SLOWEST:
                self.refuse(Refused(408, "the body comes too slowly"))
        elif self._under_way():
            if self._quiet >= options.header_timeout:
                self.refuse(Refused(408, f"no whole head within {options.header_timeout:g} s"))
        elif not self.busy and not self._inbox and self._quiet >= options.idle_timeout:
            self.end(partial(SocketClosed, f"{self.peer} was idle"))


class HttpListener(Listener):
    """Owns its connections and their ``serve`` tasks. ``probe`` answers /_live and /_ready."""

    def __init__(self, serve: Serve, options: HttpOptions, probe: Probe | None) -> None:
        self.options = options
        self.probe = probe
        self.connections: set[ServerSocket] = set()
        self._serving = Serving(serve, log)
        self._interval = max(0.01, min(4.0, options.header_timeout, options.idle_timeout) / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def start(self, address: str) -> None:
        """Raises ValueError for no address, OSError for one that cannot be bound, OptionError."""
        secure: dict[str, Any] = {}
        if tls := self.options.tls:
            secure["ssl"] = FreshContext(tls, tls.server_context)
            secure["ssl_handshake_timeout"] = self.options.header_timeout
        socket = await _bind(address)
        self.address = join_address(socket.getsockname())
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._make_socket, sock=socket, backlog=_BACKLOG, **secure
        )

    def _make_socket(self) -> ServerSocket:
        return ServerSocket(self)

    def admit(self, socket: ServerSocket) -> None:
        most = self.options.max_connections
        if self._closed or len(self.connections) >= 2 * most:
            socket.drop()
            return
        self.connections.add(socket)
        if len(self._serving) >= most:
            socket.refuse(Refused(503, f"{most} connections are open, which is the limit"))
            return
        self._serving.start(socket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for socket in list(self.connections):
            socket.tick(self._interval)
        if self.connections:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    async def close(self) -> None:
        self._closed = True
        self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        tasks = self._serving.cancel()
        for socket in self.connections:
            socket.leave()
        if waiting := tasks | self._gone():
            await asyncio.wait(waiting, timeout=_CLOSE)
        for socket in self.connections:
            socket.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.gather(*self._gone(), self._server.wait_closed())

    def _gone(self) -> set[asyncio.Future[None]]:
        return {socket.gone for socket in self.connections}


async def _bind(address: str) -> sockets.socket:
    host, port = split_address(address)
    if not host:
        return _bind_all(port)
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
        )
        family, _, _, _, name = min(found)  # AF_INET comes first
        host = str(name[0])
    else:
        family = sockets.AF_INET6 if version == 6 else sockets.AF_INET
    return sockets.create_server((host, port), family=family, backlog=_BACKLOG)


def _bind_all(port: int) -> sockets.socket:
    try:
        return sockets.create_server(
            ("::", port), family=sockets.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise
    return sockets.create_server(("", port), backlog=_BACKLOG)  # a host without IPv6
