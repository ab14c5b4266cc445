"""500 times open and closed: no task, thread or descriptor stays behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from in_loops import in_loop, until

from micro_core import Broker, Client, Event, Registry, Service
from micro_core.broker.http import HttpBroker
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry
from micro_core.settings import Settings

CYCLES = 500
QUICK = Settings.read(["--drain_delay=0"], {})


def held() -> dict[str, int]:
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def greeter(name: str, registry: Registry, transport: str, broker: Broker) -> Service:
    service = Service(name, registry=registry, transport=transport, broker=broker)

    @service.endpoint("Say.Hello")
    async def hello(request: str) -> str:
        return f"Hello {request}"

    @service.endpoint("Say.Slowly")
    def slowly(request: str) -> str:  # in a thread
        return f"Hello {request}"

    @service.subscribe("greetings", queue="q")
    async def greet(event: Event) -> None: ...

    return service


def new_registry(transport: str, directory: Path) -> Registry:
    if transport == "memory":
        return MemoryRegistry("leaks")
    return LocalRegistry(str(directory / "nodes"))


async def leaked(cycle: Callable[[], Awaitable[None]]) -> dict[str, int]:
    """What one cycle more and more leaves behind; the threads of the loop itself are one."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    for _ in range(3):  # what is made once
        await cycle()
    before = held()
    for _ in range(CYCLES):
        await cycle()
    with suppress(TimeoutError):
        await until(lambda: not more_than(before))  # a thread that was told to end takes a while
    return more_than(before)


def more_than(before: dict[str, int]) -> dict[str, int]:
    return {name: n - before[name] for name, n in held().items() if n > before[name]}


@pytest.mark.parametrize("transport", ["memory", "http"])
@in_loop
async def test_clients(
    transport: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    registry = new_registry(transport, tmp_path)
    service = greeter("greeter", registry, transport, MemoryBroker("leaks"))
    await service.start(QUICK)

    async def cycle() -> None:
        async with Client(
            registry=new_registry(transport, tmp_path),
            transport=transport,
            broker=MemoryBroker("leaks"),
        ) as client:
            assert await client.call("greeter", "Say.Hello", "John") == "Hello John"
            await client.publish("greetings", "hi")

    try:
        left = await leaked(cycle)
    finally:
        await service.stop()
    record_property("leaked", left)
    assert left == {}


@pytest.mark.parametrize("transport", ["memory", "http"])
@in_loop
async def test_services(
    transport: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    async def cycle() -> None:
        registry = new_registry(transport, tmp_path)
        broker: Broker = MemoryBroker("leaks")
        if transport == "http":
            broker = HttpBroker(registry=registry)
        service = greeter("greeter", registry, transport, broker)
        await service.start(QUICK)
        assert await service.client.call("greeter", "Say.Slowly", "John") == "Hello John"
        await service.client.publish("greetings", "hi")
        await service.stop()

    left = await leaked(cycle)
    record_property("leaked", left)
    assert left == {}
