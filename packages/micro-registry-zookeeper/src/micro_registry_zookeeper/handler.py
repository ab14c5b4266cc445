"""kazoo's threads: TLS as the core has it, and connections that can be cut."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler

from micro_core.errors import OptionError
from micro_core.security import TLS

CONNECT_LIMIT = 3.0  # seconds for a TCP connection and its TLS
CLOSE_LIMIT = 1.0  # seconds for the server to confirm the end of a session
GRACE = 1.0  # seconds by which the event loop may miss a deadline
log = logging.getLogger("micro.registry.zookeeper")


class _AtOnce(queue.Queue):  # type: ignore[type-arg]
    """Calls what kazoo would have another thread call: our callbacks only wake the loop.

    So answers and events arrive in the order in which the server sent them.
    """

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if callable(item):
            item()
        else:  # the sign to stop
            super().put(item, block, timeout)


class Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """All that kazoo waits for, it waits for here.

    ``failed`` is called, in kazoo's thread, with why no connection could be made.

    ``due`` is a time of the monotonic clock by which the event loop has something to do. When it
    is missed the loop hangs: kazoo's thread then stops too, and the session ends as that of a
    frozen process would.
    """

    queue_impl = _AtOnce
    due: float = float("inf")

    def __init__(self, tls: TLS | None, failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self._tls = tls
        self._failed = failed
        self._socket: socket.socket | None = None
        self._is_cut = False

    def create_connection(
        self, address: tuple[str, int], hostname: str = "", timeout: float = 0.0, **_: object
    ) -> socket.socket:
        try:
            return self._connected(address, hostname, min(timeout, CONNECT_LIMIT))
        except (OSError, OptionError) as error:
            if self._socket is not None:
                self._socket.close()
            if not self._is_cut:
                self._failed(error)
            raise OSError(str(error)) from error

    def _connected(self, address: tuple[str, int], host: str, timeout: float) -> socket.socket:
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        made = self._socket = socket.socket(family, kind, protocol)
        if self._is_cut:
            raise ConnectionAbortedError("closed")
        made.settimeout(timeout)
        made.connect(where)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:  # a new context each time, as files may have been replaced
            name = self._tls.server_name or host
            made = self._tls.client_context().wrap_socket(made, server_hostname=name)
            self._socket = made
        return made

    def select(
        self, reading: list[Any], writing: list[Any], *more: Any
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """What TLS has decrypted already is readable, though its socket is not."""
        while time.monotonic() > self.due + GRACE and not self._is_cut:
            time.sleep(0.1)
        pending = [one for one in reading if isinstance(one, ssl.SSLSocket) and one.pending()]
        if pending:
            more = (*more[:1], 0)
        readable, writable, failed = super().select(reading, writing, *more)
        return [*pending, *(one for one in readable if one not in pending)], writable, failed

    def cut(self) -> None:
        """End the connection, or the attempt at one, at once."""
        self._is_cut = True
        if (found := self._socket) is not None:
            with contextlib.suppress(OSError):  # SSLSocket's own pulls TLS from under its reader
                socket.socket.shutdown(found, socket.SHUT_RDWR)


def end(client: KazooClient, handler: Handler) -> None:
    """End the session and kazoo's threads; blocks for a second or so if the server is away."""
    watchdog = threading.Timer(CLOSE_LIMIT, handler.cut)
    watchdog.start()
    try:
        client.stop()
        client.close()
    except Exception as error:
        log.warning("a connection to ZooKeeper did not end: %s", error)
    finally:
        watchdog.cancel()
        watchdog.join()
