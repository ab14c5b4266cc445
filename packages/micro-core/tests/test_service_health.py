"""Readiness: what /_live and /_ready answer, and what Service.health() says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from in_loops import in_loop, until

from micro_core import (
    BackendUnavailable,
    Event,
    Message,
    Service,
    ServiceInfo,
)
from micro_core.broker.base import BrokerFeatures, Delivery, SubscribeRequest
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.memory import MemoryRegistry

TTL = 3.0


class FlakyBroker(MemoryBroker):
    """Takes and gives nothing while ``broken``."""

    features = BrokerFeatures(queue=True)
    broken = False

    async def _receive(self, request: SubscribeRequest) -> AsyncIterator[Delivery]:
        if self.broken:
            raise BackendUnavailable("away")
        return self._until_broken()

    async def _until_broken(self) -> AsyncIterator[Delivery]:
        while not self.broken:  # polled: it stands for a server that may vanish
            await asyncio.sleep(0.01)
        raise BackendUnavailable("gone")
        yield Delivery("", Message({}))


class DeafRegistry(MemoryRegistry):
    """Refuses registrations while ``deaf``."""

    deaf = False

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        if self.deaf:
            raise BackendUnavailable("away", plugin=self.name)
        await super()._register(info, ttl)


async def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


def service(registry: MemoryRegistry, broker: MemoryBroker) -> Service:
    return Service("s", registry=registry, transport="http", broker=broker, ttl=TTL)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")


@in_loop
async def test_a_service_that_runs_is_live_and_ready() -> None:
    async with service(MemoryRegistry("health"), MemoryBroker("health")) as running:
        assert running.node is not None
        assert await get(running.node.address, "/_live") == (200, "ok\n")
        assert await get(running.node.address, "/_ready") == (200, "ok\n")
        health = running.health()
        assert health.ready
        assert health.reasons == ()
        assert health.components["registry"].state == "connected"
    assert running.health().reasons == ("not running",)


@in_loop
async def test_a_stopping_service_is_live_and_not_ready_while_it_is_still_registered() -> None:
    registry = MemoryRegistry("health-stop")
    stopping = service(registry, MemoryBroker())
    seen: list[tuple[int, str]] = []

    @stopping.before_stop
    async def ask() -> None:
        [info] = await registry.get_service("s")
        address = info.nodes[0].address
        seen.extend([await get(address, "/_live"), await get(address, "/_ready")])

    async with stopping:
        pass
    assert seen == [(200, "ok\n"), (503, "stopping\n")]


@in_loop
async def test_a_broken_subscription_is_a_reason_until_it_is_open_again() -> None:
    broker = FlakyBroker("health-broker")
    subscribed = service(MemoryRegistry("health-broker"), broker)

    @subscribed.subscribe("topic", queue="workers")
    async def handle(event: Event) -> None:
        raise AssertionError("nothing is published")

    async with subscribed as running:
        assert running.health().ready
        broker.broken = True
        await until(lambda: not running.health().ready)
        assert running.health().reasons == ("subscription topic queue workers is broken",)
        assert running.health().components["broker"].state == "lost"
        broker.broken = False
        await until(lambda: running.health().ready)


@in_loop
async def test_a_registry_that_is_silent_beyond_the_ttl_is_a_reason() -> None:
    registry = DeafRegistry("health-registry")
    async with service(registry, MemoryBroker("health-registry")) as running:
        registry.deaf = True
        await until(lambda: running.health().reasons == ("not registered",))
        registry.deaf = False
        await until(lambda: running.health().ready)
