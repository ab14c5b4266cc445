"""The registry driver over Consul's HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    InvalidName,
    OptionError,
)
from micro_core.optiontypes import Duration
from micro_core.registry.base import Change, Registry, RegistryFeatures
from micro_core.registry.records import Node, ServiceInfo
from micro_core.security import TLS, Secret, secret
from micro_http import Reply

from .agent import HIDDEN, INDEX, STRANGE, TOKEN, Agents
from .entries import Entry, from_entries, to_entry

WATCHES = 128  # blocking queries at a time; an agent allows 200 connections from one host
QUERY_INTERVAL = 0.1  # seconds between two queries of one watch
SETTLE = 0.5  # seconds that a change may take to be seen by readers
log = logging.getLogger("micro.registry.consul")


class ConsulRegistry(Registry):
    """Services as Go Micro's consul plugin registers them, with the agent at an address.

    Several addresses are agents of one datacentre; the first that answers is used, and kept.

    token: sent as X-Consul-Token
    datacenter: where to read; an agent registers in its own
    namespace: of everything read and written; Consul Enterprise only
    tls: how to verify the agent and what to show it; makes https of an address without a scheme
    wait: how long a blocking query may last
    stale: let any server answer, without a leader, too; it may miss what it has not read yet
    tags: of your own on every node; none may start with e, t or v
    """

    name: ClassVar[str] = "consul"
    default_address: ClassVar[str] = "127.0.0.1:8500"
    features = RegistryFeatures(expiry=True, changes=True, survives_restart=True)

    def __init__(
        self,
        *addresses: str,
        token: Secret | str | None = None,
        datacenter: str | None = None,
        namespace: str | None = None,
        tls: TLS | None = None,
        wait: Duration = 10.0,
        stale: bool = False,
        tags: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*addresses)
        if not 1.0 <= wait <= 600.0:
            raise OptionError(f"wait={wait} of registry consul: between 1 and 600 seconds")
        if wrong := [tag for tag in tags if tag[:1] in ("", "e", "t", "v")]:
            raise OptionError(f"tags {wrong} of registry consul: Go Micro takes them for its own")
        self._agents = Agents(self.addresses, secret(token), tls)
        self._insecure = tls is not None and not tls.verify
        self._tags = tuple(tags)
        self._wait = wait
        self._here = {"ns": namespace} if namespace else {}
        there = {"dc": datacenter} if datacenter else {}
        # A leader that is not asked to be sure gives empty lists right after a restart.
        self._where = {**self._here, **there, "stale" if stale else "consistent": ""}
        self._slots = asyncio.Semaphore(WATCHES)
        self._watched = 0
        self._written: dict[str, tuple[str, Entry]] = {}
        self._homes: dict[str, list[str]] = {}

    @property
    def native(self) -> aiohttp.ClientSession | None:
        """The session of ordinary requests while connected; it sends the token by itself."""
        return self._agents.session

    async def _connect(self) -> None:
        if self._insecure:
            log.warning("registry consul at %s: TLS does not verify the agent", self.address)
        self._slots = asyncio.Semaphore(WATCHES)
        self._agents.open(0.9 * min(self.operation_timeout, self.connect_timeout))
        answer = await self._agents.ask("GET", "/v1/status/leader", {})
        if not answer.body.startswith(b'"'):
            raise self._agents.failure(BackendUnavailable, answer.server, STRANGE)

    async def _close(self) -> None:
        self._written.clear()
        self._homes.clear()
        await self._agents.close()

    # -- writing -----------------------------------------------------------------------------

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        path = _health(info.name)
        for node in info.nodes:
            _quoted(node.id)  # a bad one is refused before any is written
        entries = [to_entry(info, node, ttl, self._tags) for node in info.nodes]
        fresh = [entry for entry in entries if not await self._refresh(entry)]
        for entry in fresh:
            await self._write(entry)
        if fresh:
            await self._settle(path, lambda found: all(_is_in(entry, found) for entry in fresh))

    async def _refresh(self, entry: Entry) -> bool:
        """Prolong an entry that is written as it stands; False when it has to be written."""
        agent, written = self._written.pop(entry["ID"], ("", None))
        if written != entry:
            return False
        with contextlib.suppress(BackendUnavailable):
            if (await self._pass(entry, agent, tolerate=(404, 500))).status == 200:
                self._written[entry["ID"]] = agent, entry
        return entry["ID"] in self._written

    async def _write(self, entry: Entry) -> None:
        path, id = "/v1/agent/service/register", entry["ID"]
        agent = (await self._agents.ask("PUT", path, self._here, entry)).server
        self._homes[id] = [*(home for home in self._homes.get(id, ()) if home != agent), agent]
        await self._pass(entry, agent)
        self._written[id] = agent, entry

    async def _pass(self, entry: Entry, agent: str, tolerate: tuple[int, ...] = ()) -> Reply:
        path = f"/v1/agent/check/pass/{_quoted('service:' + entry['ID'])}"
        return await self._agents.ask("PUT", path, self._here, agent=agent, tolerate=tolerate)

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            await self._remove(node)
        gone = {node.id for node in info.nodes}
        await self._settle(_health(info.name), lambda found: not gone & {e["ID"] for e in found})

    async def _remove(self, node: Node) -> None:
        """From the agent that has it; one that had it before and is away lets it expire."""
        path = f"/v1/agent/service/deregister/{_quoted(node.id)}"
        self._written.pop(node.id, None)
        *former, home = self._homes.get(node.id, [""])
        await self._agents.ask("PUT", path, self._here, agent=home, tolerate=(404,))
        self._homes.pop(node.id, None)
        for agent in former:
            with contextlib.suppress(BackendError):
                await self._agents.ask("PUT", path, self._here, agent=agent)

    async def _settle(self, path: str, done: Callable[[list[Any]], bool]) -> None:
        """Wait until readers see what the agent was told; it tells the servers a moment later."""
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(SETTLE):
                for turn in range(8):
                    if done([entry["Service"] for entry in await self._read(path, passing="1")]):
                        return
                    await asyncio.sleep(0.005 * 2**turn)

    # -- reading -----------------------------------------------------------------------------

    async def _read(self, path: str, **query: str) -> Any:
        answer = await self._agents.ask("GET", path, {**self._where, **query})
        return self._agents.json(answer)

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        answer = await self._agents.ask("GET", _health(name), {**self._where, "passing": "1"})
        return self._services(name, answer)

    def _services(self, name: str, answer: Reply) -> list[ServiceInfo]:
        found = from_entries(name, self._agents.json(answer))
        if answer.headers.get(HIDDEN) == "true" and not found:
            what = f"{name} is hidden by ACLs; {TOKEN}"
            raise self._agents.failure(BackendRefused, answer.server, what)
        return found

    async def _list_services(self) -> Sequence[str]:
        """Consul goes on to list what is dead: names with a failing check are looked up."""
        names = set(await self._read("/v1/catalog/services"))
        failing = await self._read("/v1/health/state/any", filter='Status != "passing"')
        doubtful = {check["ServiceName"] for check in failing}
        for node in {check["Node"] for check in failing if not check["ServiceName"]}:
            services = await self._read(f"/v1/catalog/node-services/{_quoted(node)}")
            doubtful |= {service["Service"] for service in dict(services).get("Services") or ()}
        return [name for name in names if name not in doubtful or await self._lives(name)]

    async def _lives(self, name: str) -> bool:
        try:
            return bool(await self._get_service(name))
        except (BackendRefused, InvalidName):
            return True  # for all that this client can tell

    async def _changes(self, name: str) -> AsyncGenerator[Change, None]:
        index, time = 0, asyncio.get_running_loop().time
        self._watched += 1
        try:
            while True:
                started = time()
                answer = await self._next(_health(name), index)
                newest = max(1, int(answer.headers.get(INDEX, 0)))
                if newest < index:
                    log.warning("%s: index went from %d back to %d", name, index, newest)
                    return
                if newest > index:
                    yield self._services(name, answer)
                index = newest
                await asyncio.sleep(started + QUERY_INTERVAL - time())
        finally:
            self._watched -= 1

    async def _next(self, path: str, index: int) -> Reply:
        """With more watches than slots they take turns, all within ``wait`` seconds or so.

        ``near`` has the servers answer: the agent's own view of a service (streaming) is empty for
        a while after a restart, whatever consistency is asked for, and has an index of its own.
        """
        async with self._slots:
            wait = max(1.0, self._wait * min(1.0, WATCHES / self._watched))
            blocking = {"near": "_agent", "index": f"{index}", "wait": f"{wait:.3f}s"}
            query = {**self._where, "passing": "1", **blocking}
            return await self._agents.ask("GET", path, query, wait=wait)


def _health(name: str) -> str:
    return f"/v1/health/service/{_quoted(name)}"


def _quoted(name: str) -> str:
    """One segment of a path. Raises InvalidName for what the agent would take for another path."""
    *parts, last = name.split("/")
    if {"", ".", ".."} & set(parts) or last in (".", ".."):
        raise InvalidName(f"{name!r}: Consul's URLs have no empty or dot parts between slashes")
    return quote(name, safe="")


def _is_in(entry: Entry, found: list[Any]) -> bool:
    keys = ("ID", "Tags", "Address", "Port")
    return any(all((entry.get(key) or 0) == (each.get(key) or 0) for key in keys) for each in found)
