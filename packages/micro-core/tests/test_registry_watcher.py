"""The watcher's view equals the registry, whatever happened in between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, cast
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_loops import in_loop, until

from micro_core.backoff import Backoff
from micro_core.errors import BackendUnavailable
from micro_core.registry import watcher as module
from micro_core.registry.base import Change
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Endpoint, Node, RegistryEvent, ServiceInfo
from micro_core.registry.watcher import Watcher
from micro_core.timing import end

Mode = Literal["lists", "events", "polled"]
MODES: tuple[Mode, ...] = ("lists", "events", "polled")
every_mode = pytest.mark.parametrize("mode", MODES)


def info(*ids: str, version: str = "1", port: int = 1) -> ServiceInfo:
    return ServiceInfo("greeter", version, [Node(id, f"{id}:{port}") for id in ids])


class Faulty(MemoryRegistry):
    """A registry whose server can be taken away, behind each way of telling changes."""

    poll_interval = 0.01

    def __init__(self, mode: Mode = "lists") -> None:
        super().__init__("faulty")
        self.mode = mode
        self.down = False
        self.opened = 0
        self.cuts: list[asyncio.Future[None]] = []

    def fail(self) -> None:
        self.down = True
        self.end_changes()

    def end_changes(self) -> None:
        for cut in self.cuts:
            cut.set_result(None)
        self.cuts.clear()

    def recover(self) -> None:
        self.down = False

    async def truth(self) -> list[ServiceInfo]:
        """What the server has, asked past the outage."""
        async with MemoryRegistry("faulty") as other:
            return await other.get_service("greeter")

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        if self.down:
            raise ConnectionRefusedError("no server")
        return await super()._get_service(name)

    def _changes(self, name: str) -> AsyncIterator[Change] | None:
        return None if self.mode == "polled" else self._follow(name)

    async def _follow(self, name: str) -> AsyncIterator[Change]:
        self.opened += 1
        cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cuts.append(cut)
        lists = self.native.changes(name)
        step = asyncio.ensure_future(lists.__anext__())
        before: Sequence[ServiceInfo] | None = None
        try:
            while not cut.done() and not self.down:
                both: set[asyncio.Future[Any]] = {step, cut}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if step.done():
                    found = cast(Sequence[ServiceInfo], step.result())
                    for change in self._told(before, found):
                        yield change
                    before = found
                    step = asyncio.ensure_future(lists.__anext__())
            if self.down:
                raise ConnectionResetError("server gone")
        finally:
            step.cancel()
            await asyncio.wait({step})

    def _told(
        self, before: Sequence[ServiceInfo] | None, now: Sequence[ServiceInfo]
    ) -> list[Change]:
        if self.mode == "lists" or before is None:
            return [now]
        old = {each.nodes[0].id: each for each in before}
        new = {each.nodes[0].id: each for each in now}
        gone: list[Change] = [RegistryEvent("delete", old[id]) for id in old.keys() - new.keys()]
        return gone + [
            RegistryEvent("update" if id in old else "create", each)
            for id, each in new.items()
            if each != old.get(id)
        ]


@every_mode
@in_loop
async def test_a_snapshot_is_no_event_and_then_each_node_is_one(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        await registry.register(info("a"))
        async with registry.watch("greeter") as watcher:
            assert watcher.services == [info("a")]
            await registry.register(info("b", "c"))
            events = [await anext(watcher), await anext(watcher)]
            assert {e.action for e in events} == {"create"}
            assert sorted(e.service.nodes[0].id for e in events) == ["b", "c"]
            await registry.register(info("a", port=2))
            event = await anext(watcher)
            assert event == RegistryEvent("update", info("a", port=2))
            assert watcher.services == await registry.get_service("greeter")


@every_mode
@in_loop
async def test_the_last_instance_going_away_is_told(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        await registry.register(info("a", "b"))
        async with registry.watch("greeter") as watcher:
            await registry.deregister(info("a", "b"))
            events = [await anext(watcher), await anext(watcher)]
            assert {e.action for e in events} == {"delete"}
            assert sorted(e.service.nodes[0].id for e in events) == ["a", "b"]
            assert watcher.services == []


@every_mode
@in_loop
async def test_a_node_that_moves_to_another_version_is_updated(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        await registry.register(info("a"))
        async with registry.watch("greeter") as watcher:
            await registry.register(info("a", version="2"))
            assert await anext(watcher) == RegistryEvent("update", info("a", version="2"))
            assert watcher.services == [info("a", version="2")]


@every_mode
@in_loop
async def test_changed_endpoints_are_an_update_of_each_node(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        await registry.register(info("a"))
        async with registry.watch("greeter") as watcher:
            changed = ServiceInfo("greeter", "1", info("a").nodes, [Endpoint("Say.Hello")])
            await registry.register(changed)
            assert await anext(watcher) == RegistryEvent("update", changed)


@every_mode
@in_loop
async def test_after_an_outage_the_view_equals_the_list_deletions_included(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        await registry.register(info("goes", "stays"))
        async with registry.watch("greeter") as watcher:
            registry.fail()
            await until(lambda: watcher.doubtful)
            assert isinstance(watcher.last_error, BackendUnavailable | ConnectionResetError)
            await registry.deregister(info("goes"))
            await registry.register(info("comes"))
            assert watcher.services == [info("goes", "stays")]
            registry.recover()
            await until(lambda: not watcher.doubtful)
            assert watcher.services == await registry.get_service("greeter")
            events = {
                (e.action, e.service.nodes[0].id) for e in [await anext(watcher) for _ in "12"]
            }
            assert events == {("delete", "goes"), ("create", "comes")}


@in_loop
async def test_changes_that_end_are_opened_again() -> None:
    async with Faulty("events") as registry:
        async with registry.watch("greeter") as watcher:
            for node in "abc":
                await until(lambda: bool(registry.cuts))
                registry.end_changes()
                await until(lambda: watcher.doubtful)
                await registry.register(info(node))
                assert (await anext(watcher)).service == info(node)
        assert registry.opened == 4


@in_loop
async def test_changes_that_never_work_are_not_opened_in_a_hurry() -> None:
    class Forbidden(MemoryRegistry):
        opened = 0

        async def _changes(self, name: str) -> AsyncIterator[Change]:
            self.opened += 1
            if self.opened:
                raise PermissionError("no watching")
            yield []

    async with Forbidden("forbidden") as registry:
        async with registry.watch("greeter") as watcher:
            await registry.register(info("a"))
            assert (await anext(watcher)).service == info("a")
            await asyncio.sleep(0.5)
        assert registry.opened < 25  # a busy loop would have opened thousands


@in_loop
async def test_deaf_changes_are_found_out_by_the_resync() -> None:
    class Deaf(MemoryRegistry):
        resync_interval = 0.05

        async def _changes(self, name: str) -> AsyncIterator[Change]:
            await asyncio.Event().wait()
            yield []

    async with Deaf("deaf") as registry:
        await registry.register(info("a"))
        async with registry.watch("greeter") as watcher:
            await registry.deregister(info("a"))
            await registry.register(info("b"))
            events = {(await anext(watcher)).action, (await anext(watcher)).action}
            assert events == {"delete", "create"}
            assert watcher.services == [info("b")]
            assert not watcher.doubtful


@in_loop
async def test_the_age_is_the_time_since_the_last_list() -> None:
    async with Faulty("polled") as registry, registry.watch("greeter") as watcher:
        registry.fail()
        await until(lambda: watcher.doubtful)
        await until(lambda: watcher.age > 0.05)
        registry.recover()
        await until(lambda: watcher.age < 0.05)


@in_loop
async def test_a_list_older_than_a_change_does_not_overwrite_it() -> None:
    class Slow(MemoryRegistry):
        """Its list is as old as the question; its changes are told at once."""

        def __init__(self) -> None:
            super().__init__("slow")
            self.told: asyncio.Queue[Change] = asyncio.Queue()
            self.gate: asyncio.Event | None = None
            self.asked = 0

        async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
            found = await super()._get_service(name)
            self.asked += 1
            if self.gate:
                await self.gate.wait()
            return found

        async def _changes(self, name: str) -> AsyncIterator[Change]:
            while True:
                yield await self.told.get()

    async with Slow() as registry, Watcher(registry, "greeter") as watcher:
        registry.gate = asyncio.Event()
        await until(lambda: registry.asked == 2)
        await registry.register(info("a"))
        registry.told.put_nowait(RegistryEvent("create", info("a")))
        assert (await anext(watcher)).service == info("a")
        registry.gate.set()
        await until(lambda: registry.asked == 3)
        assert watcher.services == [info("a")]
        assert watcher._next_event() is None


@in_loop
async def test_a_slow_reader_gets_the_latest_state_and_not_each() -> None:
    async with Faulty("events") as registry:
        await registry.register(info("stays", "goes"))
        async with registry.watch("greeter") as watcher:
            for port in range(100):
                await registry.register(info("stays", port=port))
                await registry.register(info(f"brief-{port}"))
                await asyncio.sleep(0)
                await registry.deregister(info(f"brief-{port}"))
                await asyncio.sleep(0)
            await registry.deregister(info("goes"))
            await until(lambda: watcher.services == [info("stays", port=99)])
            assert len(watcher._dirty) == 2
            events = [await anext(watcher), await anext(watcher)]
            assert RegistryEvent("update", info("stays", port=99)) in events
            assert RegistryEvent("delete", info("goes")) in events


@in_loop
async def test_what_came_and_went_unread_is_no_event() -> None:
    async with Faulty("lists") as registry, registry.watch("greeter") as watcher:
        await registry.register(info("a"))
        await until(lambda: watcher.services == [info("a")])
        await registry.deregister(info("a"))
        await until(lambda: watcher.services == [])
        await registry.register(info("b"))
        assert (await anext(watcher)).service == info("b")


@every_mode
@in_loop
async def test_entering_without_a_registry_raises(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        registry.fail()
        with pytest.raises(BackendUnavailable, match="no server"):
            await registry.watch("greeter").__aenter__()


@in_loop
async def test_iterating_without_entering_is_an_error() -> None:
    async with Faulty() as registry:
        with pytest.raises(RuntimeError, match="async with"):
            async for _ in registry.watch("greeter"):
                pass


@every_mode
@in_loop
async def test_closing_ends_the_iteration_and_leaves_no_task(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        before = asyncio.all_tasks()
        seen: list[RegistryEvent] = []
        async with registry.watch("greeter") as watcher:

            async def read() -> None:
                async for event in watcher:
                    seen.append(event)  # noqa: PERF401

            reader = asyncio.create_task(read())
            await registry.register(info("a"))
            await until(lambda: len(seen) == 1)
            await watcher.close()
            await watcher.close()
            await reader
        assert asyncio.all_tasks() == before
        assert [event async for event in watcher] == []


@every_mode
@in_loop
async def test_a_cancelled_reader_leaves_no_task(mode: Mode) -> None:
    async with Faulty(mode) as registry:
        before = asyncio.all_tasks()

        async def read() -> None:
            async with registry.watch("greeter") as watcher:
                async for _ in watcher:
                    pass

        reader = asyncio.create_task(read())
        await until(lambda: len(asyncio.all_tasks()) > len(before) + 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert asyncio.all_tasks() == before


@in_loop
async def test_closing_is_bounded_when_the_driver_hangs(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    class Hangs(MemoryRegistry):
        close_timeout = 0.05

        async def _changes(self, name: str) -> AsyncIterator[Change]:
            try:
                await asyncio.Event().wait()
                yield []
            finally:
                await release.wait()

    async with Hangs("hangs") as registry:
        watcher = await registry.watch("greeter").__aenter__()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await watcher.close()
        release.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)
    assert "does not end" in caplog.text


@in_loop
async def test_a_bug_in_a_driver_is_logged_once_and_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Buggy(MemoryRegistry):
        poll_interval = 0.01
        bug = False

        def _changes(self, name: str) -> AsyncIterator[Change] | None:
            return None

        async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
            if self.bug:
                raise KeyError("bug")
            return await super()._get_service(name)

    async with Buggy("buggy") as registry, registry.watch("greeter") as watcher:
        registry.bug = True
        await until(lambda: watcher.doubtful)
        first = watcher.last_error
        await until(lambda: watcher.last_error is not first)
        registry.bug = False
        await registry.register(info("a"))
        assert (await anext(watcher)).service == info("a")
    assert caplog.text.count("Traceback") == 1


@in_loop
async def test_a_task_that_fails_while_it_is_ended_is_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionResetError("gone")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await end(task, limit=1)
    assert task.done()
    del task
    gc.collect()
    assert "never retrieved" not in caplog.text


# -- any history -----------------------------------------------------------------------------

nodes = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("register"), nodes, st.sampled_from("12"), st.integers(1, 2)),
    st.tuples(st.just("deregister"), nodes),
    st.tuples(st.sampled_from(["fail", "recover", "end_changes", "wipe", "read", "turn", "wait"])),
)


class History:
    def __init__(self, registry: Faulty, watcher: Watcher) -> None:
        self.registry = registry
        self.watcher = watcher
        self.told = dict(watcher.nodes)

    def read(self) -> None:
        """What a reader believes who only follows events; each must make sense to him."""
        while event := self.watcher._next_event():
            id = event.service.nodes[0].id
            assert (event.action == "create") == (id not in self.told)
            if event.action == "delete":
                assert self.told.pop(id) == event.service
            else:
                assert self.told.get(id) != event.service
                self.told[id] = event.service

    async def step(self, what: str, *how: object) -> None:
        if what == "register":
            id, version, port = how
            found = info(str(id), version=str(version), port=int(str(port)))
            await self.registry.register(found, ttl=60)
        elif what == "deregister":
            await self.registry.deregister(info(str(how[0])))
        elif what == "wipe":
            self.registry.native.clear()
        elif what == "read":
            self.read()
        elif what == "turn":
            await asyncio.sleep(0)
        elif what == "wait":
            await asyncio.sleep(0.004)
        else:
            getattr(self.registry, what)()

    async def settle(self) -> None:
        self.registry.recover()
        async with asyncio.timeout(5):
            while self.watcher.doubtful or self.watcher.services != await self.registry.truth():
                await asyncio.sleep(0.001)


@given(st.sampled_from(MODES), st.lists(steps, max_size=25))
@settings(max_examples=80, deadline=None)
def test_after_any_history_the_view_and_its_reader_agree_with_the_registry(
    mode: Mode, history: list[tuple[str, ...]]
) -> None:
    async def run() -> None:
        async with Faulty(mode) as registry, registry.watch("greeter") as watcher:
            story = History(registry, watcher)
            for step in history:
                await story.step(*step)
            await story.settle()
            story.read()
            assert story.told == dict(watcher.nodes)
            assert story.told.keys() == {n.id for i in watcher.services for n in i.nodes}
            # and it is a lasting agreement
            await asyncio.sleep(0.005)
            assert watcher.services == await registry.truth()

    def quick(first: float, most: float) -> Backoff:
        return Backoff(first / 100, most / 100)

    with patch.object(module, "Backoff", quick):
        asyncio.run(run())
