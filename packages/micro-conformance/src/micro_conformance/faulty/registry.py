"""Registries with one fault each; most were found in real ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from micro_core import BackendUnavailable, Health, Node, RegistryEvent, ServiceInfo
from micro_core.hub import hub
from micro_core.registry.base import Change
from micro_core.registry.keeper import Keeper
from micro_core.registry.memory import MemoryRegistry, RegistryHub
from micro_core.registry.records import by_node
from micro_core.registry.watcher import Watcher

from ..backend import Backend
from ..mutants import mutant

Infos = Sequence[ServiceInfo]


class Shared(MemoryRegistry):
    """The memory registry, with ways to look at what all of them share."""

    def shared(self, key: str, default: Any) -> Any:
        """What all registries of the loop know under ``key``."""
        return self._hub.__dict__.setdefault(key, default)

    async def known(self, name: str, id: str) -> ServiceInfo | None:
        return by_node(await MemoryRegistry._get_service(self, name)).get(id)

    async def each(self, info: ServiceInfo) -> list[tuple[ServiceInfo, ServiceInfo | None]]:
        """The record of each node, and the one that was there before."""
        return [(info.with_nodes([n]), await self.known(info.name, n.id)) for n in info.nodes]


def with_node(info: ServiceInfo, **changed: Any) -> ServiceInfo:
    return info.with_nodes([replace(info.nodes[0], **changed)])


# -- what is written ---------------------------------------------------------------------------


@mutant("test_endpoints_can_change", "test_changed_endpoints_are_told")
class KeepsFirstEndpoints(Shared):
    """A node that is registered again keeps the endpoints it had first."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            kept = replace(one, endpoints=(before or one).endpoints)
            await super()._register(kept, ttl)


@mutant("test_an_address_can_change")
class KeepsFirstAddress(Shared):
    """A node that is registered again keeps the address it had first."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            address = (before or one).nodes[0].address
            await super()._register(with_node(one, address=address), ttl)


@mutant("test_metadata_can_change")
class MergesMetadata(Shared):
    """A node that is registered again keeps the keys of metadata that it no longer has."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            old = (before or one).nodes[0].metadata
            merged = {**old, **one.nodes[0].metadata}
            await super()._register(with_node(one, metadata=merged), ttl)


@mutant("test_a_node_can_change_its_version")
class KeepsFirstVersion(Shared):
    """A node that is registered again under another version stays in the one it had first."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            await super()._register(replace(one, version=(before or one).version), ttl)


@mutant("test_a_changed_node_is_told", "test_a_slow_reader_gets_the_latest")
class KnowsByItsId(Shared):
    """A node whose id is known is prolonged, and whatever else has changed is not written."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            await super()._register(before or one, ttl)


@mutant("test_a_record_comes_back_whole", "test_any_text_in_metadata_is_kept")
class LosesMetadata(MemoryRegistry):
    """The metadata of nodes is not kept."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info.with_nodes(Node(n.id, n.address) for n in info.nodes), ttl)


@mutant("test_any_text_in_metadata_is_kept")
class AsciiMetadata(MemoryRegistry):
    """Metadata keeps ASCII alone; all else becomes question marks."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        nodes = [
            replace(n, metadata={k: _ascii(v) for k, v in n.metadata.items()}) for n in info.nodes
        ]
        await super()._register(info.with_nodes(nodes), ttl)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


@mutant("test_many_endpoints_are_kept")
class SixtyFourEndpoints(MemoryRegistry):
    """Endpoints after the 64th are dropped, as there is no room for more."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(replace(info, endpoints=info.endpoints[:64]), ttl)


@mutant("test_addresses_of_every_form_are_kept")
class InsistsOnPorts(MemoryRegistry):
    """An address without a port gets port 0."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        nodes = [
            n if ":" in n.address else replace(n, address=f"{n.address}:0") for n in info.nodes
        ]
        await super()._register(info.with_nodes(nodes), ttl)


@mutant("test_several_nodes_in_one_registration")
class RegistersOneNode(MemoryRegistry):
    """Of several nodes in one registration only the first is written at once."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        first, *others = info.nodes
        await super()._register(info.with_nodes([first]), ttl)
        later = super()._register(info.with_nodes(others), ttl)
        asyncio.get_running_loop().call_later(0.2, asyncio.ensure_future, later)


@mutant("test_nodes_of_one_version_are_one_service")
class ReplacesTheService(MemoryRegistry):
    """A registration replaces every other node of its service."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info, ttl)
        kept = {node.id for node in info.nodes}
        for found in await super()._get_service(info.name):
            if found.nodes[0].id not in kept:
                self._hub.remove(info.name, found.nodes[0].id)


@mutant("test_registering_again_changes_nothing")
class AddsNodes(Shared):
    """A node that is registered again is there twice."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            await super()._register(one, ttl)
            if before == one:
                await super()._register(with_node(one, id=f"{one.nodes[0].id}-again"), ttl)


@mutant("test_another_client_sees_it")
class ReturnsEarly(Shared):
    """Others see a new registration a moment after register has returned."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        loop = asyncio.get_running_loop()
        until = self.shared("seen", {})
        for one, before in await self.each(info):
            if before is None:
                until[one.nodes[0].id] = self, loop.time() + 0.2
        await super()._register(info, ttl)

    async def _get_service(self, name: str) -> Infos:
        now, until = asyncio.get_running_loop().time(), self.shared("seen", {})
        found = await super()._get_service(name)
        return [i for i in found if self._seen(until.get(i.nodes[0].id, (self, 0.0)), now)]

    def _seen(self, owner: tuple[object, float], now: float) -> bool:
        return owner[0] is self or owner[1] <= now


@mutant("test_many_at_once")
class LosesWrites(Shared):
    """Of registrations of one service that overlap, only the first is written."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        busy: set[str] = self.shared("busy", set())
        if info.name in busy:
            return
        busy.add(info.name)
        await asyncio.sleep(0)
        await super()._register(info, ttl)
        busy.discard(info.name)


# -- what is removed ---------------------------------------------------------------------------


@mutant("test_one_of_several_can_go", "test_a_leaving_node_is_told")
class DeregistersTheService(MemoryRegistry):
    """Deregistering one node removes every node of its service."""

    async def _deregister(self, info: ServiceInfo) -> None:
        for found in await self._get_service(info.name):
            await super()._deregister(found)


@mutant(
    "test_a_deregistered_node_is_gone",
    "test_keep_deregisters_at_its_end",
    "test_close_deregisters",
    "test_a_keeper_can_change_its_record",
)
class NeverDeregisters(MemoryRegistry):
    """Deregistering does nothing: the node stays until its TTL."""

    async def _deregister(self, info: ServiceInfo) -> None:
        return None


@mutant("test_deregistering_goes_by_the_id")
class DeregistersEquals(Shared):
    """A node is deregistered only where the record is the one that was written."""

    async def _deregister(self, info: ServiceInfo) -> None:
        for one, before in await self.each(info):
            if before is not None and before.nodes == one.nodes:
                await super()._deregister(one)


@mutant("test_deregistering_an_unknown_node_is_harmless")
class MissesTheUnknown(Shared):
    """Deregistering a node that is not there is an error."""

    async def _deregister(self, info: ServiceInfo) -> None:
        if not all(before for _, before in await self.each(info)):
            raise LookupError(info.name)
        await super()._deregister(info)


@mutant("test_close_deregisters")
class ClosesInSilence(MemoryRegistry):
    """What a closed registry has registered stays until its TTL."""

    async def _shut(self) -> None:
        self._registered.clear()
        await super()._shut()


# -- how long it lasts -------------------------------------------------------------------------


@mutant("test_a_silent_node_is_gone_after_its_ttl", "test_an_expired_node_is_told")
class NeverExpires(MemoryRegistry):
    """A node stays for ever, whatever its TTL."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info, 1e9)


@mutant("test_a_silent_node_is_gone_after_its_ttl")
class ExpiresLate(MemoryRegistry):
    """A node stays twice as long as its TTL."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info, 2 * ttl)


@mutant("test_a_node_lives_as_long_as_its_ttl")
class ExpiresEarly(MemoryRegistry):
    """A node is gone after half its TTL."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info, ttl / 2)


@mutant("test_registering_again_prolongs_it", "test_keep_keeps_it_alive")
class ProlongsNothing(Shared):
    """The same registration again does not prolong it."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for one, before in await self.each(info):
            if before != one:
                await super()._register(one, ttl)


@mutant("test_a_removed_node_comes_back")
class TrustsItsMemory(MemoryRegistry):
    """A record that this client has written before is prolonged, and not written if it is gone."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        there = by_node(await self._get_service(info.name))
        for node in info.nodes:
            one = info.with_nodes([node])
            if node.id in there or self._registered.get((info.name, node.id)) != one:
                await super()._register(one, ttl)


# -- what is read ------------------------------------------------------------------------------


@mutant("test_an_unknown_service_is_an_empty_list")
class InventsServices(Shared):
    """A name that nobody has ever registered is an error."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        self.shared("ever", set()).add(info.name)
        await super()._register(info, ttl)

    async def _get_service(self, name: str) -> Infos:
        found = await super()._get_service(name)
        if not found and name not in self.shared("ever", set()):
            raise LookupError(name)
        return found


@mutant("test_versions_are_told_apart")
class OneVersion(MemoryRegistry):
    """All nodes of a service are said to be of the version that was registered first."""

    async def _get_service(self, name: str) -> Infos:
        found = await super()._get_service(name)
        return [replace(info, version=found[0].version) for info in found]


@mutant("test_names_that_begin_alike_are_two")
class FindsByPrefix(MemoryRegistry):
    """A service is found by the beginning of its name too."""

    async def _get_service(self, name: str) -> Infos:
        names = [each for each in await self._list_services() if each.startswith(name)]
        return [
            info for each in names for info in await super(FindsByPrefix, self)._get_service(each)
        ]


@mutant("test_names_that_differ_in_case_are_two")
class FoldsCase(MemoryRegistry):
    """Services whose names differ in case are one."""

    async def _get_service(self, name: str) -> Infos:
        names = [each for each in await self._list_services() if each.lower() == name.lower()]
        return [info for each in names for info in await super(FoldsCase, self)._get_service(each)]


@mutant("test_usual_names_work")
class MapsDots(MemoryRegistry):
    """Dots in names become dashes in the list."""

    async def _list_services(self) -> Sequence[str]:
        return [name.replace(".", "-") for name in await super()._list_services()]


@mutant("test_services_are_listed")
class ListsAPage(MemoryRegistry):
    """The list of services ends after the first two."""

    async def _list_services(self) -> Sequence[str]:
        return sorted(await super()._list_services())[:2]


@mutant("test_a_service_without_nodes_is_not_listed")
class ListsTheDead(Shared):
    """A service whose nodes are gone stays in the list."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        self.shared("ever", set()).add(info.name)
        await super()._register(info, ttl)

    async def _list_services(self) -> Sequence[str]:
        return list(self.shared("ever", set()))


@mutant("test_impossible_names_are_refused")
class TakesAnyName(MemoryRegistry):
    """Names are not checked."""

    async def register(self, info: ServiceInfo, *, ttl: float = 30.0) -> None:
        self._check_home()
        await self._register(info, ttl)
        self._registered.update({(info.name, n.id): info.with_nodes([n]) for n in info.nodes})


@mutant("test_a_cancelled_operation_harms_no_other")
class MixesReplies(MemoryRegistry):
    """The reply to a question that was given up is taken for that to the next one."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._replies: deque[Infos] = deque()

    async def _get_service(self, name: str) -> Infos:
        self._replies.append(await super()._get_service(name))
        await asyncio.sleep(0)
        return self._replies.popleft()


# -- what is watched ---------------------------------------------------------------------------


class Filtered(MemoryRegistry):
    """Passes on the changes that ``passed`` returns."""

    def passed(self, before: Infos, now: Infos) -> Iterable[Change]:
        raise NotImplementedError

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        before: Infos | None = None
        async for now in self._hub.changes(name):
            assert not isinstance(now, RegistryEvent)
            for change in [now] if before is None else self.passed(before, now):
                yield change
            before = now


@mutant("test_the_last_node_going_is_told", "test_an_expired_node_is_told")
class MissesTheEnd(Filtered):
    """Watchers are not told of an answer without nodes, so that the last one never goes."""

    def passed(self, before: Infos, now: Infos) -> Iterable[Change]:
        return [now] if now else []


@mutant("test_all_nodes_of_one_registration_are_told", "test_two_watchers_are_both_told")
class FirstEventOnly(Filtered):
    """Of changes that come together watchers are told the first."""

    def passed(self, before: Infos, now: Infos) -> Iterable[Change]:
        gone = [RegistryEvent("delete", i) for i in before if i not in now]
        new = [RegistryEvent("update", i) for i in now if i not in before]
        return [*new, *gone][:1]


@mutant("test_a_leaving_node_is_told", "test_the_last_node_going_is_told")
class EmptyDeletes(Filtered):
    """A deletion is told without saying whose."""

    def passed(self, before: Infos, now: Infos) -> Iterable[Change]:
        if len(now) >= len(before):
            return [now]
        return [RegistryEvent("delete", before[0].with_nodes([Node("", "")]))]


@mutant("test_changed_endpoints_are_told", "test_a_changed_node_is_told")
class TellsOfIds(Filtered):
    """Watchers are told of nodes that come and go, and not of those that change."""

    def passed(self, before: Infos, now: Infos) -> Iterable[Change]:
        return [now] if by_node(before).keys() != by_node(now).keys() else []


@mutant("test_a_slow_reader_gets_the_latest")
class StopsAfterAChange(MemoryRegistry):
    """A watch hangs after two changes."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        changes = self._hub.changes(name)
        for _ in range(3):
            yield await anext(changes)
        await asyncio.Event().wait()


@mutant("test_nothing_between_the_list_and_the_watch_is_missed")
class WatchesLate(MemoryRegistry):
    """What changes in the moment before a watch is in place is not told."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        await asyncio.sleep(0.2)
        changes = self._hub.changes(name)
        await anext(changes)
        async for change in changes:
            yield change


@mutant("test_a_heartbeat_is_no_event")
class BlinksAtHeartbeats(MemoryRegistry):
    """A heartbeat removes the node for a moment."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for node in info.nodes:
            self._hub.remove(info.name, node.id)
        await asyncio.sleep(0.02)
        await super()._register(info, ttl)


@mutant("test_other_services_are_not_told")
class WatchesByPrefix(MemoryRegistry):
    """A watcher hears of services too whose name begins with that of its own."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        while True:
            now = asyncio.get_running_loop().time()
            names = [each for each in self._hub.names(now) if each.startswith(name)]
            yield [info for each in names for info in self._hub.live(each, now)]
            await asyncio.sleep(0.05)


@mutant("test_two_watchers_are_both_told")
class OneWatcher(Shared):
    """Only the latest watcher of a service is told anything."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        latest: dict[str, object] = self.shared("latest", {})
        latest[name] = own = object()
        async for change in self._hub.changes(name):
            if latest[name] is own:
                yield change


@mutant("test_watchers_come_and_go")
class LeavesWatchers(MemoryRegistry):
    """A watch leaves a task behind."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        left = asyncio.create_task(asyncio.sleep(3600))
        async for change in self._hub.changes(name):
            yield change
        await left


@mutant("test_closing_ends_the_iteration")
class EndsInSilence(MemoryRegistry):
    """Whoever waits for an event of a watcher that is closed waits for ever."""

    def watch(self, name: str) -> Watcher:
        return _Silent(self, name)


class _Silent(Watcher):
    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


# -- how it stands -----------------------------------------------------------------------------


@mutant("test_health_tells_the_truth", "test_constructing_does_nothing")
class AlwaysHealthy(MemoryRegistry):
    """Health says connected, whatever is the case."""

    def health(self) -> Health:
        return replace(super().health(), state="connected")


@mutant("test_use_after_close_is_a_clear_error")
class WorksClosed(MemoryRegistry):
    """A registry works without being connected."""

    def _check_home(self) -> None:
        return None


@mutant("test_it_belongs_to_its_loop")
class ForeignLoops(MemoryRegistry):
    """Use from another event loop is not noticed."""

    def _check_home(self) -> None:
        if self._home is None:
            raise BackendUnavailable("not connected")


@mutant("test_it_can_be_opened_again")
class OpensOnce(MemoryRegistry):
    """A registry that was closed cannot be connected again."""

    _opened = 0

    async def _connect(self) -> None:
        self._opened += 1
        if self._opened > 1:
            raise BackendUnavailable("closed for good")
        await super()._connect()


@mutant("test_connect_and_close_are_idempotent")
class ClosesAtOnce(MemoryRegistry):
    """Closing what is closed is an error."""

    async def close(self) -> None:
        self._check_home()
        await super().close()


@mutant("test_many_clients_side_by_side")
class TenClients(Shared):
    """The eleventh client is refused."""

    async def _connect(self) -> None:
        await super()._connect()
        if self.shared("clients", 0) >= 10:
            raise BackendUnavailable("too many clients")
        self._hub.__dict__["clients"] += 1

    async def _close(self) -> None:
        self._hub.__dict__["clients"] -= 1


# -- what outlives a server --------------------------------------------------------------------


class Server(Backend):
    """What the registries below keep their records in, with faults that take no time."""

    def __init__(self) -> None:
        self.down = False
        self.thawed = asyncio.Event()
        self.thawed.set()

    @property
    def address(self) -> str:
        return "memory:1"

    async def kill(self) -> None:
        self.down = True

    async def stop(self) -> None:
        self.down = True

    async def start(self) -> None:
        await asyncio.sleep(1.5)  # long enough for a heartbeat to fail
        self.down = False

    async def pause(self) -> None:
        self.thawed.clear()

    async def resume(self) -> None:
        self.thawed.set()

    async def wipe(self) -> None:
        hub(RegistryHub, self.address).clear()
        await self.start()


class Served(MemoryRegistry):
    """A registry without a fault, whose server can be broken."""

    backend = Server
    server: Server  # set by whoever tries it

    async def asked(self) -> None:
        """As long as a server takes, which may be for ever. Raises BackendUnavailable."""
        await self.server.thawed.wait()
        if self.server.down:
            raise BackendUnavailable("memory is down", plugin=self.name)

    async def _connect(self) -> None:
        await self.asked()
        await super()._connect()

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await self.asked()
        await super()._register(info, ttl)

    async def _deregister(self, info: ServiceInfo) -> None:
        await self.asked()
        await super()._deregister(info)

    async def _get_service(self, name: str) -> Infos:
        await self.asked()
        return await super()._get_service(name)


@mutant("test_a_registration_survives_the_loss_of_all_data")
class RegistersOnce(Served):
    """A record that was written is not written again, as if no server ever lost one."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        kept = [self._registered.get((info.name, node.id)) for node in info.nodes]
        if None in kept:
            await super()._register(info, 1e9)


class _GivesUp(Keeper):
    def _lost(self, error: Exception) -> None:
        raise error


@mutant("test_a_registration_survives_a_long_outage")
class GivesUp(Served):
    """The first heartbeat that fails is the last one."""

    def keep(
        self, info: ServiceInfo, *, ttl: float = 30.0, interval: float | None = None
    ) -> Keeper:
        return _GivesUp(self, info, ttl, interval)


@mutant("test_a_registration_survives_a_restart")
class ForgetsAtRestart(Served):
    """The first registration after an outage is answered and not written, nor any later."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        if self._health.reconnects or self._health.state == "lost":
            return
        await super()._register(info, ttl)


@mutant("test_a_watcher_is_right_after_a_restart")
class WatchesOneLife(Served):
    """A watch hears nothing after its server has lost its data."""

    async def _changes(self, name: str) -> AsyncIterator[Change]:
        async for change in self._hub.changes(name):
            assert not isinstance(change, RegistryEvent)
            if not change and name in self._seen:
                await asyncio.Event().wait()
            self._seen.add(name)
            yield change

    resync_interval = 1e6

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._seen: set[str] = set()


@mutant("test_an_outage_is_a_typed_error_in_time")
class WaitsLong(Served):
    """Without an answer an operation goes on for a minute."""

    operation_timeout = 60.0


@mutant("test_an_outage_is_a_typed_error_in_time")
class RaisesItsOwn(Served):
    """What the server's library raises reaches the caller as it is."""

    async def asked(self) -> None:
        await self.server.thawed.wait()
        if self.server.down:
            raise RuntimeError("ECONNREFUSED")


@mutant("test_closing_is_bounded_whatever_the_server_does")
class ClosesLate(Served):
    """Closing waits for an answer, for as long as it takes."""

    close_timeout = 60.0

    async def _close(self) -> None:
        await self.asked()
