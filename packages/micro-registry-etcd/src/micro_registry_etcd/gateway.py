"""etcd's v3 API as JSON over HTTP: the first member that answers, bounded answers, typed errors."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast
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

ANSWER_LIMIT = 16 << 20  # bytes of one answer, and of one message of a watch
QUOTED = 200  # characters of etcd's own words in an error
CONNECT = 1.5  # seconds for a connection: the kernel repeats its request after 1 s and 3 s
VERDICT = 0.3  # seconds for a server to refuse our certificate
CONNECTIONS = 50  # for all but watches
ADDRESS = "start an etcd there or name another one: --registry_address"
AUTHENTICATE = "auth/authenticate"
CREDENTIALS = "give a user with the rights: --registry_user, --registry_password"
GATEWAY = "etcd 3.4 or later with its gRPC gateway enabled is needed"
COMMON_NAME = "while users are enabled, give a client certificate that has no CommonName"

# Codes of gRPC
INVALID, DENIED, EXHAUSTED, NOT_NOW, UNAUTHENTICATED = 3, 7, 8, 9, 16
ELSEWHERE = (1, 2, 4, 13, 14)  # cancelled, unknown, too late, internal, unavailable
STALE = ("user name is empty", "auth store is old", "auth token")

Answer = Mapping[str, Any]


class Rejected(Exception):
    """An answer of etcd that is an error, with gRPC's code; the cause of what callers get."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class AnswerTooLong(BackendUnavailable):
    """Over ANSWER_LIMIT bytes: another member's would be no shorter."""


def base_url(address: str, tls: TLS | None) -> str:
    """``scheme://host:port``. Raises OptionError for an address that is or says anything else."""
    url = address if "://" in address else f"{'https' if tls else 'http'}://{address}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 2379
        host.encode("idna")
    except ValueError:  # UnicodeError is one
        parts, host, port = urlsplit(""), "", 0
    more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
    if more or not host or parts.scheme not in (("https",) if tls else ("http", "https")):
        raise OptionError(
            f"etcd's address {redact_url(url)!r}: give host, host:port, [v6]:port or "
            "http(s)://host:port, with tls= only https, and credentials as user= and password="
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class Gateway:
    """The members of one cluster, asked in order, beginning with the one that answered last.

    Every write is one that may be repeated: what failed at a member is tried at the next.
    """

    def __init__(
        self,
        name: str,
        urls: list[str],
        user: str | None,
        password: Secret | None,
        tls: TLS | None,
    ) -> None:
        self._name = name
        self._urls = urls
        self._user = user
        self._password = password
        self._tls = tls or (TLS() if any(url.startswith("https:") for url in urls) else None)
        self._ssl: ssl.SSLContext | bool = True
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._timeout = 5.0
        self._patience = CONNECT
        self._token: str | None = None  # empty: the server wants none
        self._renewing = asyncio.Lock()

    def failure(self, kind: type[BackendError], member: str, text: str) -> BackendError:
        what = f"registry {self._name} at {member}: {text}"
        return kind(what, plugin=self._name, address=member)

    def open(self, timeout: float) -> None:
        """``timeout``: seconds that one operation may take at all the members together."""
        self._timeout = timeout / len(self._urls)
        self._token, self._renewing = None, asyncio.Lock()
        if tls := self._tls:
            self._ssl = FreshContext(tls, tls.client_context)
        self._patience = min(CONNECT, 0.8 * self._timeout)
        for streaming, limit in ((False, CONNECTIONS), (True, 0)):
            self._sessions[streaming] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit),
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._patience),
                auto_decompress=False,
            )

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession | None:
        return self._sessions.get(False)

    # -- questions ---------------------------------------------------------------------------

    async def ask(self, call: str, request: Answer, *, at: str = "") -> tuple[str, Answer]:
        """What the member ``at`` or the first that can says, and its URL.

        ``call`` is a path below ``/v3/``. What any member would refuse is asked once.
        """
        failures: list[BackendError] = []
        for member in [at] if at else list(self._urls):
            try:
                return member, await self._ask(member, call, request)
            except (BackendError, asyncio.CancelledError) as error:
                final = isinstance(error, BackendError) and _is_final(error)
                if self._urls[0] == member and not final:  # also where a deadline ended it
                    self._urls.append(self._urls.pop(0))
                if final or not isinstance(error, BackendError):
                    raise
                failures.append(error)
        raise _together(failures)

    async def _ask(self, member: str, call: str, request: Answer) -> Answer:
        """A token that has expired, or that a restarted server forgot, is replaced once."""
        if self._user and self._token is None:
            await self._renew(member, None)
        token = self._token
        try:
            return await self._exchange(member, call, request)
        except BackendError as error:
            stale = any(text in str(error.__cause__) for text in STALE)
            if not (stale and self._user):
                raise
        await self._renew(member, token)
        return await self._exchange(member, call, request)

    async def _renew(self, member: str, stale: str | None) -> None:
        async with self._renewing:
            if self._token != stale or not self._password:
                return
            self._token = None
            credentials = {"name": self._user, "password": self._password.reveal()}
            try:
                answer = await self._exchange(member, AUTHENTICATE, credentials)
            except BackendError as error:
                if not (isinstance(error.__cause__, Rejected) and error.__cause__.code == NOT_NOW):
                    raise
                answer = {"token": ""}  # authentication is not enabled
            self._token = str(answer["token"])

    async def _exchange(self, member: str, call: str, request: Answer) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                async with self._post(member, call, request, streaming=False) as response:
                    text = bytearray()
                    async for chunk in response.content.iter_any():
                        text += chunk
                        self._bounded(member, text)
                    return self._parsed(member, call, text, response.status)
        except (TimeoutError, aiohttp.ClientError, OSError, OptionError) as error:
            failed = self._failed(member, call, await self._reason(member, error))
        raise failed  # here, since aiohttp's error, as its context, could show the token's header

    def _post(self, member: str, call: str, request: Answer, *, streaming: bool) -> Any:
        if not (session := self._sessions.get(streaming)):
            raise self.failure(BackendUnavailable, member, "the registry is closed")
        headers = {"Grpc-Metadata-hasleader": "true"}  # a member without one is to say so
        return session.post(
            f"{member}/v3/{call}",
            json=request,
            headers={**headers, "Authorization": self._token} if self._token else headers,
            allow_redirects=False,
            ssl=self._ssl,
            server_hostname=self._tls.server_name if self._tls else None,
        )

    # -- watches -----------------------------------------------------------------------------

    async def watch(
        self, member: str, request: Answer, quiet: float
    ) -> AsyncGenerator[Answer, None]:
        """Its messages, and an empty one whenever there was none for ``quiet`` seconds."""
        response = await self._opened(member, request)
        rest = bytearray()
        try:
            while True:
                try:
                    async with asyncio.timeout(quiet):
                        chunk = await response.content.readany()
                except TimeoutError:
                    yield {}
                    continue
                except (aiohttp.ClientError, OSError) as error:
                    failed = self._failed(member, "watch", error)
                    break
                if not chunk:
                    if response.status != 200:
                        yield self._message(member, rest, response.status)
                    failed = self.failure(BackendUnavailable, member, "watch: the server ended it")
                    break
                rest += chunk
                self._bounded(member, rest)
                if b"\n" in chunk:
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        yield self._message(member, line, response.status)
        finally:
            _hang_up(response)
        raise failed

    async def _opened(self, member: str, request: Answer) -> aiohttp.ClientResponse:
        """etcd sends the head together with the first message."""
        body = {"create_request": request}
        try:
            async with asyncio.timeout(self._timeout):
                return cast(
                    aiohttp.ClientResponse,
                    await self._post(member, "watch", body, streaming=True),
                )
        except (TimeoutError, aiohttp.ClientError, OSError, OptionError) as error:
            failed = self._failed(member, "watch", error)
        raise failed

    def _message(self, member: str, line: bytes | bytearray, status: int) -> Answer:
        result: Answer = self._parsed(member, "watch", line, status).get("result", {})
        if result.get("canceled"):
            reason = str(result.get("cancel_reason") or "compacted")
            kind = BackendRefused if "permission denied" in reason else BackendUnavailable
            raise self.failure(kind, member, f"watch: {reason[:QUOTED]}")
        return result

    # -- answers and errors ------------------------------------------------------------------

    def _parsed(self, member: str, call: str, text: bytes | bytearray, status: int) -> Answer:
        """Older versions have another name for the code of an error in a watch."""
        try:
            answer: Any = json.loads(text)
            error: Any = answer.get("error") if status == 200 else answer
            code, said = (error.get("code"), error.get("message")) if error else (0, "")
            code = int(error.get("grpc_code", 2) if code is None else code)
        except (ValueError, TypeError, RecursionError, AttributeError) as wrong:
            said = self._said(text.decode(errors="replace"))
            remedy = COMMON_NAME if said.startswith("CommonName") else GATEWAY
            what = f"HTTP {status}: {said}; {remedy}"
            raise self.failure(BackendRefused, member, what) from wrong
        if error:
            rejected = Rejected(code, self._said(str(said)))
            raise self._mapped(member, call, rejected) from rejected
        return cast(Answer, answer)

    def _mapped(self, member: str, call: str, error: Rejected) -> BackendError:
        if error.code in (DENIED, UNAUTHENTICATED) or call == AUTHENTICATE:
            return self.failure(BackendRefused, member, f"{call}: {error}; {CREDENTIALS}")
        if error.code in (INVALID, EXHAUSTED):
            return self.failure(BackendRefused, member, f"{call}: {error}")
        kind = _unsure(call) if error.code in ELSEWHERE else BackendUnavailable
        return self.failure(kind, member, f"{call}: {error}")

    def _bounded(self, member: str, text: bytes | bytearray) -> None:
        if len(text) > ANSWER_LIMIT:
            raise self.failure(AnswerTooLong, member, f"answer over {ANSWER_LIMIT} bytes")

    def _said(self, text: str) -> str:
        password = self._password.reveal() if self._password else ""
        for hidden in filter(None, (self._token, password)):
            text = text.replace(hidden, "***")
        return text.strip()[:QUOTED]

    async def _reason(self, member: str, error: Exception) -> Exception:
        """Since TLS 1.3 a server refuses our certificate when we have begun to speak, and then it
        is seldom seen why it hung up: this asks again, and only listens."""
        hung_up = isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError)
        connected = hung_up and not isinstance(error, aiohttp.ClientConnectorError)
        if self._tls and connected and not _tls_error(error):
            try:
                async with asyncio.timeout(VERDICT):
                    await self._listen(member)
            except (ssl.SSLError, OptionError) as refusal:
                return refusal
            except OSError:  # the timeout is one
                pass
        return error

    async def _listen(self, member: str) -> None:
        parts, name = urlsplit(member), self._tls.server_name if self._tls else None
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, ssl=self._ssl, server_hostname=name
        )
        try:
            if not await reader.read(1):
                raise OptionError("the server hangs up: give a certificate that is not revoked")
        finally:
            writer.transport.abort()

    def _failed(self, member: str, call: str, error: Exception) -> BackendError:
        kind, text = _unsure(call), f"{type(error).__name__}: {error}"
        if tls := _tls_error(error):
            kind, text = BackendRefused, f"TLS: {tls_remedy(tls)}"
        elif isinstance(error, OptionError):
            kind, text = BackendRefused, f"TLS: {error}"
        elif isinstance(error, aiohttp.ClientConnectorError):
            kind, text = BackendUnavailable, f"no connection: {error}; {ADDRESS}"
        elif isinstance(error, aiohttp.ServerDisconnectedError) and not self._tls:
            text = "it hangs up: if it wants TLS, give tls=, --registry_tls"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            kind, text = BackendUnavailable, f"no connection within {self._patience:g} s; {ADDRESS}"
        elif isinstance(error, TimeoutError):
            text = f"no answer within {self._timeout:g} s; {ADDRESS}"
        failed = self.failure(kind, member, text)
        shows_headers = isinstance(error, aiohttp.ClientResponseError)
        failed.__cause__ = ValueError(str(error)) if shows_headers else error
        return failed


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """At once: TLS would wait for the server's farewell."""
    if response.connection and response.connection.transport:
        response.connection.transport.abort()
    response.close()


def _is_final(error: BackendError) -> bool:
    """Whether another member would say the same."""
    said = error.__cause__
    rejected = isinstance(said, Rejected) and said.code not in ELSEWHERE
    return rejected or isinstance(error, AnswerTooLong)


def _unsure(call: str) -> type[BackendError]:
    writes = call not in ("kv/range", "watch", AUTHENTICATE)
    return BackendUnknown if writes else BackendUnavailable


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
