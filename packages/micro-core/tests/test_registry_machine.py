"""The registry as a state machine: whatever happens in whatever order, all views settle on the
list, kept registrations come back, and events lead where the list is."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from micro_core.registry.base import Change, Registry, RegistryFeatures
from micro_core.registry.cache import RegistryCache, ServiceView
from micro_core.registry.keeper import Keeper
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import (
    Endpoint,
    Node,
    RegistryEvent,
    ServiceInfo,
    by_node,
    by_version,
)
from micro_core.registry.watcher import Watcher
from micro_core.testing import Clock

T = TypeVar("T")
NAME = "greeter"
TTL = 12.0
PHASES = [Phase.generate]  # shrinking takes longer than a test may
HOLD, SETTLE = 30.0, 5.0


class Cut:
    """What stands between a registry and its server: it can be cut, and its changes ended."""

    down = False
    cuts = 0

    def _check(self) -> None:
        if self.down:
            raise ConnectionRefusedError("cut")

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        self._check()
        await super()._register(info, ttl)  # type: ignore[misc]

    async def _deregister(self, info: ServiceInfo) -> None:
        self._check()
        await super()._deregister(info)  # type: ignore[misc]

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        self._check()
        found: Sequence[ServiceInfo] = await super()._get_service(name)  # type: ignore[misc]
        return found


class Lists(Cut, MemoryRegistry):
    """Pushes whole lists, as MemoryRegistry does."""

    resync_interval = 1e6  # no fault is healed by it

    def _changes(self, name: str) -> AsyncIterator[Change] | None:
        return self._told(name)

    async def _told(self, name: str) -> AsyncIterator[Change]:
        self._check()
        loop, wake, hub, cuts = asyncio.get_running_loop(), asyncio.Event(), self.native, self.cuts
        before: Mapping[str, ServiceInfo] | None = None
        hub._watchers.setdefault(name, set()).add(wake)
        try:
            while cuts == self.cuts:
                wake.clear()
                now = by_node(hub.live(name, loop.time()))
                for change in self._as_changes(before, now):
                    yield change
                before = now
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(hub.next_expiry(name)):
                        await wake.wait()
            self._check()
        finally:
            hub._watchers[name].discard(wake)

    def _as_changes(
        self, before: Mapping[str, ServiceInfo] | None, now: Mapping[str, ServiceInfo]
    ) -> list[Change]:
        return [] if before == now else [list(now.values())]


class Events(Lists):
    """Pushes one event a node after a first list."""

    def _as_changes(
        self, before: Mapping[str, ServiceInfo] | None, now: Mapping[str, ServiceInfo]
    ) -> list[Change]:
        if before is None:
            return [list(now.values())]
        gone: list[Change] = [RegistryEvent("delete", before[id]) for id in before.keys() - now]
        return gone + [
            RegistryEvent("update" if id in before else "create", info)
            for id, info in now.items()
            if before.get(id) != info
        ]


class Polled(Lists):
    features = RegistryFeatures()

    def _changes(self, name: str) -> AsyncIterator[Change] | None:
        return None


class Local(Cut, LocalRegistry):
    poll_interval = 1.0


class Storm(RuleBasedStateMachine):
    """One service, its server, and on the other side of a cut a watcher, a cache and keepers."""

    make: type[Registry] = Lists

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="micro-machine-"))
        self.stack = AsyncExitStack()
        self.keepers: dict[str, Keeper] = {}
        self.told: dict[str, ServiceInfo] = {}
        self.run(self.begin())

    def run(self, step: Awaitable[T]) -> T:
        async def main() -> T:
            return await step

        return self.runner.run(main())

    def registry(self, cls: type[Registry]) -> Registry:
        address = str(self.folder / "r") if issubclass(cls, LocalRegistry) else "machine"
        return cls(address)

    async def begin(self) -> None:
        self.clock = Clock(asyncio.get_running_loop())
        base = LocalRegistry if issubclass(self.make, LocalRegistry) else MemoryRegistry
        self.admin = await self.stack.enter_async_context(self.registry(base))
        self.cut_off: Any = self.registry(self.make)
        await self.stack.enter_async_context(self.cut_off)
        self.watcher: Watcher = await self.stack.enter_async_context(self.cut_off.watch(NAME))
        self.cache = RegistryCache(self.cut_off, hold=HOLD, settle=SETTLE, idle=1e6)
        self.stack.push_async_callback(self.cache.close)
        self.view: ServiceView = await self.cache.load(NAME)
        self.reader = asyncio.create_task(self.read())

    async def read(self) -> None:
        async for event in self.watcher:
            [node] = event.service.nodes
            known = node.id in self.told
            assert known == (event.action != "create"), f"{event.action} of {node.id}"
            if event.action == "delete":
                del self.told[node.id]
            else:
                assert self.told.get(node.id) != event.service, "an event without a change"
                self.told[node.id] = event.service

    def teardown(self) -> None:
        try:
            self.run(self.finish())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    async def finish(self) -> None:
        try:
            await self.heal_and_compare()
        finally:
            for keeper in self.keepers.values():
                await keeper.close()
            await self.stack.aclose()
        await self.reader
        assert asyncio.all_tasks() == {asyncio.current_task()}

    # -- what happens ------------------------------------------------------------------------

    ids = st.sampled_from("abcd")
    infos = st.builds(
        lambda key, version, port, endpoint, meta: ServiceInfo(
            NAME,
            version,
            [Node(key, f"{key}:{port}", {"m": meta} if meta else {})],
            [Endpoint(endpoint, metadata={"stream": "true"} if meta else {})],
        ),
        ids,
        st.sampled_from("12"),
        st.sampled_from([1, 2]),
        st.sampled_from(["Say.Hello", "Say.Bye"]),
        st.sampled_from(["", "x"]),
    )

    @initialize(info=infos)
    def first(self, info: ServiceInfo) -> None:
        self.run(self.admin.register(info, ttl=1000))

    @rule(info=infos, ttl=st.sampled_from([2.0, 20.0, 1000.0]))
    def register(self, info: ServiceInfo, ttl: float) -> None:
        if info.nodes[0].id not in self.keepers:
            self.run(self.admin.register(info, ttl=ttl))

    @rule(id=ids)
    def deregister(self, id: str) -> None:
        """By somebody's hand, also of what is kept."""
        self.run(self.admin.deregister(ServiceInfo(NAME, nodes=[Node(id, "")])))

    @precondition(lambda self: not self.cut_off.down)
    @rule(info=infos)
    def keep(self, info: ServiceInfo) -> None:
        id = info.nodes[0].id
        if keeper := self.keepers.get(id):
            self.run(keeper.update(info))
        else:
            keeper = self.keepers[id] = self.run(self.make_keeper(info))

    async def make_keeper(self, info: ServiceInfo) -> Keeper:
        return await self.cut_off.keep(info, ttl=TTL).__aenter__()

    @precondition(lambda self: self.keepers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.keepers)))
        self.run(self.keepers.pop(id).close())

    @rule(seconds=st.sampled_from([0.3, 1.0, 4.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.run(self.clock.advance(seconds))

    @precondition(lambda self: not self.cut_off.down)
    @rule()
    def cut(self) -> None:
        self.cut_off.down = True
        self.end_changes()

    @precondition(lambda self: self.cut_off.down)
    @rule()
    def heal(self) -> None:
        self.cut_off.down = False

    @rule()
    def end_changes(self) -> None:
        self.cut_off.cuts += 1
        if isinstance(self.admin, MemoryRegistry):
            self.admin.native._tell(NAME)

    @rule(keeps_data=st.booleans())
    def restart(self, keeps_data: bool) -> None:
        async def restart() -> None:
            if isinstance(self.admin, MemoryRegistry):
                if not keeps_data:
                    self.admin.native._records.clear()  # and nobody is told
            elif not keeps_data:
                shutil.rmtree(self.folder / "r", ignore_errors=True)

        self.end_changes()
        self.run(restart())

    # -- what then is so ---------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        self.run(self.heal_and_compare())

    async def heal_and_compare(self) -> None:
        self.cut_off.down = False
        await self.clock.advance(TTL / 3 + 2)
        await self.agree(lambda truth: self.watcher.services == truth)
        assert not self.watcher.doubtful
        await self.agree(lambda truth: by_version(self.told.values()) == truth)
        for keeper in self.keepers.values():
            [wanted] = by_version([keeper.info])
            found = [info for info in await self.admin.get_service(NAME) if info.nodes]
            nodes = {node for info in found for node in map(repr, info.nodes)}
            assert set(map(repr, wanted.nodes)) <= nodes, "a kept registration is not there"
            assert keeper.registered
        self.view = await self.cache.load(NAME)
        await self.agree(lambda truth: addresses(truth) <= addresses(self.view.services))
        await self.clock.advance(HOLD + SETTLE)
        self.view = await self.cache.load(NAME)  # one without nodes may have been dropped
        await self.agree(lambda truth: list(self.view.services) == truth)
        await self.agree(lambda truth: self.watcher.services == truth)
        if self.reader.done():
            self.reader.result()

    async def agree(self, check: Any) -> None:
        """Now, or after one more poll where the list has just changed by an expiry."""
        for _ in range(3):
            truth = await self.admin.get_service(NAME)
            if check(truth):
                return
            await self.clock.advance(self.cut_off.poll_interval * 1.5)
        truth = await self.admin.get_service(NAME)
        assert check(truth), (
            f"the list is {truth}\nthe watcher has {self.watcher.services}\n"
            f"events lead to {by_version(self.told.values())}\nthe cache has {self.view.services}"
        )


def addresses(services: Sequence[ServiceInfo]) -> set[str]:
    return {node.address for info in services for node in info.nodes}


KINDS: list[type[Registry]] = [Lists, Events, Polled, Local]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())


def storm(kind: type[Registry], examples: int) -> None:
    machine = type(f"Storm{kind.__name__}", (Storm,), {"make": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=PHASES,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@each_kind
def test_all_views_settle_on_the_list(kind: type[Registry]) -> None:
    storm(kind, 12)


@pytest.mark.full
@pytest.mark.timeout(1800)
@each_kind
def test_all_views_settle_on_the_list_after_long_storms(kind: type[Registry]) -> None:
    storm(kind, 250)
