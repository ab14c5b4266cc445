"""The memory registry, and the hub on which all memory plugins of a loop meet."""

from __future__ import annotations

import asyncio
import gc
import weakref

from in_loops import in_loop, until

from micro_core.hub import hub
from micro_core.registry.memory import MemoryRegistry, RegistryHub
from micro_core.registry.records import Endpoint, Node, ServiceInfo


def info(*ids: str, version: str = "1", name: str = "greeter") -> ServiceInfo:
    return ServiceInfo(name, version, [Node(id, f"127.0.0.1:{id}") for id in ids])


@in_loop
async def test_registries_of_one_name_meet_and_others_do_not() -> None:
    async with MemoryRegistry() as one, MemoryRegistry() as two, MemoryRegistry("t1") as alone:
        await one.register(info("1"))
        assert await two.get_service("greeter") == [info("1")]
        assert await two.list_services() == ["greeter"]
        assert await alone.get_service("greeter") == []
        assert await alone.list_services() == []


@in_loop
async def test_versions_are_told_apart_and_nodes_of_one_are_merged() -> None:
    async with MemoryRegistry() as registry:
        await registry.register(info("2"))
        await registry.register(info("3", version="2"))
        await registry.register(info("1"))
        assert await registry.get_service("greeter") == [info("1", "2"), info("3", version="2")]


@in_loop
async def test_registering_again_replaces_the_record_of_that_id() -> None:
    async with MemoryRegistry() as registry:
        await registry.register(info("1"))
        changed = ServiceInfo("greeter", "2", [Node("1", "10.0.0.1:1")], [Endpoint("Say.Hello")])
        await registry.register(changed)
        assert await registry.get_service("greeter") == [changed]


@in_loop
async def test_a_node_expires_and_its_watcher_is_told_at_that_time() -> None:
    async with MemoryRegistry() as registry:
        await registry.register(info("1"), ttl=0.1)
        async with registry.watch("greeter") as watcher:
            event = await anext(watcher)
            assert (event.action, event.service) == ("delete", info("1"))
        assert await registry.get_service("greeter") == []
        assert await registry.list_services() == []


@in_loop
async def test_a_renewed_node_does_not_expire_and_is_no_event() -> None:
    async with MemoryRegistry() as registry:
        await registry.register(info("1"), ttl=0.2)
        async with registry.watch("greeter") as watcher:
            for _ in range(8):
                await registry.register(info("1"), ttl=0.2)
                await asyncio.sleep(0.05)
            assert watcher.services == [info("1")]
            await registry.deregister(info("1"))
            assert (await anext(watcher)).action == "delete"


@in_loop
async def test_a_shorter_ttl_shortens_the_life() -> None:
    async with MemoryRegistry() as registry:
        await registry.register(info("1"), ttl=60)
        async with registry.watch("greeter") as watcher:
            await until(lambda: bool(registry.native._watchers))
            await registry.register(info("1"), ttl=0.05)
            assert (await anext(watcher)).action == "delete"


@in_loop
async def test_closing_takes_away_what_this_object_registered() -> None:
    async with MemoryRegistry() as stays:
        await stays.register(info("1"))
        async with MemoryRegistry() as goes:
            await goes.register(info("2"))
        assert await stays.get_service("greeter") == [info("1")]


@in_loop
async def test_changes_leave_nothing_behind() -> None:
    async with MemoryRegistry("t1") as registry:
        async with registry.watch("greeter"), registry.watch("greeter"):
            await until(lambda: len(registry.native._watchers.get("greeter", ())) == 2)
        assert registry.native._watchers == {}


def test_a_hub_belongs_to_its_loop() -> None:
    async def fill() -> None:
        async with MemoryRegistry() as registry:
            registry.native.put(info("1"), float("inf"))

    async def look() -> list[str]:
        async with MemoryRegistry() as registry:
            return await registry.list_services()

    with asyncio.Runner() as one, asyncio.Runner() as two:
        one.run(fill())
        assert one.run(look()) == ["greeter"]
        assert two.run(look()) == []


def test_a_hub_dies_with_its_loop() -> None:
    class Holder:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()  # as a timer would

    async def make() -> weakref.ref[Holder]:
        assert hub(Holder, "a") is hub(Holder, "a")
        assert hub(Holder, "a") is not hub(Holder, "b")
        assert hub(RegistryHub, "a") is hub(RegistryHub, "a")
        return weakref.ref(hub(Holder, "a"))

    held = asyncio.run(make())
    asyncio.run(make())
    gc.collect()
    assert held() is None
