"""Several servers of one backend: the first that answers, bounded answers, typed errors."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    OptionError,
)
from micro_core.security import TLS, FreshContext, Secret, redact_url, tls_remedy

ANSWER_LIMIT = 16 << 20  # bytes of one answer, and of one message of a stream
QUOTED = 200  # characters of a server's own words in an error
CONNECT = 1.5  # seconds for a connection: the kernel repeats its request after 1 s and 3 s
VERDICT = 0.3  # seconds for a server to refuse our certificate
CONNECTIONS = 50  # for all but what waits

T = TypeVar("T")


class AnswerTooLong(BackendUnavailable):
    """Over 16 MiB: another server's would be no shorter."""


class Question(NamedTuple):
    """``doubt`` is raised when nobody knows what became of it. ``wait``: seconds for an answer that
    the server holds back; such questions have a pool of connections of their own."""

    method: str
    path: str
    body: object
    doubt: type[BackendError]
    headers: Mapping[str, str] | None = None
    wait: float = 0.0


class Reply(NamedTuple):
    server: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class Endpoints:
    """The servers of one backend, asked in order, beginning with the one that answered last.

    A plugin inherits it, and says what it asks and what the answers mean. Servers are called by
    their URL, ``scheme://host:port``. Raises OptionError for an address that is anything else.
    """

    kind: ClassVar[str] = "registry"
    software: ClassVar[str]
    port: ClassVar[int]
    credentials: ClassVar[str]
    """The options they are given in."""
    repeatable: ClassVar[bool] = False
    """Whether a write that may have been done can be sent to the next server."""

    def __init__(
        self,
        plugin: str,
        addresses: Iterable[str],
        tls: TLS | None,
        headers: Mapping[str, str | Secret],
    ) -> None:
        """``headers`` go with every request."""
        self._plugin = plugin
        self._headers = headers
        self._urls = [self._base_url(address, tls) for address in addresses]
        self._tls = tls or (TLS() if any(url.startswith("https:") for url in self._urls) else None)
        self._ssl: ssl.SSLContext | bool = True
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._timeout = 5.0
        self._patience = CONNECT

    def _base_url(self, address: str, tls: TLS | None) -> str:
        url = address if "://" in address else f"{'https' if tls else 'http'}://{address}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or self.port
            host.encode("idna")
        except ValueError:  # UnicodeError is one
            parts, host, port = urlsplit(""), "", 0
        more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
        if more or not host or parts.scheme not in (("https",) if tls else ("http", "https")):
            raise OptionError(
                f"{self.software}'s address {redact_url(url)!r}: give host, host:port, [v6]:port "
                f"or http(s)://host:port, with tls= only https, and credentials as "
                f"{self.credentials}"
            )
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def open(self, timeout: float) -> None:
        """``timeout``: seconds that one operation may take at all the servers together.

        Raises OptionError for TLS files that cannot be used.
        """
        self._timeout = timeout / len(self._urls)
        self._patience = min(CONNECT, 0.8 * self._timeout)
        if tls := self._tls:
            self._ssl = FreshContext(tls, tls.client_context)
        headers = {name: _plain(value) for name, value in self._headers.items()}
        # What waits holds its connection: in one pool, many would starve the heartbeats.
        for waiting, limit in ((False, CONNECTIONS), (True, 0)):
            self._sessions[waiting] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit),
                headers={"Accept-Encoding": "identity", **headers},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience),
                auto_decompress=False,
            )

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession | None:
        """Of ordinary requests, while open."""
        return self._sessions.get(False)

    # -- asking ------------------------------------------------------------------------------

    async def first(
        self, attempt: Callable[[str], Awaitable[T]], *, at: str = "", settled: bool = True
    ) -> T:
        """What ``attempt`` gives for the server ``at``, or for the first where it succeeds.

        Without ``settled`` a failure does not change which server is asked first.
        """
        failures: list[BackendError] = []
        for server in [at] if at else list(self._urls):
            try:
                return await attempt(server)
            except (BackendError, asyncio.CancelledError) as error:
                final = isinstance(error, BackendError) and self._is_final(error)
                if self._urls[0] == server and settled and not final:  # also at a deadline
                    self._urls.append(self._urls.pop(0))
                unsure = isinstance(error, BackendUnknown) and not self.repeatable
                if final or unsure or not isinstance(error, BackendError):
                    raise
                failures.append(error)
        raise _together(failures)

    def _is_final(self, error: BackendError) -> bool:
        """Whether any other server would say the same."""
        return isinstance(error, AnswerTooLong)

    async def exchange(self, server: str, question: Question) -> Reply:
        """Its answer, of any status."""

        async def work() -> Reply:
            async with self.request(server, question) as response:
                text = bytearray()
                async for chunk in response.content.iter_any():
                    text += chunk
                    self.bound(server, text)
                return Reply(server, response.status, response.headers, bytes(text))

        return await self.guarded(server, question, work)

    def request(self, server: str, question: Question) -> Any:
        """aiohttp's, to await or to enter."""
        if not (session := self._sessions.get(question.wait > 0)):
            raise self.failure(BackendUnavailable, server, f"the {self.kind} is closed")
        return session.request(
            question.method,
            server + question.path,
            json=question.body,
            headers=question.headers,
            allow_redirects=False,
            ssl=self._ssl,
            server_hostname=self._tls.server_name if self._tls else None,
        )

    async def guarded(self, server: str, question: Question, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` gives within the question's time, or a typed error."""
        limit, doubt = question.wait or self._timeout, question.doubt
        try:
            async with asyncio.timeout(limit):
                return await work()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            reason = await self._reason(server, error, doubt)
            failed = self.failed(server, reason, doubt, limit)
        raise failed  # here, since aiohttp's error, as its context, could show a token's header

    # -- errors ------------------------------------------------------------------------------

    def failure(self, kind: type[BackendError], server: str, text: str) -> BackendError:
        what = f"{self.kind} {self._plugin} at {server}: {text}"
        return kind(what, plugin=self._plugin, address=server)

    def bound(self, server: str, text: bytes | bytearray) -> None:
        """Raises AnswerTooLong."""
        if len(text) > ANSWER_LIMIT:
            raise self.failure(AnswerTooLong, server, f"answer over {ANSWER_LIMIT} bytes")

    def quoted(self, text: str, *secrets: Secret | str | None) -> str:
        """The beginning of what a server said, without what it is not to repeat."""
        for each in secrets:
            text = text.replace(_plain(each), "***") if each else text
        return text.strip()[:QUOTED]

    def failed(
        self, server: str, error: Exception, doubt: type[BackendError], limit: float = 0.0
    ) -> BackendError:
        """What callers get for an error of aiohttp, with its remedy."""
        kind, text = doubt, f"{type(error).__name__}: {error}"
        address = f"start {self.software} there or name another one: --{self.kind}_address"
        if isinstance(error, OptionError):
            kind, text = BackendRefused, f"TLS: {error}"
        elif tls := _tls_error(error):
            kind, text = BackendRefused, f"TLS: {tls_remedy(tls)}"
        elif isinstance(error, aiohttp.ClientConnectorError):
            kind, text = BackendUnavailable, f"no connection: {error}; {address}"
        elif isinstance(error, aiohttp.ServerDisconnectedError) and not self._tls:
            text = f"it hangs up: if it wants TLS, give tls=, --{self.kind}_tls"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            kind, text = BackendUnavailable, f"no connection within {self._patience:g} s; {address}"
        elif isinstance(error, TimeoutError):
            text = f"no answer within {limit:g} s; {address}"
        failed = self.failure(kind, server, text)
        shows_headers = isinstance(error, aiohttp.ClientResponseError)
        failed.__cause__ = ValueError(str(error)) if shows_headers else error
        return failed

    async def _reason(self, server: str, error: Exception, doubt: type[BackendError]) -> Exception:
        """What is behind an error of TLS: files that cannot be used, or a certificate refused.

        Since TLS 1.3 a server refuses ours when we have begun to speak, and then it is seldom seen
        why it hung up: this asks again, and only listens. A write that the server may have done
        before, and that must not be repeated, stays in doubt.
        """
        surely = self.repeatable or doubt is not BackendUnknown
        if not self._tls or not (_tls_error(error) or (surely and _hung_up(error))):
            return error
        try:
            self._tls.client_context()
            if not _tls_error(error):
                async with asyncio.timeout(VERDICT):
                    await self._listen(server)
        except (ssl.SSLError, OptionError) as refusal:
            return refusal
        except OSError:  # the timeout is one
            pass
        return error

    async def _listen(self, server: str) -> None:
        parts, name = urlsplit(server), self._tls.server_name if self._tls else None
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, ssl=self._ssl, server_hostname=name
        )
        try:
            if not await reader.read(1):
                raise OptionError("the server hangs up: give a certificate that is not revoked")
        finally:
            writer.transport.abort()


def _plain(value: Secret | str) -> str:
    return value.reveal() if isinstance(value, Secret) else value


def _hung_up(error: Exception) -> bool:
    """Whether a connection that was made ended."""
    ended = isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError)
    return ended and not isinstance(error, aiohttp.ClientConnectorError)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The one underneath: aiohttp's says less, and with TLS 1.3 a refusal comes after the
    handshake, as the cause of an error of another kind."""
    if error is None:
        return None
    return _tls_error(error.__cause__) or (error if isinstance(error, ssl.SSLError) else None)


def _together(failures: list[BackendError]) -> BackendError:
    last = failures[-1]
    if len(failures) == 1:
        return last
    addresses = ",".join(each.address for each in failures)
    error = type(last)("; ".join(map(str, failures)), plugin=last.plugin, address=addresses)
    error.__cause__ = last
    return error
