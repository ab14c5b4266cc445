"""The transport ``http``: Go Micro's messages over HTTP/1.1, with TLS or without."""

from __future__ import annotations

import asyncio
import logging
import ssl
import weakref
from typing import ClassVar

from ..errors import BackendError, BackendRefused, BackendUnavailable
from ..optiontypes import Duration
from ..security import TLS, FreshContext, tls_remedy
from .address import split_address
from .base import Listener, Serve, Socket, Transport
from .http_client import ClientSocket
from .http_server import HttpListener
from .http_socket import HttpOptions

log = logging.getLogger("micro.transport.http")
_VERDICT = 0.25  # seconds for a server's word on our certificate


class HttpTransport(Transport):
    """A message is a POST one way and a 200 response the other way, on one connection.

    The two directions are not paired. HTTP trims blanks around the values of a header, and keeps
    ``Host`` and what is about the length and the coding of a body for itself. Times are in seconds.
    A listener takes ``probe`` over, and may be given another.

    max_body: most bytes of a message's body, in and out
    max_header_bytes: most bytes of a message's header
    max_headers: most header fields of a message
    max_connections: most connections of a listener; one more gets 503
    header_timeout: time for a header that has begun
    idle_timeout: time after which a listener closes a connection on which nothing happens
    connect_timeout: time for a connection to be made
    allow_origins: values of Origin, which browsers send, that a listener does not refuse
    tls: TLS of every connection, never without; files that are replaced count for the next one
    """

    name: ClassVar[str] = "http"

    def __init__(
        self,
        *addresses: str,
        max_body: int = 4 * 1024 * 1024,
        max_header_bytes: int = 16 * 1024,
        max_headers: int = 100,
        max_connections: int = 10_000,
        header_timeout: Duration = 10.0,
        idle_timeout: Duration = 90.0,
        connect_timeout: Duration = 5.0,
        allow_origins: tuple[str, ...] = (),
        tls: TLS | None = None,
    ) -> None:
        super().__init__(*addresses)
        self.tls = tls
        self._context: FreshContext | None = None
        self.connect_timeout = connect_timeout
        self._http = HttpOptions(
            max_body=max_body,
            max_header_bytes=max_header_bytes,
            max_headers=max_headers,
            max_connections=max_connections,
            header_timeout=header_timeout,
            idle_timeout=idle_timeout,
            allow_origins=tuple(allow_origins),
            tls=tls,
        )
        self._opened: weakref.WeakSet[Listener | Socket] = weakref.WeakSet()

    async def _connect(self) -> None:
        if tls := self.tls:
            self._context = FreshContext(tls, tls.client_context)
            if not tls.verify:
                log.warning("transport http does not verify the servers it dials")

    async def _dial(self, address: str) -> Socket:
        loop = asyncio.get_running_loop()
        try:
            host, port = split_address(address)
            name = (self.tls.server_name or host) if self.tls else None
            async with asyncio.timeout(self.connect_timeout):
                _, socket = await loop.create_connection(
                    lambda: ClientSocket(address, self._http),
                    host,
                    port,
                    ssl=self._context,
                    server_hostname=name,
                )
                if self._context:
                    await self._admitted(socket)
        except (OSError, ValueError) as error:
            raise self._unavailable("cannot connect to", address, error) from error
        self._opened.add(socket)
        return socket

    async def _admitted(self, socket: ClientSocket) -> None:
        """Since TLS 1.3 we might speak before the server has looked at our certificate, and could
        not tell its refusal from a request that ran. Its ticket, if it gives any, comes after."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _VERDICT
        try:
            while socket.unproven() and loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        except BaseException:
            socket.drop()
            raise
        if socket.closed:
            socket.drop()
            raise BackendRefused(
                f"transport http: {socket.peer} ended the connection after the handshake: give a "
                "certificate that it trusts as cert and key of tls",
                plugin=self.name,
                address=socket.peer,
            ) from socket.cause

    async def _listen(self, address: str, serve: Serve) -> Listener:
        listener = HttpListener(serve, self._http, self.probe)
        try:
            await listener.start(address)
        except (OSError, ValueError) as error:
            raise self._unavailable("cannot listen on", address, error) from error
        self._opened.add(listener)
        return listener

    async def _close(self) -> None:
        await asyncio.gather(*[opened.close() for opened in self._opened])

    def _unavailable(self, what: str, address: str, error: Exception) -> BackendError:
        text = str(error) or f"no answer within {self.connect_timeout:g} s"
        kind: type[BackendError] = BackendUnavailable
        if isinstance(error, ssl.SSLError):
            kind, text = BackendRefused, tls_remedy(error)
        text = f"transport http {what} {address!r}: {text}"
        return kind(text, plugin=self.name, address=address)
