"""Consul's HTTP API: what it is asked, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, BackendUnknown
from micro_core.security import TLS, Secret
from micro_http import Endpoints, Question, Reply

INDEX = "X-Consul-Index"
HIDDEN = "X-Consul-Results-Filtered-By-ACLs"
WAIT_SLACK = 5.0  # seconds a blocking query may take beyond what Consul promises
TOKEN = "give a token with more rights: token=, --registry_token"  # noqa: S105
BUSY = "raise limits.http_max_conns_per_client of the agent"
STRANGE = "is not Consul's HTTP API"


class Agents(Endpoints):
    """The agents of one registry."""

    software, port, credentials = "a Consul agent", 8500, "token="

    def __init__(self, addresses: tuple[str, ...], token: Secret | None, tls: TLS | None) -> None:
        super().__init__("consul", addresses, tls, {"X-Consul-Token": token} if token else {})
        self._token = token

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
    ) -> Reply:
        """The answer of ``agent``, or of the first that succeeds.

        Statuses but 2xx and those to ``tolerate`` are errors. A PUT that may have been done is
        tried nowhere else. ``wait`` marks a blocking query and says how long it may take.
        """
        doubt = BackendUnavailable if method == "GET" else BackendUnknown
        limit = wait * 17 / 16 + WAIT_SLACK if wait else 0.0
        question = Question(method, f"{path}?{urlencode(query)}", body, doubt, wait=limit)

        async def attempt(each: str) -> Reply:
            reply = await self.exchange(each, question)
            if reply.status >= 300 and reply.status not in tolerate:
                raise self._refusal(reply, doubt)
            if not reply.headers.get(INDEX, "0").isdecimal():
                raise self.failure(BackendUnavailable, each, STRANGE)
            return reply

        return await self.first(attempt, at=agent, settled=not wait)

    def json(self, answer: Reply) -> Any:
        """The body; ``()`` for Consul's null, which it says for an empty list."""
        try:
            return json.loads(answer.body) or ()
        except (ValueError, RecursionError) as error:
            raise self.failure(BackendUnavailable, answer.server, STRANGE) from error

    def _refusal(self, reply: Reply, doubt: type[BackendError]) -> BackendError:
        kind, remedy = BackendRefused if reply.status < 500 else doubt, ""
        if reply.status in (401, 403):
            remedy = TOKEN
        elif reply.status == 429:
            kind, remedy = BackendUnavailable, BUSY
        said = self.quoted(reply.body.decode(errors="replace"), self._token)
        text = f"HTTP {reply.status}: {said}" + f"; {remedy}" * bool(remedy)
        return self.failure(kind, reply.server, text)
