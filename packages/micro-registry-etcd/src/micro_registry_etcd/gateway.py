"""etcd's v3 API as JSON over HTTP: what it is asked, and what its answers mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import aiohttp

from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, BackendUnknown
from micro_core.security import TLS, Secret
from micro_http import Endpoints, Question

LEADER = {"Grpc-Metadata-hasleader": "true"}  # a member without one is to say so
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


class Gateway(Endpoints):
    """The members of one cluster. Every write is one that may be repeated."""

    software, port, credentials = "an etcd", 2379, "user= and password="
    repeatable = True

    def __init__(
        self,
        name: str,
        addresses: tuple[str, ...],
        user: str | None,
        password: Secret | None,
        tls: TLS | None,
    ) -> None:
        super().__init__(name, addresses, tls, LEADER)
        self._user = user
        self._password = password
        self._token: str | None = None  # empty: the server wants none
        self._renewing = asyncio.Lock()

    def open(self, timeout: float) -> None:
        self._token, self._renewing = None, asyncio.Lock()
        super().open(timeout)

    # -- questions ---------------------------------------------------------------------------

    async def ask(self, call: str, request: Answer, *, at: str = "") -> tuple[str, Answer]:
        """What the member ``at`` or the first that can says, and its URL.

        ``call`` is a path below ``/v3/``. What any member would refuse is asked once.
        """

        async def attempt(member: str) -> tuple[str, Answer]:
            return member, await self._ask(member, call, request)

        return await self.first(attempt, at=at)

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
        reply = await self.exchange(member, self._question(call, request))
        return self._parsed(member, call, reply.body, reply.status)

    def _question(self, call: str, body: Answer, wait: float = 0.0) -> Question:
        token = {"Authorization": self._token} if self._token else {}
        return Question("POST", f"/v3/{call}", body, _unsure(call), token, wait)

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
                    failed = self.failed(member, error, BackendUnavailable)
                    break
                if not chunk:
                    if response.status != 200:
                        yield self._message(member, rest, response.status)
                    failed = self.failure(BackendUnavailable, member, "watch: the server ended it")
                    break
                rest += chunk
                self.bound(member, rest)
                if b"\n" in chunk:
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        yield self._message(member, line, response.status)
        finally:
            _hang_up(response)
        raise failed

    async def _opened(self, member: str, request: Answer) -> aiohttp.ClientResponse:
        """etcd sends the head together with the first message."""
        question = self._question("watch", {"create_request": request}, self._timeout)
        return await self.guarded(member, question, lambda: self.request(member, question))

    def _message(self, member: str, line: bytes | bytearray, status: int) -> Answer:
        result: Answer = self._parsed(member, "watch", line, status).get("result", {})
        if result.get("canceled"):
            reason = str(result.get("cancel_reason") or "compacted")
            kind = BackendRefused if "permission denied" in reason else BackendUnavailable
            raise self.failure(kind, member, f"watch: {self.quoted(reason)}")
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

    def _said(self, text: str) -> str:
        return self.quoted(text, self._token, self._password)

    def _is_final(self, error: BackendError) -> bool:
        said = error.__cause__
        rejected = isinstance(said, Rejected) and said.code not in ELSEWHERE
        return rejected or super()._is_final(error)


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """At once: TLS would wait for the server's farewell."""
    if response.connection and response.connection.transport:
        response.connection.transport.abort()
    response.close()


def _unsure(call: str) -> type[BackendError]:
    writes = call not in ("kv/range", "watch", AUTHENTICATE)
    return BackendUnknown if writes else BackendUnavailable
