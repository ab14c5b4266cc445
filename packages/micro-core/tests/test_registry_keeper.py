"""A registration survives whatever happens to its registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from in_loops import in_loop

from micro_core.errors import BackendUnavailable, InvalidName, OptionError
from micro_core.registry.keeper import Keeper
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Endpoint, Node, ServiceInfo

TTL = 0.6


async def until(condition: Callable[[], bool]) -> float:
    """How many seconds it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)
    return loop.time() - begin


def info(*ids: str, version: str = "1") -> ServiceInfo:
    return ServiceInfo("greeter", version, [Node(id, f"{id}:1") for id in ids])


class Faulty(MemoryRegistry):
    """A server that can be away, and be slow to do what it is told."""

    def __init__(self) -> None:
        super().__init__("faulty")
        self.down = False
        self.hangs = False
        self.delay = 0.0
        self.attempts = 0

    def found(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        return sorted(i.nodes[0].id for i in self.native.live("greeter", now))

    async def _server(self) -> None:
        await asyncio.sleep(self.delay)
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise ConnectionRefusedError("no server")

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        self.attempts += 1
        await self._server()
        await super()._register(info, ttl)

    async def _deregister(self, info: ServiceInfo) -> None:
        await self._server()
        await super()._deregister(info)


@in_loop
async def test_it_registers_renews_and_deregisters() -> None:
    async with Faulty() as registry:
        async with registry.keep(info("a"), ttl=TTL) as keeper:
            assert registry.found() == ["a"]
            assert keeper.registered
            async with registry.watch("greeter") as watcher:
                took = await until(lambda: registry.attempts == 5)
                assert watcher._next_event() is None  # visible without a gap
            assert took >= 4 * 0.9 * TTL / 3  # a tenth early at most
        assert registry.found() == []
        assert not keeper.registered


@in_loop
async def test_entering_raises_when_it_cannot_register() -> None:
    async with Faulty() as registry:
        registry.down = True
        with pytest.raises(BackendUnavailable, match="no server"):
            await registry.keep(info("a")).__aenter__()


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_ttl_that_could_not_be_kept_is_refused(ttl: float) -> None:
    with pytest.raises(OptionError, match="more than 0 seconds"):
        MemoryRegistry().keep(info("a"), ttl=ttl)


@in_loop
async def test_data_lost_is_registered_again_within_a_third_of_the_ttl() -> None:
    async with Faulty() as registry, registry.keep(info("a"), ttl=TTL):
        for _ in range(3):
            registry.native.clear()
            beats = registry.attempts
            assert await until(lambda: registry.found() == ["a"]) < TTL / 3 + 2
            assert registry.attempts == beats + 1


@in_loop
async def test_an_outage_longer_than_the_ttl_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "micro.registry")
    async with Faulty() as registry, registry.keep(info("a"), ttl=TTL) as keeper:
        registry.down = True
        await until(lambda: not keeper.registered)
        assert "no server" in str(keeper.last_error)
        assert registry.found() == []
        failed = registry.attempts
        assert failed > 3
        registry.down = False
        assert await until(lambda: keeper.registered) < TTL / 3 + 2
        assert keeper.last_error is None
        assert registry.found() == ["a"]
        messages = [record.getMessage() for record in caplog.records]
        assert ["cannot be registered" in m for m in messages].count(True) == 1
        assert ["registered again after" in m for m in messages].count(True) == 1


@pytest.mark.parametrize("ttl", [0.3, 1, 3, 6, 9, 15, 30, 60, 90])
def test_a_hung_attempt_a_pause_and_another_attempt_fit_the_promise(ttl: float) -> None:
    keeper = Keeper(MemoryRegistry(), info("a"), ttl)
    assert keeper._limit <= max(1.0, ttl / 3)
    assert 0 < keeper._longest_pause() <= min(5.0, ttl / 3)
    assert keeper._limit + keeper._longest_pause() <= ttl / 3 + 1.5
    assert 0.9 * ttl / 3 <= keeper._delay() <= ttl / 3


@in_loop
async def test_a_server_that_hangs_does_not_hold_up_the_keeper() -> None:
    async with Faulty() as registry:
        registry.operation_timeout = 0.1
        async with registry.keep(info("a"), ttl=TTL) as keeper:
            registry.hangs = True
            await until(lambda: keeper.last_error is not None)
            registry.native.clear()
            registry.hangs = False
            assert await until(lambda: registry.found() == ["a"]) < TTL / 3 + 2


@in_loop
async def test_update_replaces_what_is_registered_at_once_and_for_good() -> None:
    async with Faulty() as registry, registry.keep(info("a", "b"), ttl=TTL) as keeper:
        changed = ServiceInfo("greeter", "2", info("b", "c").nodes, [Endpoint("Say.Hello")])
        await keeper.update(changed)
        assert await registry.get_service("greeter") == [changed]
        registry.native.clear()
        await until(lambda: registry.found() == ["b", "c"])
        assert await registry.get_service("greeter") == [changed]


@in_loop
async def test_an_update_that_fails_is_tried_on() -> None:
    async with Faulty() as registry, registry.keep(info("a"), ttl=TTL) as keeper:
        registry.down = True
        with pytest.raises(BackendUnavailable):
            await keeper.update(info("a", version="2"))
        registry.down = False
        registry.native.clear()
        await until(lambda: registry.found() == ["a"])
        assert await registry.get_service("greeter") == [info("a", version="2")]


@in_loop
async def test_an_update_that_comes_after_the_end_registers_nothing() -> None:
    async with Faulty() as registry:
        keeper = await registry.keep(info("a"), ttl=TTL).__aenter__()
        registry.delay = 0.02
        closing = asyncio.create_task(keeper.close())
        await asyncio.sleep(0)
        with pytest.raises(BackendUnavailable, match="not kept"):
            await keeper.update(info("a", version="2"))
        await closing
        assert registry.found() == []


@in_loop
async def test_an_invalid_update_changes_nothing() -> None:
    async with Faulty() as registry, registry.keep(info("a"), ttl=TTL) as keeper:
        with pytest.raises(InvalidName):
            await keeper.update(info("a", version="\n"))
        assert keeper.info == info("a")


@in_loop
async def test_a_beat_on_its_way_does_not_outlive_the_end() -> None:
    async with Faulty() as registry:
        keeper = await registry.keep(info("a"), ttl=0.09).__aenter__()
        registry.delay = 0.05
        beats = registry.attempts
        await until(lambda: registry.attempts > beats)  # and it has not landed yet
        await keeper.close()
        assert registry.found() == []
        await asyncio.sleep(0.1)
        assert registry.found() == []


@in_loop
async def test_a_beat_that_can_no_longer_be_called_back_does_not_outlive_the_end() -> None:
    class Sent(MemoryRegistry):
        """Cancelling whoever waits for the answer does not take the request back."""

        slow = False
        landing: asyncio.Task[None] | None = None

        async def _register(self, info: ServiceInfo, ttl: float) -> None:
            if self.slow:
                self.landing = asyncio.create_task(self._land(info, ttl))
                await asyncio.shield(self.landing)
            await super()._register(info, ttl)

        async def _land(self, info: ServiceInfo, ttl: float) -> None:
            await asyncio.sleep(0.05)
            await super()._register(info, ttl)

    async with Sent("sent") as registry:
        keeper = await registry.keep(info("a"), ttl=0.3).__aenter__()
        registry.slow = True
        await until(lambda: registry.landing is not None)
        await keeper.close()
        if registry.landing:
            await registry.landing
        assert await registry.get_service("greeter") == []


@in_loop
async def test_a_beat_on_its_way_does_not_undo_an_update() -> None:
    async with Faulty() as registry, registry.keep(info("a"), ttl=TTL) as keeper:
        registry.delay = 0.05
        beats = registry.attempts
        await until(lambda: registry.attempts > beats)
        registry.delay = 0.0
        await keeper.update(info("a", version="2"))
        await asyncio.sleep(0.1)
        assert await registry.get_service("greeter") == [info("a", version="2")]


@in_loop
async def test_closing_waits_for_the_end_of_its_task() -> None:
    async with MemoryRegistry() as registry:
        keeper = await registry.keep(info("a"), ttl=TTL).__aenter__()
        task = keeper._task
        await keeper.close()
        assert task is not None
        assert task.done()


@pytest.mark.parametrize("fault", ["down", "hangs"])
@in_loop
async def test_closing_without_a_registry_is_bounded_and_only_logged(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Faulty() as registry:
        registry.close_timeout = 0.1
        keeper = await registry.keep(info("a"), ttl=TTL).__aenter__()
        setattr(registry, fault, True)
        async with asyncio.timeout(2):
            await keeper.close()
            await keeper.close()
        assert caplog.text.count("will expire") == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}
        setattr(registry, fault, False)


@in_loop
async def test_a_cancelled_keeper_deregisters() -> None:
    async with Faulty() as registry:

        async def serve() -> None:
            async with registry.keep(info("a"), ttl=TTL):
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await until(lambda: registry.found() == ["a"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert registry.found() == []
