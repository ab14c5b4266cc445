"""The cache: what a client knows of the services it calls, with the registry there or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping

from ..errors import BackendError, BackendRefused, BackendUnavailable, MicroError
from ..timing import end, now
from .base import Registry
from .records import Node, ServiceInfo, by_version, check_name
from .watcher import Watcher

log = logging.getLogger("micro.registry")
Predicate = Callable[[ServiceInfo, Node], bool]
NAMES = 10_000
FILTERS = 1_000
UNKNOWN_IDLE = 5.0  # seconds that a name without a service is watched after its last use


class RegistryCache:
    """Views of the services in use; each is watched until ``idle`` seconds after its last use.

    While the registry is away a view stays as it was. Nodes that are missing once it is back may
    only be late to register again: they stay for ``hold`` seconds during which the registry
    answers, or until they are back. So it is with all that vanishes within ``settle`` seconds of
    its return; at any other time a deletion counts at once. ``on_withdrawn`` is told of nodes
    whose address has left a view.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        hold: float = 30.0,
        idle: float = 60.0,
        settle: float = 5.0,
        on_withdrawn: Callable[[Node], None] | None = None,
    ) -> None:
        self.registry = registry
        self.hold = hold
        self.settle = settle
        self.on_withdrawn = on_withdrawn
        self._idle = idle
        self._views: dict[str, ServiceView] = {}
        self._loading: dict[str, asyncio.Task[ServiceView]] = {}
        self._janitor: asyncio.Task[None] | None = None
        self._doubted: set[str] = set()
        self._away_since: float | None = None
        self._closed = False

    def get(self, name: str) -> ServiceView | None:
        """The view of a service, if it is loaded. Ask for it for every call: do not keep it."""
        view = self._views.get(name)
        if view is not None:
            view.used = True
        return view

    def ages(self) -> dict[str, float]:
        """For each service in use, the seconds since the registry was known to say the same."""
        return {name: view.age for name, view in self._views.items()}

    async def load(self, name: str) -> ServiceView:
        """The view of a service, asking the registry at most once for all who wait.

        Raises BackendUnavailable or BackendRefused when the registry cannot be asked and nothing
        is cached; the next load tries anew.
        """
        view = self.get(name)
        if view is not None:
            return view
        if self._closed:
            raise self._unavailable(name, "the client is closed")
        check_name(name)
        try:
            return await self._load(name)
        except Exception as error:  # which all who wait share
            if isinstance(error, MicroError) and not isinstance(error, BackendError):
                raise
            raise self._unavailable(name, error) from error

    async def close(self) -> None:
        """Stop watching; bounded and idempotent."""
        self._closed = True
        tasks = [*self._loading.values(), *filter(None, [self._janitor])]
        self._janitor = None
        await end(*tasks, limit=self.registry.close_timeout)
        await asyncio.gather(*(self._drop(view) for view in list(self._views.values())))

    # -- loading -----------------------------------------------------------------------------

    async def _load(self, name: str) -> ServiceView:
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._open(name))
            task.add_done_callback(lambda done: self._loaded(name, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller and caller.cancelling()):  # it was close()
                raise self._unavailable(name, "the client was closed") from None
            raise

    def _loaded(self, name: str, task: asyncio.Task[ServiceView]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # taken: those who waited may have left

    async def _open(self, name: str) -> ServiceView:
        if len(self._views) >= NAMES:
            await self._drop(min(self._views.values(), key=ServiceView.worth))
        view = ServiceView(self, name)
        await view.open()
        self._views[name] = view
        if self._janitor is None:
            self._janitor = asyncio.create_task(self._sweep(), name="micro-registry-cache")
        return view

    def _unavailable(self, name: str, why: object) -> BackendError:
        kind = BackendRefused if isinstance(why, BackendRefused) else BackendUnavailable
        registry = self.registry
        text = f"{name} cannot be looked up: {why}"
        return kind(text, plugin=registry.name, address=registry.address)

    # -- forgetting --------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle, UNKNOWN_IDLE) / 5)
            unused = [view for view in self._views.values() if view.is_unused(self._idle)]
            await asyncio.gather(*map(self._drop, unused))

    async def _drop(self, view: ServiceView) -> None:
        if self._views.get(view.name) is view:
            del self._views[view.name]
        await view.close()
        self.note_doubt(view.name, False, None)

    # -- telling -----------------------------------------------------------------------------

    def note_doubt(self, name: str, doubtful: bool, error: Exception | None) -> None:
        """Log once that the registry is away, and once that it is back."""
        if doubtful:
            self._doubted.add(name)
            if error is not None and self._away_since is None:
                self._away_since = now()
                log.warning(
                    "registry %s is away, calls go on with the nodes known: %s",
                    self.registry.name,
                    error,
                )
            return
        self._doubted.discard(name)
        if not self._doubted and self._away_since is not None:
            away, self._away_since = now() - self._away_since, None
            log.info("registry %s is back after %.1f s", self.registry.name, away)


class ServiceView:
    """One service as a client sees it.

    ``services`` has one ServiceInfo per version; ``version`` counts the changes of ``services``.
    """

    def __init__(self, cache: RegistryCache, name: str) -> None:
        self.name = name
        self.services: tuple[ServiceInfo, ...] = ()
        self.version = 0
        self.used = True
        self._last_use = now()
        self._waiting = 0
        self._cache = cache
        self._watcher = Watcher(cache.registry, name, self._refresh)
        self._ledger = Ledger(cache.hold, cache.settle)
        self._serving: Mapping[str, ServiceInfo] = {}
        self._filtered: dict[Hashable, tuple[Node, ...]] = {}
        self._former: dict[Hashable, tuple[Node, ...]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._bell = asyncio.Event()
        self._closed = False

    @property
    def known(self) -> bool:
        """Whether the service has a node at all."""
        return bool(self.services)

    @property
    def age(self) -> float:
        """Seconds since the registry was last known to say the same."""
        return self._watcher.age

    def nodes(self, filters: Hashable, predicate: Predicate) -> tuple[Node, ...]:
        """The nodes that ``predicate`` lets pass; ``filters`` is the key it is remembered by.

        The tuple stays the same object until the nodes in it change.
        """
        found = self._filtered.get(filters)
        return self._filter(filters, predicate) if found is None else found

    async def changed(self) -> None:
        """Wait for the next change. Raises BackendUnavailable when the client is closed."""
        self._waiting += 1
        try:
            if not self._closed:
                await self._bell.wait()
        finally:
            self._waiting -= 1
        if self._closed:
            raise BackendUnavailable(f"{self.name} is not watched any more: the client is closed")

    def _filter(self, filters: Hashable, predicate: Predicate) -> tuple[Node, ...]:
        found = tuple(n for info in self.services for n in info.nodes if predicate(info, n))
        former = self._former.pop(filters, None)
        if former is not None and former == found:
            found = former
        if len(self._filtered) >= FILTERS:
            self._filtered.clear()
        self._filtered[filters] = found
        return found

    # -- what the cache calls ----------------------------------------------------------------

    async def open(self) -> None:
        await self._watcher.__aenter__()
        self._refresh()

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._bell.set()
        await self._watcher.close()

    def is_unused(self, idle: float) -> bool:
        """Whether it may be dropped: not while it is all that is left of an absent registry."""
        if self.used or self._waiting:
            self.used = False
            self._last_use = now()
            return False
        if not self.known:
            return now() - self._last_use > min(idle, UNKNOWN_IDLE)
        return now() - self._last_use > idle and not self._watcher.doubtful

    def worth(self) -> tuple[bool, bool, bool, float]:
        """The least is dropped first when there are too many."""
        return bool(self._waiting), self.known, self.used, self._last_use

    # -- changes -----------------------------------------------------------------------------

    def _refresh(self) -> None:
        if self._closed:
            return
        watcher = self._watcher
        self._cache.note_doubt(self.name, watcher.doubtful, watcher.last_error)
        held = self._ledger.held
        self._ledger.update(watcher.nodes, watcher.doubtful, now())
        if (late := self._ledger.held - held) > 0:
            log.warning("%s: %d nodes are missing after the outage, held for now", self.name, late)
        self._serve()

    def _release(self) -> None:
        held = self._ledger.held
        self._ledger.expire(now())
        if gone := held - self._ledger.held:
            log.warning("%s: %d nodes have not come back", self.name, gone)
        self._serve()

    def _serve(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = self._ledger.next_expiry(now())
        loop = asyncio.get_running_loop()
        self._timer = None if delay is None else loop.call_later(delay, self._release)
        before, after = self._serving, self._ledger.nodes
        if before == after:
            return
        self._serving = after
        self.services = tuple(by_version(after.values()))
        self.version += 1
        self._former = self._filtered or self._former
        self._filtered = {}
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()
        if tell := self._cache.on_withdrawn:
            left = _by_address(before)
            for address in left.keys() - _by_address(after).keys():
                tell(left[address])


def _by_address(nodes: Mapping[str, ServiceInfo]) -> dict[str, Node]:
    return {node.address: node for info in nodes.values() for node in info.nodes}


class Ledger:
    """Which nodes to serve: those in the registry, and those whose deletion is in doubt.

    Its clock stands still while the registry is away, so that a hold is a time in which a node
    could have registered again, and always ends.
    """

    def __init__(self, hold: float, settle: float) -> None:
        self.nodes: Mapping[str, ServiceInfo] = {}
        self._hold = hold
        self._settle = settle
        self._held: dict[str, float] = {}
        self._away_since: float | None = None
        self._away = 0.0
        self._settled = float("-inf")

    @property
    def held(self) -> int:
        return len(self._held)

    def update(self, registry: Mapping[str, ServiceInfo], doubtful: bool, now: float) -> None:
        """``registry``: by id what the registry says, or said last; ``doubtful``: it is away."""
        unsure = self._judge(doubtful, now)
        addresses = _by_address(registry).keys()
        missing = {
            id: info
            for id, info in self.nodes.items()
            if id not in registry and addresses.isdisjoint(n.address for n in info.nodes)
        }
        until = self._clock(now) + self._hold
        before = self._held
        self._held = {id: before.get(id, until) for id in missing if unsure or id in before}
        self.nodes = {**{id: missing[id] for id in self._held}, **registry}

    def expire(self, now: float) -> None:
        over = {id for id, until in self._held.items() if until <= self._clock(now)}
        self._held = {id: until for id, until in self._held.items() if id not in over}
        self.nodes = {id: info for id, info in self.nodes.items() if id not in over}

    def next_expiry(self, now: float) -> float | None:
        """In how many seconds to call ``expire``; ``None`` for not before the next update."""
        if not self._held or self._away_since is not None:
            return None
        return max(0.001, min(self._held.values()) - self._clock(now))

    def _judge(self, doubtful: bool, now: float) -> bool:
        """Whether what is missing now may only be late."""
        if doubtful:
            self._away_since = now if self._away_since is None else self._away_since
            return True
        if self._away_since is not None:
            self._away += now - self._away_since
            self._away_since = None
            self._settled = now + self._settle
            return True
        return now < self._settled

    def _clock(self, now: float) -> float:
        return (now if self._away_since is None else self._away_since) - self._away
