"""What a client knows while the registry is there, away, and back without its data."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from typing import Self
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_loops import in_loop, until

from micro_core.errors import BackendRefused, BackendUnavailable, InvalidName, WrongLoop
from micro_core.registry import cache as module
from micro_core.registry.cache import Ledger, RegistryCache, ServiceView
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node, ServiceInfo


def info(*ids: str, version: str = "1", name: str = "greeter", port: int = 1) -> ServiceInfo:
    return ServiceInfo(name, version, [Node(id, f"{id}:{port}") for id in ids])


def every(info: ServiceInfo, node: Node) -> bool:
    return True


def services(view: ServiceView) -> list[ServiceInfo]:
    return list(view.services)


def ids(view: ServiceView) -> list[str]:
    return [node.id for node in view.nodes(None, every)]


class Faulty(MemoryRegistry):
    """Polled, so that an outage is a list that cannot be had."""

    poll_interval = 0.01

    def __init__(self) -> None:
        super().__init__("faulty")
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0
        self.still_failing: str | None = None

    def fail(self, error: Exception | None = None) -> None:
        self.error = error or ConnectionRefusedError("no server")

    def recover(self, *, wiped: bool = False) -> None:
        self.error = None
        if wiped:
            self.native.clear()

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if name == self.still_failing:
            raise ConnectionRefusedError("no server")
        return await super()._get_service(name)

    def _changes(self, name: str) -> None:
        return None


class Cache(RegistryCache):
    """Entered and left, and remembers what it said of nodes."""

    def __init__(
        self, registry: MemoryRegistry, *, hold: float = 30, idle: float = 60, settle: float = 0
    ) -> None:
        super().__init__(
            registry, hold=hold, idle=idle, settle=settle, on_withdrawn=self._note_withdrawn
        )
        self.withdrawn: list[str] = []

    def _note_withdrawn(self, node: Node) -> None:
        self.withdrawn.append(node.address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def outage(registry: Faulty, view: ServiceView, *, wiped: bool = False) -> None:
    registry.fail()
    await until(lambda: view._watcher.doubtful)
    registry.recover(wiped=wiped)
    await until(lambda: not view._watcher.doubtful)


# -- looking up ------------------------------------------------------------------------------


@in_loop
async def test_a_view_follows_its_service() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        assert cache.get("greeter") is None
        await registry.register(info("a"))
        view = await cache.load("greeter")
        assert cache.get("greeter") is view
        assert view.known
        assert services(view) == [info("a")]
        await registry.register(info("b", version="2"))
        await view.changed()
        assert services(view) == [info("a"), info("b", version="2")]
        await registry.deregister(info("a"))
        await view.changed()
        assert services(view) == [info("b", version="2")]
        assert view.version == 3
        assert view.age < 5


@in_loop
async def test_a_service_nobody_offers_is_unknown_until_it_appears() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        view = await cache.load("greeter")
        assert not view.known
        assert ids(view) == []
        waiter = asyncio.create_task(view.changed())
        await asyncio.sleep(0.02)
        assert not waiter.done()
        await registry.register(info("a"))
        await waiter
        assert (view.known, ids(view)) == (True, ["a"])
        await registry.deregister(info("a"))
        await view.changed()
        assert (view.known, ids(view)) == (False, [])


@in_loop
async def test_the_tuple_of_nodes_is_the_same_object_until_they_change() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a", "b"))
        await registry.register(info("c", version="2"))
        view = await cache.load("greeter")

        def second(info: ServiceInfo, node: Node) -> bool:
            return info.version == "2"

        every_before, second_before = view.nodes(None, every), view.nodes("2", second)
        assert [node.id for node in second_before] == ["c"]
        assert [node.id for node in every_before] == ["a", "b", "c"]
        await asyncio.sleep(0.03)  # a few polls that find no change
        assert view.nodes(None, every) is every_before
        await registry.register(info("a", "b", port=2))
        await view.changed()
        assert view.nodes(None, every) is not every_before
        assert view.nodes("2", second) is second_before  # for that filter nothing changed
        await registry.deregister(info("c"))
        await view.changed()
        assert view.nodes("2", second) == ()


@in_loop
async def test_the_filters_remembered_are_bounded() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        view = await cache.load("greeter")
        with patch.object(module, "FILTERS", 10):
            for number in range(100):
                view.nodes(number, every)
        assert len(view._filtered) <= 10


@in_loop
async def test_many_who_load_ask_the_registry_once() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        registry.gate = asyncio.Event()
        loads = [asyncio.create_task(cache.load("greeter")) for _ in range(20)]
        await until(lambda: registry.asked == 1)
        loads[0].cancel()  # and one who leaves takes nothing from the others
        await asyncio.sleep(0)
        registry.gate.set()
        views = await asyncio.gather(*loads[1:])
        assert len(set(map(id, views))) == 1
        assert loads[0].cancelled()


@in_loop
async def test_without_registry_and_cache_a_load_is_503_and_the_next_one_tries_anew() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        registry.fail()
        results = await asyncio.gather(
            *(cache.load("greeter") for _ in range(3)), return_exceptions=True
        )
        for result in results:
            assert isinstance(result, BackendUnavailable)
            assert (result.code, result.happened, result.plugin) == (503, "no", "memory")
            assert "greeter cannot be looked up" in result.detail
        assert cache.get("greeter") is None
        registry.recover()
        await registry.register(info("a"))
        assert ids(await cache.load("greeter")) == ["a"]


@in_loop
async def test_a_load_that_fails_after_all_have_left_is_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        registry.fail()
        registry.gate = asyncio.Event()
        load = asyncio.create_task(cache.load("greeter"))
        await until(lambda: registry.asked == 1)
        load.cancel()
        await asyncio.wait({load})
        del load
        registry.gate.set()
        await until(lambda: not cache._loading)
        gc.collect()
        assert "never retrieved" not in caplog.text


@in_loop
async def test_a_load_raises_what_the_caller_can_act_on() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        registry.fail(BackendRefused("bad token", plugin="faulty"))
        with pytest.raises(BackendRefused, match="bad token"):
            await cache.load("greeter")
        registry.fail(ValueError("a driver's bug"))
        with pytest.raises(BackendUnavailable, match="driver's bug"):
            await cache.load("greeter")
        registry.recover()
        with pytest.raises(InvalidName):
            await cache.load("")
        registry.operation_timeout = 0.05
        registry.gate = asyncio.Event()
        with pytest.raises(BackendUnavailable, match="no answer within") as caught:
            await cache.load("greeter")
        assert caught.value.happened == "no"  # nothing was called yet
        registry.fail(WrongLoop("other loop"))
        registry.gate = None
        with pytest.raises(WrongLoop):
            await cache.load("greeter")


# -- outages ---------------------------------------------------------------------------------


@in_loop
async def test_a_deletion_without_doubt_counts_at_once() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a", "b"))
        view = await cache.load("greeter")
        await registry.deregister(info("a"))
        await view.changed()
        assert ids(view) == ["b"]
        assert cache.withdrawn == ["a:1"]


@in_loop
async def test_nodes_stay_while_the_registry_is_away_for_however_long() -> None:
    async with Faulty() as registry, Cache(registry, hold=0.02, idle=0.05) as cache:
        await registry.register(info("a"), ttl=0.1)
        view = await cache.load("greeter")
        registry.fail()
        await asyncio.sleep(0.4)  # past the ttl, the hold and the idle time
        assert cache.get("greeter") is view
        assert ids(view) == ["a"]
        assert cache.withdrawn == []


@in_loop
async def test_after_data_loss_nodes_are_held_until_they_are_back() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a", "b", "c"))
        view = await cache.load("greeter")
        await outage(registry, view, wiped=True)
        assert view._watcher.services == []  # the public view says what the registry says
        assert ids(view) == ["a", "b", "c"]
        for node in "ab":  # lists that are still incomplete take nothing away
            await registry.register(info(node))
            await until(lambda node=node: node in view._watcher.nodes)  # type: ignore[misc]
            assert ids(view) == ["a", "b", "c"]
        assert cache.withdrawn == []
        await registry.deregister(info("a"))  # it is back, so now its deletion counts
        await view.changed()
        assert ids(view) == ["b", "c"]
        assert cache.withdrawn == ["a:1"]


@in_loop
async def test_nodes_that_do_not_come_back_leave_when_the_hold_ends() -> None:
    async with Faulty() as registry, Cache(registry, hold=0.1) as cache:
        await registry.register(info("a", "b"))
        view = await cache.load("greeter")
        await outage(registry, view, wiped=True)
        await registry.register(info("b"))
        assert ids(view) == ["a", "b"]
        await view.changed()
        assert ids(view) == ["b"]
        assert cache.withdrawn == ["a:1"]
        assert view._timer is None


@in_loop
async def test_a_hold_does_not_run_while_the_registry_is_away_again() -> None:
    async with Faulty() as registry, Cache(registry, hold=0.15) as cache:
        await registry.register(info("a"))
        view = await cache.load("greeter")
        await outage(registry, view, wiped=True)
        registry.fail()
        await until(lambda: view._watcher.doubtful)
        await asyncio.sleep(0.3)
        assert ids(view) == ["a"]
        registry.recover()
        await view.changed()
        assert ids(view) == []


@in_loop
async def test_a_held_node_makes_room_for_one_that_took_its_address() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a"))
        view = await cache.load("greeter")
        await outage(registry, view, wiped=True)
        await registry.register(ServiceInfo("greeter", "1", [Node("new", "a:1")]))
        await view.changed()
        assert ids(view) == ["new"]
        assert cache.withdrawn == []  # its connections are as good as before


@in_loop
async def test_deletions_soon_after_the_return_are_in_doubt_too() -> None:
    async with Faulty() as registry, Cache(registry, settle=0.2) as cache:
        await registry.register(info("a", "b"))
        view = await cache.load("greeter")
        await outage(registry, view)
        await registry.deregister(info("a"))  # say, a server that thaws expires everything
        await until(lambda: "a" not in view._watcher.nodes)
        assert ids(view) == ["a", "b"]
        await asyncio.sleep(0.25)
        await registry.deregister(info("b"))
        await view.changed()
        assert ids(view) == ["a"]


@in_loop
async def test_a_node_that_moved_withdraws_its_old_address() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a"))
        view = await cache.load("greeter")
        await registry.register(info("a", port=2))
        await view.changed()
        assert cache.withdrawn == ["a:1"]


@in_loop
async def test_an_outage_is_logged_once_for_all_names(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "micro.registry")
    async with Faulty() as registry, Cache(registry) as cache:
        views = [await cache.load(name) for name in ("greeter", "mailer", "biller")]
        registry.fail()
        await until(lambda: all(view._watcher.doubtful for view in views))
        registry.still_failing = "mailer"
        registry.recover()
        await until(lambda: not views[0]._watcher.doubtful and not views[2]._watcher.doubtful)
        assert len(caplog.records) == 1  # not yet
        registry.still_failing = None
        await until(lambda: not any(view._watcher.doubtful for view in views))
        assert ["is away" in r.getMessage() for r in caplog.records].count(True) == 1
        assert ["is back after" in r.getMessage() for r in caplog.records].count(True) == 1
        assert len(caplog.records) == 2


# -- forgetting ------------------------------------------------------------------------------


@in_loop
async def test_a_name_nobody_uses_is_no_longer_watched() -> None:
    async with Faulty() as registry, Cache(registry, idle=0.2) as cache:
        await registry.register(info("a"))
        await registry.register(info("a", name="used"))
        before = asyncio.all_tasks()
        await cache.load("greeter")
        used = await cache.load("used")

        def gone() -> bool:
            assert cache.get("used") is used
            return "greeter" not in cache._views

        await until(gone)
        # what is left is the watch of the other and the janitor
        await until(lambda: len(asyncio.all_tasks() - before) == 2)


@in_loop
async def test_an_unknown_name_is_forgotten_sooner_but_not_under_a_waiter() -> None:
    async with Faulty() as registry, Cache(registry, idle=30) as cache:
        with patch.object(module, "UNKNOWN_IDLE", 0.1):
            view = await cache.load("greeter")
            await cache.load("never")
            waiter = asyncio.create_task(view.changed())
            await registry.register(info("a", name="known"))
            await cache.load("known")
            await until(lambda: "never" not in cache._views)
            await asyncio.sleep(0.2)
            assert cache._views.keys() == {"greeter", "known"}
            await registry.register(info("a"))
            await waiter


@in_loop
async def test_names_are_bounded_and_the_least_worth_makes_room() -> None:
    async with Faulty() as registry, Cache(registry) as cache:
        await registry.register(info("a", name="known"))
        with patch.object(module, "NAMES", 3):
            await cache.load("known")
            for number in range(10):
                await cache.load(f"unknown-{number}")
        assert len(cache._views) == 3
        assert cache.get("known") is not None


@in_loop
async def test_closing_ends_loads_waiters_and_tasks() -> None:
    async with Faulty() as registry:
        before = asyncio.all_tasks()
        cache = Cache(registry)
        view = await cache.load("greeter")
        waiter = asyncio.create_task(view.changed())
        registry.gate = asyncio.Event()
        loading = asyncio.create_task(cache.load("mailer"))
        await until(lambda: "mailer" in cache._loading)
        await asyncio.sleep(0)
        await cache.close()
        await cache.close()
        for task in (waiter, loading):
            with pytest.raises(BackendUnavailable, match="closed"):
                await task
        with pytest.raises(BackendUnavailable, match="closed"):
            await cache.load("greeter")
        with pytest.raises(BackendUnavailable, match="closed"):
            await view.changed()
        assert asyncio.all_tasks() == before


# -- any history -----------------------------------------------------------------------------

HOLD, SETTLE = 10.0, 2.0


def test_the_clock_of_a_hold_stands_still_while_the_registry_is_away() -> None:
    ledger = Ledger(HOLD, SETTLE)
    ledger.update(listed({"a", "b"}), False, 0.0)
    ledger.update(listed({"a", "b"}), True, 1.0)
    ledger.update(listed({"b"}), True, 50.0)  # a deletion told before the first list
    assert ledger.update(listed({"b"}), True, 60.0) is None
    assert ledger.update(listed({"b"}), False, 100.0) == pytest.approx(HOLD)
    ledger.update(listed({"b"}), True, 103.0)
    assert ledger.update(listed({"b"}), False, 200.0) == pytest.approx(HOLD - 3.0)
    ledger.update(listed({"b"}), False, 206.9)
    assert ledger.nodes.keys() == {"a", "b"}
    ledger.update(listed({"b"}), False, 207.0)
    assert ledger.nodes.keys() == {"b"}


histories = st.lists(
    st.tuples(st.sets(st.sampled_from("abc")), st.booleans(), st.floats(0.0, 8.0)), max_size=30
)


def listed(names: set[str]) -> dict[str, ServiceInfo]:
    return {name: info(name) for name in sorted(names)}


@given(histories)
def test_whatever_happens_what_is_listed_is_served_and_no_hold_outlasts_its_time(
    history: list[tuple[set[str], bool, float]],
) -> None:
    ledger, now, known = Ledger(HOLD, SETTLE), 0.0, set[str]()
    answered = dict.fromkeys("abc", 0.0)  # seconds the registry answered without that node
    was_away = False
    for names, away, pause in history:
        if not away:  # an absent registry says what it said last
            known = names
        delay = ledger.update(listed(known), away, now)
        assert known <= ledger.nodes.keys()
        assert ledger.nodes.keys() <= set("abc")
        if away or was_away:
            assert ledger.nodes.keys() >= known
        assert delay is None or not away
        now += pause
        if delay is not None and delay <= pause:
            ledger.update(listed(known), away, now)
        for name in "abc":
            listed_or_away = name in known or away
            answered[name] = (
                0.0 if name in known else answered[name] + (0.0 if listed_or_away else pause)
            )
            if name in ledger.nodes and name not in known and not away:
                assert answered[name] <= HOLD + 0.01
        was_away = away


@given(st.sets(st.sampled_from("abcd"), min_size=1), st.lists(st.sets(st.sampled_from("abcd"))))
def test_data_loss_takes_nothing_away_within_the_hold(
    before: set[str], partial: list[set[str]]
) -> None:
    ledger = Ledger(HOLD, SETTLE)
    ledger.update(listed(before), False, 0.0)
    ledger.update(listed(before), True, 1.0)
    ledger.update({}, False, 100.0)
    back: set[str] = set()
    for number, more in enumerate(partial):
        back |= more
        now = 100.0 + HOLD * number / (len(partial) + 1)
        ledger.update(listed(back), False, now)
        assert ledger.nodes.keys() == before | back
    ledger.update(listed(back), False, 100.0 + HOLD)
    assert ledger.nodes.keys() == back
