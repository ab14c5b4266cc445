"""The watcher: one service's nodes as they come and go, whatever becomes of the registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Self

from ..backoff import Backoff
from ..errors import MicroError
from ..timing import end, now
from .records import RegistryEvent, ServiceInfo, by_node, by_version

if TYPE_CHECKING:
    from .base import Change, Registry

log = logging.getLogger("micro.registry")


class Watcher:
    """Follows one service. Entering takes a snapshot and raises BackendError without one.

    Iterating yields the changes after the snapshot, one event a node; a slow reader gets the
    latest state of a node instead of every state. ``close`` and leaving the context end it.

    An outage of the registry ends nothing: the view stays as it was, and what has changed
    meanwhile, deletions included, follows later. From the failure, or the end of the changes,
    until the first complete list after it the view is ``doubtful``; ``last_error`` says why.
    ``nodes`` are by id, each with exactly that node.
    """

    def __init__(
        self, registry: Registry, name: str, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.nodes: Mapping[str, ServiceInfo] = {}
        self.doubtful = False
        self.last_error: Exception | None = None
        self._registry = registry
        self._on_change = on_change
        self._delivered: dict[str, ServiceInfo] = {}
        self._dirty: dict[str, None] = {}
        self._changes_seen = 0
        self._synced = float("-inf")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def services(self) -> list[ServiceInfo]:
        """One ServiceInfo per version, like ``get_service``."""
        return by_version(self.nodes.values())

    @property
    def age(self) -> float:
        """Seconds since the view was last known to equal the registry."""
        return now() - self._synced

    async def __aenter__(self) -> Self:
        self._replace(await self._registry.get_nodes(self.name))
        self._delivered, self._dirty = dict(self.nodes), {}
        self._task = asyncio.create_task(self._supervise(), name=f"micro-watch {self.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop watching; bounded and idempotent. Whoever iterates sees the end."""
        self.closed = True
        self._wake.set()
        await end(self._task, limit=self._registry.close_timeout)

    # -- the reader --------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        if self._task is None and not self.closed:
            raise RuntimeError("use 'async with registry.watch(name) as watcher' first")
        return self

    async def __anext__(self) -> RegistryEvent:
        while not self.closed:
            if event := self._next_event():
                return event
            self._wake.clear()
            await self._wake.wait()
        raise StopAsyncIteration

    def _next_event(self) -> RegistryEvent | None:
        if not self._dirty:
            return None
        key = next(iter(self._dirty))
        del self._dirty[key]
        if key not in self.nodes:
            return RegistryEvent("delete", self._delivered.pop(key))
        known = key in self._delivered
        self._delivered[key] = self.nodes[key]
        return RegistryEvent("update" if known else "create", self.nodes[key])

    # -- the view ----------------------------------------------------------------------------

    def _apply(self, change: Change) -> None:
        self._changes_seen += 1
        if not isinstance(change, RegistryEvent):
            return self._replace(by_node(change))
        changed = by_node([change.service])
        kept = {id: info for id, info in self.nodes.items() if id not in changed}
        return self._show(kept if change.action == "delete" else kept | changed, changed.keys())

    def _replace(self, nodes: Mapping[str, ServiceInfo]) -> None:
        """A complete list: the view equals it, and every doubt is over."""
        doubted, self.doubtful = self.doubtful, False
        self._synced = now()
        if doubted or nodes != self.nodes:
            self._show(nodes, self.nodes.keys() | nodes.keys())

    def _show(self, nodes: Mapping[str, ServiceInfo], changed: Iterable[str]) -> None:
        """Note what the reader has to be told: never more than the nodes of both views."""
        self.nodes = nodes
        for key in changed:
            if self._delivered.get(key) == nodes.get(key):
                self._dirty.pop(key, None)
            else:
                self._dirty[key] = None
        if self._dirty:
            self._wake.set()
        self._on_change()

    def _doubt(self, error: Exception | None) -> None:
        if error is not None:
            self.last_error = error
            if not self.doubtful and not isinstance(error, MicroError):
                log.warning("watch of %s: the registry failed", self.name, exc_info=error)
        self.doubtful = True
        self._on_change()

    # -- the supervisor ----------------------------------------------------------------------

    async def _supervise(self) -> None:
        pause = Backoff(0.1, 2.0)
        while True:
            begin, error = now(), None
            try:
                await self._follow()
            except Exception as failure:
                error = failure
            self._doubt(error)
            await asyncio.sleep(pause.next(worked=now() - begin))

    async def _follow(self) -> None:
        """Returns when the changes end, raises what they or a list raise."""
        changes = self._registry._changes(self.name)
        if changes is None:
            while True:
                await self._sync()
                await asyncio.sleep(self._registry.poll_interval)
        receiving = asyncio.create_task(self._receive(changes))  # before the list is read
        try:
            while True:
                await self._sync()  # to its end, also if the changes have ended meanwhile
                await asyncio.wait([receiving], timeout=self._registry.resync_interval)
                if receiving.done():
                    return receiving.result()
        finally:
            await end(receiving, limit=self._registry.close_timeout)

    async def _receive(self, changes: AsyncIterator[Change]) -> None:
        try:
            async for change in changes:
                self._apply(change)
        finally:
            if isinstance(changes, AsyncGenerator):
                await changes.aclose()

    async def _sync(self) -> None:
        """Read the list; one that was asked for before a change came is asked for again."""
        pause = Backoff(0.05, 1.0)
        while True:
            seen = self._changes_seen
            nodes = await self._registry.get_nodes(self.name)
            if seen == self._changes_seen:
                return self._replace(nodes)
            await asyncio.sleep(pause.next())
