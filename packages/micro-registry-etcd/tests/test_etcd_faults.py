"""Outages that only etcd has; each test prints what it measured, in seconds."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from in_loops import in_loop

from micro_conformance.backend import ComposeBackend
from micro_core.errors import BackendError
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_etcd import EtcdRegistry

TTL = 3.0
Record = Callable[[str, float, float], None]


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Notes a figure, and fails over its limit."""

    def note(name: str, seconds: float, limit: float) -> None:
        print(f"\n{name}: {seconds:.2f} s (limit {limit:.2f} s)", end="")
        record_property(name, round(seconds, 3))
        assert seconds <= limit, f"{name}: {seconds:.2f} s, over the limit of {limit:.2f} s"

    return note


@asynccontextmanager
async def server_of_our_own(files: list[str]) -> AsyncIterator[ComposeBackend]:
    async def ready(address: str) -> None:
        async with EtcdRegistry(address):
            pass

    async with ComposeBackend("etcd", 2379, files=files, ready=ready) as server:
        yield server


async def moment(condition: Callable[[], Awaitable[Any]], limit: float = 25.0) -> float:
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


def info_of(ttl: str = "") -> ServiceInfo:
    name = f"py.{secrets.token_hex(6)}"
    return ServiceInfo(name, "1", [Node(f"{name}-1", "10.0.0.1:9000", {"ttl": ttl})])


@in_loop
async def test_a_lost_lease_is_replaced(etcd: Any, record: Record) -> None:
    """Revoked under us: back at the next heartbeat, and the watchers are told both."""
    info = info_of()
    key = f"/micro/registry/{info.name}/{info.nodes[0].id}"
    async with (
        EtcdRegistry(etcd.address) as registry,
        EtcdRegistry(etcd.address) as other,
        registry.keep(info, ttl=TTL),
        other.watch(info.name) as watcher,
    ):
        lease = (await etcd.pair(key))["lease"]
        await etcd.ask("lease/revoke", ID=lease)
        assert (await anext(watcher)).action == "delete"
        seconds = await moment(lambda: other.get_service(info.name))
        record("back after its lease was revoked", seconds, TTL / 3 + 1)
        assert (await anext(watcher)).action == "create"
        assert (await etcd.pair(key))["lease"] != lease


@in_loop
async def test_a_frozen_server_is_noticed_by_a_watcher(
    compose_files: list[str], record: Record
) -> None:
    info = info_of()
    async with server_of_our_own(compose_files) as server:
        async with EtcdRegistry(server.address) as registry, registry.watch(info.name) as watcher:
            await registry.register(info, ttl=60)
            await anext(watcher)
            await server.pause()

            async def doubts() -> bool:
                return watcher.doubtful

            record("a frozen server is noticed after", await moment(doubts), 10)
            assert watcher.services == [info]
            await server.resume()

            async def is_right() -> bool:
                return not watcher.doubtful

            record("right again after the thaw", await moment(is_right), 3)
            await registry.deregister(info)
            assert (await anext(watcher)).action == "delete"


@in_loop
async def test_a_dead_node_is_gone_after_a_restart_too(
    compose_files: list[str], record: Record
) -> None:
    """The clock of a lease begins anew with a restart."""
    info = info_of()
    async with server_of_our_own(compose_files) as server, EtcdRegistry(server.address) as other:
        dead = EtcdRegistry(server.address)
        await dead.connect()
        await dead.register(info, ttl=TTL)
        begin = time.monotonic()
        await server.kill()
        await server.start()
        assert await other.get_service(info.name) == [info]

        async def gone() -> bool:
            return not await other.get_service(info.name)

        await moment(gone)
        record("a dead node is gone after", time.monotonic() - begin, 2 * TTL + 2)
        await dead.close()
