"""One connection to NATS after the other, for as long as a plugin is open."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from nats import errors

from micro_core.backoff import Backoff
from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.security import TLS, FreshContext, Secret, redact_url, tls_remedy
from micro_core.timing import end, now

from .connection import Connection

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds from one attempt to the next
_REFUSED = ("authoriz", "authentic", "permission", "no credentials")
log = logging.getLogger("micro.nats")
Failure = Callable[[type[BackendError], str, BaseException], BackendError]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """Where the servers are, and what to show them; ``inbox`` begins the subjects of answers."""

    addresses: tuple[str, ...]
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    tls: TLS | None = None
    inbox: str = "_INBOX"
    interval: float = 2.5
    connect_timeout: float = 5.0


def server_url(address: str, tls: TLS | None) -> str:
    """``scheme://[user:password@]host:port``. Raises OptionError for anything else."""
    url = address if "://" in address else f"{'tls' if tls else 'nats'}://{address}"
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, good = urlsplit(""), False
    more = parts.path.strip("/") or parts.query or parts.fragment
    if not good or more or parts.scheme not in ("nats", "tls"):
        raise OptionError(
            f"NATS's address {redact_url(url)!r}: give host, host:port, [v6]:port, "
            "nats://host:port or, with TLS, tls://host:port"
        )
    return url


class Link:
    """Connects, tells ``up`` and ``down``, and connects again until it is closed.

    ``up(connection)`` subscribes before anybody else can use the connection; ``down(error)`` is
    told once for each ``up``, one that failed too. ``failure`` makes the plugin's errors.
    """

    def __init__(
        self,
        options: LinkOptions,
        up: Callable[[Connection], Awaitable[None]],
        down: Callable[[Exception], None],
        failure: Failure,
    ) -> None:
        self._options = options
        self._up, self._down = up, down
        self._failure = failure
        self._context: dict[str, FreshContext] = {}
        self._task: asyncio.Task[None] | None = None
        self.connection: Connection | None = None

    async def open(self) -> None:
        """Raises BackendUnavailable or BackendRefused when no server takes the connection."""
        self.connection = await self._connect()
        self._task = asyncio.create_task(self._keep(), name="micro-nats")

    async def close(self) -> None:
        await end(self._task, limit=2.0)
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.finish()

    # -- keeping -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause, began = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), now()
        while True:
            if self.connection is not None:
                error = await asyncio.shield(self.connection.gone)
                await self._leave(error)
            await asyncio.sleep(pause.next(worked=now() - began))
            began = now()
            try:
                self.connection = await self._connect()
                log.info("connected to NATS at %s again", self._named)
            except BackendError:
                began = now()

    async def _leave(self, error: Exception) -> None:
        connection, self.connection = self.connection, None
        log.warning("the connection to NATS at %s is lost: %s", self._named, _text(error))
        self._failure(BackendUnavailable, f"connection lost: {_text(error)}", error)
        self._down(error)
        if connection is not None:
            await connection.finish()

    @property
    def _named(self) -> str:
        return ",".join(map(redact_url, self._options.addresses))

    # -- connecting --------------------------------------------------------------------------

    async def _connect(self) -> Connection:
        """To the first of the addresses that takes it."""
        addresses = self._options.addresses
        limit = 0.9 * self._options.connect_timeout / len(addresses)
        failed: list[BackendError] = []
        for address in addresses:
            try:
                async with asyncio.timeout(limit):
                    return await self._try(address, limit)
            except (errors.Error, OSError, OptionError) as error:
                failed.append(self._failed(address, error))
                failed[-1].__cause__ = error
        refused = [error for error in failed if isinstance(error, BackendRefused)]
        raise (refused or failed)[0]

    async def _try(self, address: str, limit: float) -> Connection:
        options = self._options
        url = server_url(address, options.tls)
        place = urlunsplit(urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]))
        tls = options.tls or (TLS() if url.startswith("tls:") else None)
        connection = Connection(tls=tls is not None)
        connected = False

        async def note(error: Exception) -> None:
            if not connected:
                raise error  # or nats-py would go on with the next try
            if not connection.gone.done():
                log.warning("NATS at %s: %s", redact_url(address), _text(error))

        try:
            await connection.connect(
                place,
                error_cb=note,
                allow_reconnect=False,
                connect_timeout=limit,  # type: ignore[arg-type]  # a float is as good
                ping_interval=1 << 30,  # the connection has a heartbeat of its own
                inbox_prefix=options.inbox,
                pending_size=1 << 62,  # see Connection.room
                **self._credentials(url),
                **self._tls(tls),
            )
            connected = True
            connection.watch(options.interval)
            await self._up(connection)
        except BaseException as error:
            if connected:
                self._down(error if isinstance(error, Exception) else errors.UnexpectedEOF())
            await connection.finish()
            raise
        return connection

    def _credentials(self, url: str) -> Mapping[str, Any]:
        """Those of the options, or of the address: ``user:password@`` or ``token@``."""
        options, parts = self._options, urlsplit(url)
        if not parts.username or options.username or options.token:
            return {
                "user": options.username,
                "password": options.password.reveal() if options.password else None,
                "token": options.token.reveal() if options.token else None,
            }
        if parts.password is None:
            return {"token": unquote(parts.username)}
        return {"user": unquote(parts.username), "password": unquote(parts.password)}

    def _tls(self, tls: TLS | None) -> Mapping[str, Any]:
        if tls is None:
            return {}
        if not self._context:
            self._context["tls"] = FreshContext(tls, tls.client_context)
        name = {"tls_hostname": tls.server_name} if tls.server_name else {}
        return {"tls": self._context["tls"], **name}

    def _failed(self, address: str, error: Exception) -> BackendError:
        """BackendRefused for what only other credentials or certificates mend."""
        text = _text(error)
        if isinstance(error, ssl.SSLError):
            return self._failure(BackendRefused, tls_remedy(error), error)
        if isinstance(error, errors.SecureConnWantedError):
            text = "it offers no TLS: mend the server, or give no tls"
            return self._failure(BackendRefused, text, error)
        if any(word in text.lower() for word in _REFUSED):
            return self._failure(
                BackendRefused, f"{text}: give username and password, or token", error
            )
        what = f"{redact_url(address)} does not take a connection: {text}"
        return self._failure(BackendUnavailable, what, error)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
