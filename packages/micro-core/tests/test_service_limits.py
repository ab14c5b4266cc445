"""Limits given by flags reach what they limit, over what code says."""

from __future__ import annotations

import asyncio

import pytest
from in_loops import in_loop, until

from micro_core import Client, Event, Message, MicroError, Service, ServiceInfo, testing
from micro_core.broker.memory import MemoryBroker
from micro_core.client.mucp import MucpClient
from micro_core.registry.memory import MemoryRegistry
from micro_core.server.mucp import MucpServer
from micro_core.settings import Settings
from micro_core.transport.memory import MemoryTransport


def settings(*flags: str) -> Settings:
    return Settings.read(["--drain_delay=0", *flags], {})


def service() -> Service:
    return Service(
        "s",
        registry=MemoryRegistry("limits"),
        broker=MemoryBroker("limits"),
        transport="memory",
    )


@in_loop
async def test_limits_of_every_component() -> None:
    limited = service()
    flags = ("--connect_timeout=7s", "--close_timeout=1s", "--watch_resync=9s")
    await limited.start(settings(*flags, "--publish_timeout=2s"))
    try:
        parts = limited.running.parts
        for component in (parts.registry, parts.broker, parts.transport):
            assert component.connect_timeout == 7
            assert component.close_timeout == 1
        assert parts.registry.resync_interval == 9
        assert parts.broker.publish_timeout == 2
    finally:
        await limited.stop()


@in_loop
async def test_a_service_with_protocols_of_its_own_starts_again() -> None:
    transport = MemoryTransport("again")
    own = Service(
        "s",
        registry=MemoryRegistry("again"),
        transport=transport,
        client=MucpClient(transport=transport, pool_size=3),
        server=MucpServer(transport=transport),
    )

    @own.endpoint("Say.Hello")
    async def hello(request: str) -> str:
        return request

    for _ in range(3):
        await own.start(settings())
        assert await own.client.call("s", "Say.Hello", "hi") == "hi"
        await own.stop()


@in_loop
async def test_heartbeats_come_as_often_as_asked_for() -> None:
    limited = service()
    beats: list[float] = []
    registry = MemoryRegistry("limits")
    put = registry._register

    async def noted(info: ServiceInfo, ttl: float) -> None:
        beats.append(asyncio.get_running_loop().time())
        await put(info, ttl)

    registry._register = noted  # type: ignore[method-assign]
    limited.code = {**limited.code, "registry": registry}
    async with testing.clock() as clock:
        await limited.start(settings("--register_interval=2s"))
        try:
            await clock.advance(21)
        finally:
            await limited.stop()
    assert 11 <= len(beats) <= 12


@in_loop
async def test_calls_in_flight_are_limited() -> None:
    limited = service()

    @limited.endpoint("Say.Hello")
    async def hello(request: str) -> str:
        async with Client(registry=MemoryRegistry("limits"), transport="memory") as client:
            with pytest.raises(MicroError, match="1 calls in flight") as caught:
                await client.call("s", "Say.Hello", request)
        return f"{caught.value.code}"

    await limited.start(settings("--server_max_calls=1"))
    try:
        assert await limited.client.call("s", "Say.Hello", "John") == "503"
    finally:
        await limited.stop()


@pytest.mark.parametrize(("flags", "runs"), [((), 3), (("--subscriber_attempts=2",), 2)])
@in_loop
async def test_attempts_of_a_subscriber(flags: tuple[str, ...], runs: int) -> None:
    limited = service()
    attempts: list[int] = []
    dead: list[Message] = []

    @limited.subscribe("topic", attempts=3)
    async def handle(event: Event) -> None:
        attempts.append(event.attempts)
        raise ValueError("no")

    @limited.subscribe("topic.dead")
    async def bury(event: Event) -> None:
        dead.append(event.message)

    await limited.start(settings("--subscriber_backoff=0", *flags))
    try:
        await limited.client.publish("topic", {"a": 1})
        await until(lambda: bool(dead))
    finally:
        await limited.stop()
    assert attempts == list(range(1, runs + 1))
    assert dead[0].header["Micro-Attempts"] == str(runs)


@in_loop
async def test_prefetch_bounds_what_is_held() -> None:
    limited = service()
    held: list[Event] = []

    @limited.subscribe("topic", queue="q", auto_ack=False, concurrency=8)
    async def hold(event: Event) -> None:
        held.append(event)

    await limited.start(settings("--subscriber_prefetch=3"))
    try:
        for number in range(5):
            await limited.client.publish("topic", number)
        await until(lambda: len(held) == 3)
        await held[0].ack()
        await until(lambda: len(held) == 4)
        for event in held:
            await event.ack()
        await until(lambda: len(held) == 5)
        await held[-1].ack()
    finally:
        await limited.stop()
