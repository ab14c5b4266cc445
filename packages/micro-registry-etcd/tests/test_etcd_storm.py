"""Many writers, connections that are cut and expiries: what every watcher is told is what happened.

A model notes for each node, in order, what became of it in etcd. A driver whose connection stands
must tell exactly that; watchers whose connections are cut must agree with a fresh list at the end,
and keepers must have their nodes there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from in_loops import in_loop

from micro_conformance.proxy import ChaosProxy
from micro_core.errors import BackendError
from micro_core.registry.base import Change
from micro_core.registry.records import Endpoint, Node, RegistryEvent, ServiceInfo, by_version
from micro_core.registry.watcher import Watcher
from micro_registry_etcd import EtcdRegistry

SERVICES, WORKERS, OPERATIONS, CUTS, KEPT = 5, 20, 50, 10, 4
BRIEF = 1.0  # ttl of what is left to expire, in seconds
SETTLE = 2.5  # seconds until all agree after the last cut: the longest pause of a watcher is 2 s
HOLD = 0.1  # longest pause of a worker, in seconds
Step = tuple[str, ServiceInfo]


class Storm:
    """``steps``: for each node what happened to it; ``told``: the same by an uncut driver."""

    def __init__(self, etcd: Any, seed: int) -> None:
        self.etcd = etcd
        self.random = random.Random(seed)
        self.names = [f"py.storm.{seed}.{time.time_ns():x}.{n}" for n in range(SERVICES)]
        self.present: dict[str, ServiceInfo] = {}
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.told: dict[str, list[Step]] = defaultdict(list)
        self.done: Counter[str] = Counter()
        self.watchers: list[Watcher] = []
        self.folded: list[dict[str, ServiceInfo]] = []

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            self.proxy = await stack.enter_async_context(ChaosProxy(self.etcd.address))
            self.direct = await stack.enter_async_context(EtcdRegistry(self.etcd.address))
            self.cut_off = await stack.enter_async_context(EtcdRegistry(self.proxy.address))
            await self._follow(stack)
            kept = [self.info(self.names[n % SERVICES], f"kept-{n}") for n in range(KEPT)]
            for info in kept:
                await stack.enter_async_context(self.cut_off.keep(info, ttl=3.0))
            async with asyncio.TaskGroup() as group:
                for number in range(WORKERS):
                    group.create_task(self._work(number))
                group.create_task(self._cuts())
            for info in kept:
                self.present[info.nodes[0].id] = info
            await self._last_cut()
            await self._compare()

    # -- what happens ------------------------------------------------------------------------

    def info(self, name: str, id: str) -> ServiceInfo:
        node = Node(f"{name}-{id}", f"10.0.0.1:{self.random.randrange(1, 9)}")
        endpoint = Endpoint(self.random.choice(["Say.Hello", "Say.Bye"]))
        return ServiceInfo(name, self.random.choice("12"), [node], [endpoint])

    async def _work(self, number: int) -> None:
        """One node that comes, changes, leaves and now and then dies."""
        name = self.names[number % SERVICES]
        for _ in range(OPERATIONS):
            info = self.info(name, str(number))
            action = self.random.choices(["register", "deregister", "expire"], [60, 38, 2])[0]
            self.done[action] += 1
            match action:
                case "register":
                    await self._register(info, 60.0)
                case "deregister":
                    await self.direct.deregister(info)
                    self._gone(info.nodes[0].id)
                case _:
                    await self._register(info, BRIEF)
                    await self._expired(info)
            await asyncio.sleep(self.random.uniform(0, HOLD))

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await self.direct.register(info, ttl=ttl)
        before = self.present.get(info.nodes[0].id)
        if before != info:
            self.steps[info.nodes[0].id].append(("update" if before else "create", info))
        self.present[info.nodes[0].id] = info

    async def _expired(self, info: ServiceInfo) -> None:
        id = info.nodes[0].id
        async with asyncio.timeout(20):
            while await self.etcd.pair(f"/micro/registry/{info.name}/{id}"):
                await asyncio.sleep(0.1)
        self._gone(id)

    def _gone(self, id: str) -> None:
        if before := self.present.pop(id, None):
            self.steps[id].append(("delete", before))

    async def _cuts(self) -> None:
        """Resets, refusals and a freeze; with a compaction while nobody can see it."""
        for number in range(CUTS):
            await asyncio.sleep(self.random.uniform(0, 0.2))
            match self.random.choice(["reset", "refuse", "bytes", "freeze"]):
                case "reset":
                    self.proxy.reset()
                case "bytes":
                    self.proxy.cut(self.random.randrange(5000))
                case "refuse":
                    self.proxy.refuse()
                case _:
                    self.proxy.freeze()
            await asyncio.sleep(self.random.uniform(0, 0.3))
            if number % 3 == 0:
                revision = await self.etcd.put(f"/other/{self.names[0]}", "")
                await self.etcd.ask("kv/compaction", revision=revision)
            self.proxy.thaw()
            self.proxy.accept()
        await self.etcd.delete(f"/other/{self.names[0]}")

    async def _last_cut(self) -> None:
        """Each service changes while nobody can see it."""
        self.proxy.refuse()
        for name in self.names:
            await self._register(self.info(name, "last"), 60.0)
        await asyncio.sleep(0.5)  # the length of the cut, not a wait for something
        self.proxy.accept()

    # -- who looks ---------------------------------------------------------------------------

    async def _follow(self, stack: AsyncExitStack) -> None:
        for name in self.names:
            changes = await stack.enter_async_context(aclosing(self.direct._changes(name)))
            assert await anext(changes) == []
            self._task(stack, self._note(changes))
            for registry in (self.direct, self.cut_off):
                watcher = await stack.enter_async_context(registry.watch(name))
                self.watchers.append(watcher)
                self.folded.append({})
                self._task(stack, fold(watcher, self.folded[-1]))

    def _task(self, stack: AsyncExitStack, work: Any) -> None:
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            for error in await asyncio.gather(task, return_exceptions=True):
                if not isinstance(error, asyncio.CancelledError):
                    raise AssertionError("what is followed has ended") from error

        stack.push_async_callback(end)

    async def _note(self, changes: AsyncGenerator[Change, None]) -> None:
        async for change in changes:
            assert isinstance(change, RegistryEvent)
            [node] = change.service.nodes
            if "-kept-" not in node.id:
                self.told[node.id].append((change.action, change.service))

    # -- what then is so ---------------------------------------------------------------------

    async def _compare(self) -> None:
        begin = time.monotonic()
        await self._until(self._is_settled, begin)
        self.settled = time.monotonic() - begin
        self.missed, self.ghosts = 0, 0
        for watcher, folded in zip(self.watchers, self.folded, strict=True):
            listed = await nodes_of(self.direct, watcher.name)
            for seen in (dict(watcher.nodes), folded):
                self.missed += sum(seen.get(id) != info for id, info in listed.items())
                self.ghosts += len(seen.keys() - listed.keys())
        modelled = {name: self._modelled(name) for name in self.names}
        assert {name: await nodes_of(self.direct, name) for name in self.names} == modelled
        for id, steps in self.steps.items():
            told = self.told[id]
            wrong = [n for n, step in enumerate(steps) if told[n : n + 1] != [step]]
            assert not wrong, f"{id}: told {told[wrong[0] :][:1]}, not {steps[wrong[0]]}"
            assert len(told) == len(steps), f"{id}: told {told[len(steps)]}, which did not happen"
        assert self.told.keys() == self.steps.keys()

    def _modelled(self, name: str) -> dict[str, ServiceInfo]:
        return {id: info for id, info in self.present.items() if info.name == name}

    async def _is_settled(self) -> bool:
        for watcher, folded in zip(self.watchers, self.folded, strict=True):
            modelled = self._modelled(watcher.name)
            right = watcher.services == by_version(modelled.values()) and not watcher.doubtful
            if not (right and folded == modelled):
                return False
            if await nodes_of(self.direct, watcher.name) != modelled:
                return False
        return self.told == self.steps

    async def _until(self, condition: Callable[[], Any], begin: float) -> None:
        """Or until it is too late; what is wrong is then counted."""
        while not await condition() and time.monotonic() < begin + 10:
            await asyncio.sleep(0.02)


async def fold(watcher: Watcher, nodes: dict[str, ServiceInfo]) -> None:
    """What a reader knows by the events alone."""
    async for event in watcher:
        [node] = event.service.nodes
        assert (node.id in nodes) == (event.action != "create"), event
        if event.action == "delete":
            del nodes[node.id]
        else:
            nodes[node.id] = event.service


async def nodes_of(registry: EtcdRegistry, name: str) -> Mapping[str, ServiceInfo]:
    try:
        return await registry.get_nodes(name)
    except BackendError as error:
        raise AssertionError("an uncut registry failed") from error


LONG = [pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 21)]


@pytest.mark.parametrize("seed", [1, *LONG])
@in_loop
async def test_a_storm_leaves_no_ghost_and_misses_nothing(
    etcd: Any, seed: int, record_property: Callable[[str, object], None]
) -> None:
    storm = Storm(etcd, seed)
    await storm.run()
    events = sum(map(len, storm.steps.values()))
    print(
        f"\nR9 storm {seed}: {storm.done.total()} operations ({storm.done['expire']} expiries), "
        f"{CUTS} cuts, {events} events told in order, missed {storm.missed}, "
        f"ghosts {storm.ghosts}, settled after {storm.settled:.2f} s (limit {SETTLE} s)"
    )
    for figure in ("missed", "ghosts", "settled"):
        record_property(f"R9 {figure}", round(getattr(storm, figure), 3))
    assert (storm.missed, storm.ghosts) == (0, 0)
    assert storm.settled <= SETTLE
