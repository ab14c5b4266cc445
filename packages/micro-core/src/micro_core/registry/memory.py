"""The memory registry: services inside one event loop, for tests and for parts of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar, Literal

from ..hub import hub
from .base import Change, Registry, RegistryFeatures
from .records import ServiceInfo


class RegistryHub:
    """What the memory registries of one name in one loop share."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, tuple[ServiceInfo, float]]] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def put(self, info: ServiceInfo, expiry: float) -> None:
        """Store a record of one node until the loop's time ``expiry``."""
        nodes = self._records.setdefault(info.name, {})
        before = nodes.get(info.nodes[0].id)
        nodes[info.nodes[0].id] = info, expiry
        if before is None or before[0] != info or before[1] > expiry:
            self._tell(info.name)

    def remove(self, name: str, id: str) -> None:
        if self._records.get(name, {}).pop(id, None) is not None:
            self._tell(name)

    def clear(self) -> None:
        """Lose everything, as a server without a disk does when it restarts."""
        names, self._records = list(self._records), {}
        for name in names:
            self._tell(name)

    def live(self, name: str, now: float) -> list[ServiceInfo]:
        nodes = self._records.get(name, {})
        for id in [id for id, (_, expiry) in nodes.items() if expiry <= now]:
            del nodes[id]
        if not nodes:
            self._records.pop(name, None)
        return [info for info, _ in nodes.values()]

    def names(self, now: float) -> list[str]:
        return [name for name in list(self._records) if self.live(name, now)]

    def next_expiry(self, name: str) -> float | None:
        return min((expiry for _, expiry in self._records.get(name, {}).values()), default=None)

    async def changes(self, name: str) -> AsyncIterator[Change]:
        """The list now, and after every change of it."""
        loop, wake = asyncio.get_running_loop(), asyncio.Event()
        watchers = self._watchers.setdefault(name, set())
        watchers.add(wake)
        before: list[ServiceInfo] | None = None
        try:
            while True:
                wake.clear()
                now = self.live(name, loop.time())
                if now != before:
                    before = now
                    yield list(now)
                await self._change(name, wake)
        finally:
            watchers.discard(wake)
            if not watchers and self._watchers.get(name) is watchers:
                del self._watchers[name]

    async def _change(self, name: str, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout_at(self.next_expiry(name)):
                await wake.wait()
        except TimeoutError:
            pass

    def _tell(self, name: str) -> None:
        for wake in self._watchers.get(name, ()):
            wake.set()


class MemoryRegistry(Registry):
    """Services of the running event loop; registries of one address share them."""

    name: ClassVar[str] = "memory"
    default_address: ClassVar[str] = "default"
    reach: ClassVar[Literal["process", "host", "network"]] = "process"
    features = RegistryFeatures(expiry=True, changes=True)

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._hub = RegistryHub()

    @property
    def native(self) -> RegistryHub:
        return self._hub

    async def _connect(self) -> None:
        self._hub = hub(RegistryHub, self.address)

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        expiry = asyncio.get_running_loop().time() + ttl
        for node in info.nodes:
            self._hub.put(info.with_nodes([node]), expiry)

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            self._hub.remove(info.name, node.id)

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        return self._hub.live(name, asyncio.get_running_loop().time())

    async def _list_services(self) -> Sequence[str]:
        return self._hub.names(asyncio.get_running_loop().time())

    def _changes(self, name: str) -> AsyncIterator[Change] | None:
        return self._hub.changes(name)
