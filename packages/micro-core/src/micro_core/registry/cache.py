"""The cache: what a client knows of the services it calls, with the registry there or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping

from ..errors import BackendError, BackendRefused, BackendUnavailable, MicroError
from ..timing import Signal, end, now
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
        on_withdrawn: Callable[[Node], None] = lambda node: None,
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
            view.unused = 0
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
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._open(name))
            task.add_done_callback(lambda done: self._loaded(name, done))
        await asyncio.wait([task])  # whoever leaves meanwhile takes nothing from the others
        if task.cancelled():
            raise self._unavailable(name, "the client was closed")
        error = task.exception()
        if isinstance(error, MicroError) and not isinstance(error, BackendError):
            raise error
        if error is not None:
            raise self._unavailable(name, error) from error
        return task.result()

    async def close(self) -> None:
        """Stop watching; bounded and idempotent."""
        self._closed = True
        await end(*self._loading.values(), self._janitor, limit=self.registry.close_timeout)
        await asyncio.gather(*(self._drop(view) for view in list(self._views.values())))

    # -- loading -----------------------------------------------------------------------------

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
            pause = min(self._idle, UNKNOWN_IDLE) / 5
            await asyncio.sleep(pause)
            unused = [v for v in self._views.values() if v.is_unused(pause, self._idle)]
            await asyncio.gather(*map(self._drop, unused))

    async def _drop(self, view: ServiceView) -> None:
        if self._views.get(view.name) is view:
            del self._views[view.name]
        await view.close()
        self.note_doubt(view.name, False, None)

    # -- telling -----------------------------------------------------------------------------

    def note_doubt(self, name: str, doubtful: bool, error: Exception | None) -> None:
        """Log once that the registry is away, and once that it is back."""
        (self._doubted.add if doubtful else self._doubted.discard)(name)
        since, registry = self._away_since, self.registry.name
        if doubtful and error is not None and since is None:
            self._away_since = now()
            log.warning(
                "registry %s is away, calls go on with the nodes known: %s", registry, error
            )
        elif not self._doubted and since is not None:
            self._away_since = None
            log.info("registry %s is back after %.1f s", registry, now() - since)


class ServiceView:
    """One service as a client sees it.

    ``services`` has one ServiceInfo per version; ``version`` counts the changes of ``services``.
    """

    def __init__(self, cache: RegistryCache, name: str) -> None:
        self.name = name
        self.services: tuple[ServiceInfo, ...] = ()
        self.version = 0
        self.unused = 0  # for how many rounds of the janitor
        self._waiting = 0
        self._cache = cache
        self._watcher = Watcher(cache.registry, name, self._refresh)
        self._ledger = Ledger(cache.hold, cache.settle)
        self._filtered: dict[Hashable, tuple[int, tuple[Node, ...]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._bell = Signal()

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
        version, found = self._filtered.get(filters, (-1, ()))
        if version != self.version:
            passed = tuple(n for info in self.services for n in info.nodes if predicate(info, n))
            found = found if found == passed else passed
            if len(self._filtered) >= FILTERS and filters not in self._filtered:
                self._filtered.clear()
            self._filtered[filters] = self.version, found
        return found

    async def changed(self) -> None:
        """Wait for the next change. Raises BackendUnavailable when the client is closed."""
        version = self.version
        self._waiting += 1
        try:
            await self._bell.until(lambda: self._watcher.closed or self.version != version)
        finally:
            self._waiting -= 1
        if self._watcher.closed:
            raise BackendUnavailable(f"{self.name} is not watched any more: the client is closed")

    # -- what the cache calls ----------------------------------------------------------------

    async def open(self) -> None:
        await self._watcher.__aenter__()
        self._refresh()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._bell.set()
        await self._watcher.close()

    def is_unused(self, pause: float, idle: float) -> bool:
        """Whether it may be dropped: not while it is all that is left of an absent registry."""
        self.unused = 0 if self._waiting else self.unused + 1
        seconds = (self.unused - 1) * pause  # at least
        if not self.known:
            return seconds > min(idle, UNKNOWN_IDLE)
        return seconds > idle and not self._watcher.doubtful

    def worth(self) -> tuple[bool, bool, int]:
        """The least is dropped first when there are too many."""
        return bool(self._waiting), self.known, -self.unused

    # -- changes -----------------------------------------------------------------------------

    def _refresh(self) -> None:
        watcher, ledger = self._watcher, self._ledger
        if watcher.closed:
            return
        self._cache.note_doubt(self.name, watcher.doubtful, watcher.last_error)
        before, held = ledger.nodes, ledger.held
        delay = ledger.update(watcher.nodes, watcher.doubtful, now())
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if delay is None else loop.call_later(delay, self._refresh)
        if late := len(ledger.held.keys() - held):
            log.warning("%s: %d nodes are missing after the outage, held for now", self.name, late)
        if before != ledger.nodes:
            self._show(before, held)

    def _show(self, before: Mapping[str, ServiceInfo], held: Mapping[str, float]) -> None:
        after = self._ledger.nodes
        self.services = tuple(by_version(after.values()))
        self.version += 1
        self._bell.set()
        stay, lost = _by_address(after), held.keys() - after.keys()
        left = [node for address, node in _by_address(before).items() if address not in stay]
        if gone := sum(node.id in lost for node in left):
            log.warning("%s: %d nodes have not come back", self.name, gone)
        for node in left:
            self._cache.on_withdrawn(node)


def _by_address(nodes: Mapping[str, ServiceInfo]) -> dict[str, Node]:
    return {node.address: node for info in nodes.values() for node in info.nodes}


class Ledger:
    """Which nodes to serve: those in the registry, and those whose deletion is in doubt.

    Its clock stands still while the registry is away, so that a hold is a time in which a node
    could have registered again, and always ends.
    """

    def __init__(self, hold: float, settle: float) -> None:
        self.nodes: Mapping[str, ServiceInfo] = {}
        self.held: Mapping[str, float] = {}  # by id, until when
        self._hold = hold
        self._settle = settle
        self._clock = 0.0
        self._updated = 0.0
        self._away = False
        self._settled = float("-inf")

    def update(
        self, registry: Mapping[str, ServiceInfo], doubtful: bool, now: float
    ) -> float | None:
        """Returns in how many seconds to call it again, ``None`` for not before the next change.

        ``registry``: by id what the registry says, or said last; ``doubtful``: it is away.
        """
        if not self._away:
            self._clock += now - self._updated
        elif not doubtful:
            self._settled = self._clock + self._settle
        self._away, self._updated = doubtful, now
        unsure = doubtful or self._clock <= self._settled
        until = self._clock + (self._hold if unsure else 0.0)
        addresses = _by_address(registry).keys()
        missing = {
            id: self.held.get(id, until)
            for id, info in self.nodes.items()
            if id not in registry and addresses.isdisjoint(n.address for n in info.nodes)
        }
        self.held = {id: until for id, until in missing.items() if until > self._clock}
        self.nodes = {**{id: self.nodes[id] for id in self.held}, **registry}
        if doubtful or not self.held:
            return None
        return max(0.001, min(self.held.values()) - self._clock)
