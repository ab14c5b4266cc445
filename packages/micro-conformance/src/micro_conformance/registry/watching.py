"""What a watcher tells."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from micro_core import Registry, RegistryEvent, ServiceInfo
from micro_core.registry.watcher import Watcher

from ..promise import promise
from ..suite import Suite
from .lab import RegistryLab, ids

Told = list[tuple[str, str]]


async def told(watcher: object, number: int, within: float) -> list[RegistryEvent]:
    """The next events. Raises TimeoutError when they do not come."""
    async with asyncio.timeout(within):
        return [await anext(watcher) for _ in range(number)]  # type: ignore[call-overload]


def shape(events: Sequence[RegistryEvent]) -> Told:
    return sorted((event.action, event.service.nodes[0].id) for event in events)


class Watching(Suite[Registry]):
    @promise()
    async def test_a_watcher_begins_with_what_is_there(self, lab: RegistryLab) -> None:
        """On entering, a watcher's view is the list as it is."""
        registry, info = await lab.new(), lab.info(nodes=[1, 2])
        await registry.register(info)
        async with registry.watch(info.name) as watcher:
            assert watcher.services == [info]

    @promise()
    async def test_a_new_node_is_told(self, lab: RegistryLab) -> None:
        """A watcher tells of a node that is registered by another client."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with lab.watching(registry, info.name) as watcher:
            await other.register(info)
            [event] = await told(watcher, 1, self.patience)
            assert event == RegistryEvent("create", info)
            assert watcher.services == [info]

    @promise()
    async def test_a_changed_node_is_told(self, lab: RegistryLab) -> None:
        """A watcher tells of a node whose metadata or address has changed."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await other.register(info)
        async with lab.watching(registry, info.name) as watcher:
            changed = info.with_nodes([lab.node(info.name, 1, zone="b")])
            await other.register(changed)
            assert await told(watcher, 1, self.patience) == [RegistryEvent("update", changed)]

    @promise()
    async def test_changed_endpoints_are_told(self, lab: RegistryLab) -> None:
        """A watcher tells of a node whose endpoints have changed, and of nothing else about it."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await other.register(info)
        async with lab.watching(registry, info.name) as watcher:
            changed = ServiceInfo(info.name, info.version, info.nodes)
            await other.register(changed)
            assert await told(watcher, 1, self.patience) == [RegistryEvent("update", changed)]

    @promise()
    async def test_a_leaving_node_is_told(self, lab: RegistryLab) -> None:
        """A watcher tells of one of several nodes that is deregistered."""
        registry, other, info = await lab.new(), await lab.new(), lab.info(nodes=[1, 2])
        await other.register(info)
        async with lab.watching(registry, info.name) as watcher:
            await other.deregister(info.with_nodes([lab.node(info.name, 1)]))
            assert shape(await told(watcher, 1, self.patience)) == [
                ("delete", lab.node(info.name, 1).id)
            ]
            assert ids(watcher.services) == [lab.node(info.name, 2).id]

    @promise()
    async def test_the_last_node_going_is_told(self, lab: RegistryLab) -> None:
        """A watcher tells of the last node of a service that is deregistered."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await other.register(info)
        async with lab.watching(registry, info.name) as watcher:
            await other.deregister(info)
            assert shape(await told(watcher, 1, self.patience)) == [
                ("delete", lab.node(info.name, 1).id)
            ]
            assert watcher.services == []

    @promise(guarantee="expiry")
    async def test_an_expired_node_is_told(self, lab: RegistryLab) -> None:
        """A watcher tells of a node whose TTL has passed."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        ttl: float = getattr(self, "ttl", 3.0)
        await other.register(info, ttl=ttl)
        async with lab.watching(registry, info.name) as watcher:
            [event] = await told(watcher, 1, ttl + self.patience)
            assert event.action == "delete"

    @promise()
    async def test_a_heartbeat_is_no_event(self, lab: RegistryLab) -> None:
        """Registering the same record again tells watchers nothing."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await other.register(info)
        async with lab.watching(registry, info.name) as watcher:
            first = asyncio.create_task(told(watcher, 1, 3 * self.patience))
            for _ in range(3):
                await other.register(info)
                await lab.stays(lambda: not first.done(), "nothing is told", seconds=0.1)
            await other.register(lab.info(info.name, nodes=[2]))
            assert shape(await first) == [("create", lab.node(info.name, 2).id)]

    @promise()
    async def test_other_services_are_not_told(self, lab: RegistryLab) -> None:
        """A watcher of one service hears nothing of another whose name begins alike."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with lab.watching(registry, info.name) as watcher:
            first = asyncio.create_task(told(watcher, 1, 3 * self.patience))
            await other.register(lab.info(f"{info.name}-longer", nodes=[2]))
            await lab.stays(lambda: not first.done(), "nothing is told", seconds=0.3)
            await other.register(info)
            assert await first == [RegistryEvent("create", info)]

    @promise()
    async def test_two_watchers_are_both_told(self, lab: RegistryLab) -> None:
        """Each of two watchers of a service is told of every change."""
        registry, other, info = await lab.new(), await lab.new(), lab.info(nodes=[1, 2])
        async with (
            lab.watching(registry, info.name) as one,
            lab.watching(registry, info.name) as two,
        ):
            await other.register(info)
            for watcher in (one, two):
                events = await told(watcher, 2, self.patience)
                assert shape(events) == [("create", lab.node(info.name, n).id) for n in (1, 2)]

    @promise()
    async def test_all_nodes_of_one_registration_are_told(self, lab: RegistryLab) -> None:
        """Twenty nodes registered at once are twenty events."""
        registry, other = await lab.new(), await lab.new()
        info = lab.info(nodes=range(20))
        async with lab.watching(registry, info.name) as watcher:
            await other.register(info)
            events = await told(watcher, 20, self.patience)
            assert sorted(e.service.nodes[0].id for e in events) == ids([info])

    @promise()
    async def test_a_slow_reader_gets_the_latest(self, lab: RegistryLab) -> None:
        """A reader that was away gets the latest state of each node, and its view is right."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with lab.watching(registry, info.name) as watcher:
            last = info
            for number in range(10):
                last = info.with_nodes([lab.node(info.name, 1, state=str(number))])
                await other.register(last)
                await self._shows(lab, watcher, last)
            events = await told(watcher, 1, self.patience)
            while events[-1].service != last:
                events += await told(watcher, 1, self.patience)
            assert events[0].action == "create"

    @promise()
    async def test_nothing_between_the_list_and_the_watch_is_missed(self, lab: RegistryLab) -> None:
        """What changes while a watcher is opened, or any moment later, is in its view or told."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        for number in range(20):
            now = info.with_nodes([lab.node(info.name, 1, state=str(number))])
            registering = asyncio.create_task(other.register(now))
            async with registry.watch(info.name) as watcher:
                await registering
                await self._shows(lab, watcher, now)
            async with registry.watch(info.name) as watcher:
                await asyncio.sleep(number * 0.005)
                await other.register(info)
                await self._shows(lab, watcher, info)

    async def _shows(self, lab: RegistryLab, watcher: Watcher, info: ServiceInfo) -> None:
        await lab.eventually(lambda: watcher.services == [info], f"the view is {info}")

    @promise()
    async def test_closing_ends_the_iteration(self, lab: RegistryLab) -> None:
        """Whoever waits for the next event of a watcher that is closed sees the end."""
        registry = await lab.new()
        watcher = registry.watch(lab.name())
        async with watcher:
            waiting = asyncio.create_task(anext(watcher, None))
            await asyncio.sleep(0)
        async with asyncio.timeout(self.patience):
            assert await waiting is None

    @promise()
    async def test_watchers_come_and_go(self, lab: RegistryLab) -> None:
        """A hundred watchers opened side by side and closed leave nothing behind."""
        registry = await lab.new()
        async with AsyncExitStack() as stack:
            names = [lab.name() for _ in range(100)]
            opening = [stack.enter_async_context(lab.watching(registry, n)) for n in names]
            await asyncio.gather(*opening)
