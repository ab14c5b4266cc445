"""The transport ``http``: Go Micro's messages over plain HTTP/1.1."""

from __future__ import annotations

import asyncio
import weakref
from typing import ClassVar

from ..errors import BackendUnavailable
from ..optiontypes import Duration
from .address import split_address
from .base import Listener, Serve, Socket, Transport
from .http_client import ClientSocket
from .http_server import HttpListener
from .http_socket import HttpOptions


class HttpTransport(Transport):
    """A message is a POST one way and a 200 response the other way, on one connection.

    The two directions are not paired. HTTP trims blanks around the values of a header, and keeps
    ``Host``, ``Content-Length`` and ``Transfer-Encoding`` for itself. Times are in seconds.
    A listener takes ``probe`` over, and may be given another.

    max_body: most bytes of a message's body, in and out
    max_header_bytes: most bytes of a message's header
    max_headers: most header fields of a message
    max_connections: most connections of a listener; one more gets 503
    header_timeout: time for a header that has begun
    idle_timeout: time after which a listener closes a connection on which nothing happens
    connect_timeout: time for a connection to be made
    allow_origins: values of Origin, which browsers send, that a listener does not refuse
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
    ) -> None:
        super().__init__(*addresses)
        self.connect_timeout = connect_timeout
        self._http = HttpOptions(
            max_body=max_body,
            max_header_bytes=max_header_bytes,
            max_headers=max_headers,
            max_connections=max_connections,
            header_timeout=header_timeout,
            idle_timeout=idle_timeout,
            allow_origins=tuple(allow_origins),
        )
        self._opened: weakref.WeakSet[Listener | Socket] = weakref.WeakSet()

    async def _dial(self, address: str) -> Socket:
        loop = asyncio.get_running_loop()
        try:
            host, port = split_address(address)
            async with asyncio.timeout(self.connect_timeout):
                _, socket = await loop.create_connection(
                    lambda: ClientSocket(address, self._http), host, port, ssl=None
                )
        except (OSError, ValueError) as error:
            raise self._unavailable("cannot connect to", address, error) from error
        self._opened.add(socket)
        return socket

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

    def _unavailable(self, what: str, address: str, error: Exception) -> BackendUnavailable:
        text = str(error) or f"no answer within {self.connect_timeout:g} s"
        return BackendUnavailable(
            f"transport http {what} {address!r}: {text}", plugin=self.name, address=address
        )
