"""Three real members of one cluster, of which some freeze."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop

from micro_conformance.backend import ComposeBackend
from micro_core.errors import BackendError
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_etcd import EtcdRegistry

TTL = 6.0


class Cluster(ComposeBackend):
    """Members 7, 8 and 9, in this order, of which the ports have the numbers."""

    @property
    def addresses(self) -> list[str]:
        more = [self.ports[f"MICRO_PORT_ETCD_{number}"] for number in ("EIGHT", "NINE")]
        return [self.address, *(f"127.0.0.1:{port}" for port in more)]

    async def signal(self, name: str, *members: int) -> None:
        for member in members:
            kill = f"kill -{name} $(cat /tmp/{member}.pid)"
            await self._compose("exec", "-T", "etcd", "sh", "-c", kill)


def cluster(files: list[str]) -> Cluster:
    async def ready(address: str) -> None:
        async with EtcdRegistry(address):
            pass

    own = str(Path(__file__).with_name("compose.cluster.yaml"))
    return Cluster("etcd", 2379, files=[*files, own], ready=ready)


async def moment(condition: Callable[[], Awaitable[Any]], limit: float = 30.0) -> float:
    """Seconds until the condition came true; errors mean that it has not yet."""
    begin = time.monotonic()
    async with asyncio.timeout(limit):
        while True:
            try:
                if await condition():
                    return time.monotonic() - begin
            except BackendError:
                pass
            await asyncio.sleep(0.02)


def noted(name: str, seconds: float, limit: float) -> None:
    print(f"\n{name}: {seconds:.2f} s (limit {limit:.2f} s)", end="")
    assert seconds <= limit


@pytest.mark.full
@in_loop
async def test_a_cluster_goes_on_without_the_member_that_was_asked(
    compose_files: list[str],
) -> None:
    """No read fails, what is kept stays, and watchers are told of what changes."""
    name = f"py.{secrets.token_hex(4)}"
    first, second = (ServiceInfo(name, "1", [Node(f"{name}-{n}", f"h:{n}")]) for n in (1, 2))
    async with (
        cluster(compose_files) as server,
        EtcdRegistry(*server.addresses) as registry,
        EtcdRegistry(*server.addresses[1:]) as other,
        registry.keep(first, ttl=TTL),
        registry.watch(name) as watcher,
    ):
        await server.signal("STOP", 7)
        begin, slowest = time.monotonic(), 0.0
        await other.register(second, ttl=60)
        told = asyncio.create_task(anext(watcher))
        while time.monotonic() < begin + 2 * TTL:
            asked = time.monotonic()
            assert first.nodes[0].id in await registry.get_nodes(name)
            slowest = max(slowest, time.monotonic() - asked)
            if told.done():
                noted("a frozen member: the watch goes on after", time.monotonic() - begin, 10)
                assert told.result().service == second
                break
            await asyncio.sleep(0.02)
        noted("a frozen member: the slowest read", slowest, 5)
        await asyncio.sleep(begin + 2 * TTL - time.monotonic())
        assert set(watcher.nodes) == {info.nodes[0].id for info in (first, second)}
        assert set(await other.get_nodes(name)) == set(watcher.nodes)
        await server.signal("CONT", 7)


@pytest.mark.full
@in_loop
async def test_a_cluster_without_a_quorum_is_an_outage(compose_files: list[str]) -> None:
    """The member that is left knows that it is alone, and its watch is not trusted."""
    name = f"py.{secrets.token_hex(4)}"
    info = ServiceInfo(name, "1", [Node(f"{name}-1", "h:1")])
    async with cluster(compose_files) as server:
        alone = server.addresses[2]
        async with EtcdRegistry(alone) as registry, registry.watch(name) as watcher:
            await server.signal("STOP", 7, 8)
            begin = time.monotonic()
            with pytest.raises(BackendError):
                await registry.get_service(name)
            noted("no quorum: a read fails after", time.monotonic() - begin, 6)

            async def doubts() -> bool:
                return watcher.doubtful

            await moment(doubts)
            noted("no quorum: noticed by a watcher after", time.monotonic() - begin, 10)
            await server.signal("CONT", 7, 8)

            async def registered() -> bool:
                await registry.register(info)
                return True

            noted("a quorum again: registered after", await moment(registered), 5)
            async with asyncio.timeout(5):
                assert (await anext(watcher)).action == "create"
