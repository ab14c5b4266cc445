"""The watcher: one service's nodes as they come and go, whatever becomes of the registry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..backoff import Backoff
from ..errors import MicroError
from .records import RegistryEvent, ServiceInfo, by_version

if TYPE_CHECKING:
    from .base import Change, Registry

log = logging.getLogger("micro.registry")
_STEADY = 5.0  # seconds after which changes that end again did work


class Watcher:
    """Follows one service. Entering takes a snapshot and raises BackendError without one.

    Iterating yields the changes after the snapshot, one event a node; a slow reader gets the
    latest state of a node instead of every state. ``close`` and leaving the context end it.

    An outage of the registry ends nothing: the view stays as it was, and what has changed
    meanwhile, deletions included, follows later. From the failure, or the end of the changes,
    until the first complete list after it the view is ``doubtful``; ``last_error`` says why.
    """

    def __init__(
        self, registry: Registry, name: str, on_change: Callable[[], None] | None = None
    ) -> None:
        self.name = name
        self.doubtful = False
        self.last_error: Exception | None = None
        self._registry = registry
        self._on_change = on_change or _nothing
        self._current: dict[str, ServiceInfo] = {}
        self._delivered: dict[str, ServiceInfo] = {}
        self._dirty: dict[str, None] = {}
        self._services: list[ServiceInfo] | None = []
        self._changes_seen = 0
        self._synced = time.monotonic()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def services(self) -> list[ServiceInfo]:
        """One ServiceInfo per version, like ``get_service``."""
        if self._services is None:
            self._services = by_version(self._current.values())
        return list(self._services)

    @property
    def nodes(self) -> Mapping[str, ServiceInfo]:
        """By node id, each with exactly that node."""
        return self._current

    @property
    def age(self) -> float:
        """Seconds since the view was last known to equal the registry."""
        return time.monotonic() - self._synced

    async def __aenter__(self) -> Self:
        self._replace(await self._registry.get_service(self.name))
        self._delivered = dict(self._current)
        self._dirty.clear()
        self._task = asyncio.create_task(self._supervise(), name=f"micro-watch {self.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop watching; bounded and idempotent. Whoever iterates sees the end."""
        self._closed = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            await end(task, limit=self._registry.close_timeout)

    # -- the reader --------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        if self._task is None and not self._closed:
            raise RuntimeError("use 'async with registry.watch(name) as watcher' first")
        return self

    async def __anext__(self) -> RegistryEvent:
        while not self._closed:
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
        before, now = self._delivered.pop(key, None), self._current.get(key)
        if now is not None:
            self._delivered[key] = now
            return RegistryEvent("create" if before is None else "update", now)
        return None if before is None else RegistryEvent("delete", before)

    # -- the view ----------------------------------------------------------------------------

    def _replace(self, services: Sequence[ServiceInfo]) -> None:
        """A complete list: the view equals it, and every doubt is over."""
        fresh = by_version(info for info in services if info.nodes)
        changed = fresh != self.services
        if changed:
            before = self._current
            self._current = {
                node.id: info.with_nodes([node]) for info in fresh for node in info.nodes
            }
            self._mark(before.keys() | self._current.keys())
        told, self.doubtful = self.doubtful or changed, False
        self._synced = time.monotonic()
        if told:
            self._on_change()

    def _apply(self, change: Change) -> None:
        self._changes_seen += 1
        if not isinstance(change, RegistryEvent):
            self._replace(change)
            return
        for node in change.service.nodes:
            if change.action == "delete":
                self._current.pop(node.id, None)
            else:
                self._current[node.id] = change.service.with_nodes([node])
        self._mark({node.id for node in change.service.nodes})
        self._on_change()

    def _mark(self, keys: set[str]) -> None:
        """Note what the reader has to be told: never more than the nodes of both views."""
        self._services = None
        for key in keys:
            if self._delivered.get(key) == self._current.get(key):
                self._dirty.pop(key, None)
            else:
                self._dirty[key] = None
        if self._dirty:
            self._wake.set()

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
            begin = time.monotonic()
            error: Exception | None = None
            try:
                await self._follow()
            except Exception as failure:
                error = failure
            self._doubt(error)
            if time.monotonic() - begin > _STEADY:
                pause.reset()
            await asyncio.sleep(pause.next())

    async def _follow(self) -> None:
        """Returns when the changes end, raises what they or a list raise."""
        changes = self._registry._changes(self.name)
        if changes is None:
            await self._sync()
            await self._resync(self._registry.poll_interval)
            return
        tasks = [asyncio.create_task(self._receive(changes))]  # before the list is read
        try:
            await self._sync()  # to its end, also if the changes have ended meanwhile
            tasks.append(asyncio.create_task(self._resync(self._registry.resync_interval)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await end(*tasks, limit=self._registry.close_timeout)

    async def _receive(self, changes: AsyncIterator[Change]) -> None:
        try:
            async for change in changes:
                self._apply(change)
        finally:
            if isinstance(changes, AsyncGenerator):
                await changes.aclose()

    async def _resync(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._sync()

    async def _sync(self) -> None:
        """Read the list; one that was asked for before a change came is asked for again."""
        pause = Backoff(0.05, 1.0)
        while True:
            seen = self._changes_seen
            services = await self._registry.get_service(self.name)
            if seen == self._changes_seen:
                self._replace(services)
                return
            await asyncio.sleep(pause.next())


def _nothing() -> None:
    return None


async def end(*tasks: asyncio.Task[Any], limit: float) -> None:
    """Cancel ``tasks`` and wait for their end, ``limit`` seconds at most."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    done, late = await asyncio.wait(tasks, timeout=limit)
    for task in done:
        if not task.cancelled():
            task.exception()  # taken, so that it is not reported as lost
    for task in late:
        log.error("%s does not end", task.get_name())
