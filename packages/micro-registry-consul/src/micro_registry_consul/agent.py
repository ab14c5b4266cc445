"""Consul's HTTP API: the first agent that answers, bounded answers, typed errors."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    OptionError,
)
from micro_core.security import TLS, Secret, redact_url

ANSWER_LIMIT = 16 << 20  # bytes of one answer
QUOTED = 200  # characters of Consul's own words in an error
CONNECTIONS = 50  # for all but blocking queries
WAIT_SLACK = 5.0  # seconds a blocking query may take beyond what Consul promises
ADDRESS = "start a Consul agent there or name another one: --registry_address"
TOKEN = "give a token with more rights: token=, --registry_token"  # noqa: S105
BUSY = "raise limits.http_max_conns_per_client of the agent"


@dataclass(frozen=True, slots=True)
class Answer:
    agent: str
    status: int
    index: int
    hidden: bool  # whether ACLs have taken something out
    body: bytes

    def json(self) -> Any:
        """The body; ``()`` for Consul's null, which it says for an empty list."""
        try:
            return json.loads(self.body) or ()
        except (ValueError, RecursionError) as error:
            raise failure(BackendUnavailable, self.agent, "is not Consul's HTTP API") from error


def failure(kind: type[BackendError], agent: str, text: str) -> BackendError:
    return kind(f"registry consul at {agent}: {text}", plugin="consul", address=agent)


def base_url(address: str, tls: TLS | None) -> str:
    """``scheme://host:port``. Raises OptionError for an address that is or says anything else."""
    url = address if "://" in address else f"{'https' if tls else 'http'}://{address}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 8500
    except ValueError:
        parts, host, port = urlsplit(""), "", 0
    more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
    if more or not host or parts.scheme not in (("https",) if tls else ("http", "https")):
        raise OptionError(
            f"Consul's address {redact_url(url)!r}: give host, host:port, [v6]:port or "
            "http(s)://host:port, with tls= only https, and credentials as token="
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class Agents:
    """The agents of one registry, asked in order, beginning with the one that answered last."""

    def __init__(self, urls: list[str], token: Secret | None, tls: TLS | None) -> None:
        self._urls = urls
        self._token = token
        self._tls = tls or (TLS() if any(url.startswith("https:") for url in urls) else None)
        self._context: ssl.SSLContext | None = None
        self._reload_at = float("inf")
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._first = 0
        self._timeout = 5.0

    def open(self, timeout: float) -> None:
        """``timeout``: seconds that one operation may take at all the agents together."""
        self._timeout = timeout / len(self._urls)
        self._load_tls()
        token = {"X-Consul-Token": self._token.reveal()} if self._token else {}
        # A blocking query holds its connection: in one pool, many would starve the heartbeats.
        for blocking, limit in ((False, CONNECTIONS), (True, 0)):
            self._sessions[blocking] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=limit, ssl=self._context or True),
                headers={"Accept-Encoding": "identity", **token},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout / 2),
                auto_decompress=False,
            )

    def _load_tls(self) -> None:
        """Certificates may be replaced: after a failure their files are read again."""
        self._reload_at = float("inf")
        self._context = self._tls.client_context() if self._tls else None

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession | None:
        return self._sessions.get(False)

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        *,
        agent: str = "",
        tolerate: tuple[int, ...] = (),
        wait: float = 0.0,
    ) -> Answer:
        """The answer of ``agent``, or of the first that succeeds.

        Statuses but 2xx and those to ``tolerate`` are errors. A PUT that may have been done is
        tried nowhere else. ``wait`` marks a blocking query and says how long it may take.
        """
        url = f"{path}?{urlencode(query)}"
        failures: list[BackendError] = []
        for each in [agent] if agent else self._urls[self._first :] + self._urls[: self._first]:
            try:
                answer = await self._try(method, each, url, body, wait)
                if answer.status not in tolerate:
                    self._demand(method, answer)
            except (BackendError, asyncio.CancelledError) as error:
                if self._urls[self._first] == each and not wait:
                    self._first = (self._first + 1) % len(self._urls)
                if not isinstance(error, BackendUnavailable | BackendRefused):
                    raise
                failures.append(error)
            else:
                return answer
        raise _together(failures)

    async def _try(self, method: str, agent: str, url: str, body: object, wait: float) -> Answer:
        limit = wait * 17 / 16 + WAIT_SLACK if wait else self._timeout
        try:
            async with asyncio.timeout(limit):
                return await self._exchange(method, agent, url, body, blocking=wait > 0)
        except (TimeoutError, aiohttp.ClientError, OSError, OptionError, ValueError) as error:
            failed = self._failed(method, agent, error, limit)
        raise failed  # here, since as its context aiohttp's error could show the token's header

    async def _exchange(
        self, method: str, agent: str, url: str, body: object, *, blocking: bool
    ) -> Answer:
        if time.monotonic() > self._reload_at:
            self._load_tls()
        if not (session := self._sessions.get(blocking)):
            raise failure(BackendUnavailable, agent, "the registry is closed")
        async with session.request(
            method,
            agent + url,
            json=body,
            allow_redirects=False,
            ssl=self._context or True,
            server_hostname=self._tls.server_name if self._tls else None,
        ) as response:
            text = bytearray()
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > ANSWER_LIMIT:
                    raise failure(BackendUnavailable, agent, f"answer over {ANSWER_LIMIT} bytes")
            index = int(response.headers.get("X-Consul-Index", 0))
            hidden = response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true"
            return Answer(agent, response.status, index, hidden, bytes(text))

    def _failed(self, method: str, agent: str, error: Exception, limit: float) -> BackendError:
        kind, text = _unsure(method), f"{type(error).__name__}: {error}"
        self._reload_at = min(self._reload_at, time.monotonic() + 1.0)
        if _is_tls(error):
            kind, text = BackendRefused, f"TLS: {error}"
        elif isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            kind, text = BackendUnavailable, f"no connection: {error}; {ADDRESS}"
        elif isinstance(error, TimeoutError):
            text = f"no answer within {limit:g} s; {ADDRESS}"
        failed = failure(kind, agent, text)
        shows_headers = isinstance(error, aiohttp.ClientResponseError)
        failed.__cause__ = ValueError(str(error)) if shows_headers else error
        return failed

    def _demand(self, method: str, answer: Answer) -> None:
        if answer.status < 300:
            return
        kind, remedy = BackendRefused if answer.status < 500 else _unsure(method), ""
        if answer.status in (401, 403):
            remedy = TOKEN
        elif answer.status == 429:
            kind, remedy = BackendUnavailable, BUSY
        said = answer.body.decode(errors="replace").strip()
        said = said.replace(self._token.reveal(), "***") if self._token else said
        text = f"HTTP {answer.status}: {said[:QUOTED]}" + f"; {remedy}" * bool(remedy)
        raise failure(kind, answer.agent, text)


def _unsure(method: str) -> type[BackendError]:
    return BackendUnavailable if method == "GET" else BackendUnknown


def _is_tls(error: BaseException | None) -> bool:
    """Looks at the causes, too: with TLS 1.3 a server refuses us only after the handshake."""
    kinds = ssl.SSLError, aiohttp.ClientSSLError, OptionError
    return isinstance(error, kinds) or (error is not None and _is_tls(error.__cause__))


def _together(failures: list[BackendError]) -> BackendError:
    last = failures[-1]
    if len(failures) == 1:
        return last
    addresses = ",".join(each.address for each in failures)
    error = type(last)("; ".join(map(str, failures)), plugin=last.plugin, address=addresses)
    error.__cause__ = last
    return error
