"""A cancellation is never swallowed: not even one that meets a result in the same turn.

Each operation is cancelled after 0, 1, 2... turns of the loop, until it has ended by itself
before. So every await inside is met at every point, that of its result included.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from in_loops import in_loop

from micro_core import Client, Event, Message, Node, Service, ServiceInfo
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.memory import MemoryRegistry
from micro_core.settings import Settings
from micro_core.transport.memory import MemoryTransport

TIMES = 1000
INFO = ServiceInfo("other", "1", [Node("other-1", "127.0.0.1:1")])


class Echo:
    async def say(self, request: str) -> str:
        await asyncio.sleep(0)
        return request

    async def talk(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        async for line in lines:
            yield line


@dataclass
class World:
    """Everything that operations need, each user of which is cancelled."""

    service: Service
    client: Client
    registry: MemoryRegistry
    broker: MemoryBroker
    transport: str
    stack: AsyncExitStack

    def new_client(self) -> Client:
        return Client(registry=self.registry, broker=self.broker, transport=self.transport)

    def new_service(self) -> Service:
        made = Service("fresh", registry=self.registry, broker=self.broker, transport="memory")
        made.handle(Echo())

        @made.subscribe("fresh")
        async def handle(event: Event) -> None: ...

        return made


@asynccontextmanager
async def world(transport: str) -> AsyncIterator[World]:
    registry, broker = MemoryRegistry("cancel"), MemoryBroker("cancel")
    service = Service("echo", registry=registry, broker=broker, transport=transport)
    service.handle(Echo())
    async with AsyncExitStack() as stack:
        for component in (registry, broker):
            await stack.enter_async_context(component)
        await service.start(QUICK)
        stack.push_async_callback(service.stop)
        client = Client(registry=registry, broker=broker, transport=transport)
        await stack.enter_async_context(client)
        yield World(service, client, registry, broker, transport, stack)


QUICK = Settings.read(["--drain_delay=0"], {})
Prepared = Coroutine[Any, Any, Any]
Undo = Callable[[], Awaitable[Any]]
Operation = Callable[[World], Awaitable[tuple[Prepared, Undo | None]]]
OPERATIONS: dict[str, Operation] = {}


def operation(function: Operation) -> Operation:
    OPERATIONS[getattr(function, "__name__", "")] = function
    return function


@operation
async def client_call(world: World) -> tuple[Prepared, Undo | None]:
    return world.client.call("echo", "Echo.Say", "hi", timeout=5), None


@operation
async def client_call_that_waits(world: World) -> tuple[Prepared, Undo | None]:
    return world.client.call("echo", "Echo.Say", "hi", wait=True), None


@operation
async def client_publish(world: World) -> tuple[Prepared, Undo | None]:
    return world.client.publish("topic", "hi"), None


@operation
async def client_open(world: World) -> tuple[Prepared, Undo | None]:
    client = world.new_client()
    return client.open(), client.close


@operation
async def client_close(world: World) -> tuple[Prepared, Undo | None]:
    client = world.new_client()
    await client.open()
    await client.call("echo", "Echo.Say", "hi")
    return client.close(), client.close


@operation
async def stream_open_and_leave(world: World) -> tuple[Prepared, Undo | None]:
    async def come_and_go() -> None:
        async with world.client.stream("echo", "Echo.Talk"):
            pass

    return come_and_go(), None


@operation
async def stream_send_and_recv(world: World) -> tuple[Prepared, Undo | None]:
    stream = world.client.stream("echo", "Echo.Talk", response=str)
    await stream.__aenter__()

    async def exchange() -> None:
        await stream.send("one")
        await stream.recv()
        await stream.end()
        with pytest.raises(StopAsyncIteration):
            await stream.recv()

    return exchange(), lambda: stream.__aexit__(None, None, None)


@operation
async def registry_operations(world: World) -> tuple[Prepared, Undo | None]:
    registry = world.registry

    async def all_of_them() -> None:
        await registry.register(INFO, ttl=30)
        await registry.get_service("other")
        await registry.list_services()
        await registry.deregister(INFO)

    return all_of_them(), lambda: registry.deregister(INFO)


@operation
async def registry_keep(world: World) -> tuple[Prepared, Undo | None]:
    async def keep() -> None:
        async with world.registry.keep(INFO, ttl=30):
            pass

    return keep(), None


@operation
async def registry_watch(world: World) -> tuple[Prepared, Undo | None]:
    async def watch() -> None:
        async with world.registry.watch("other") as watcher:
            await world.registry.register(INFO, ttl=30)
            await anext(watcher)

    return watch(), lambda: world.registry.deregister(INFO)


@operation
async def broker_publish(world: World) -> tuple[Prepared, Undo | None]:
    return world.broker.publish("topic", Message({}, b"1")), None


@operation
async def broker_subscription(world: World) -> tuple[Prepared, Undo | None]:
    before = set(world.broker._subscriptions)

    async def handle(event: Event) -> None: ...

    async def come_and_go() -> None:
        subscription = await world.broker.subscribe("topic", handle)
        await subscription.drain(1)
        await subscription.unsubscribe()

    async def undo() -> None:
        for subscription in world.broker._subscriptions - before:
            await subscription.unsubscribe()

    return come_and_go(), undo


@operation
async def event_ack(world: World) -> tuple[Prepared, Undo | None]:
    held: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    async def hold(event: Event) -> None:
        held.set_result(event)

    subscription = await world.broker.subscribe("acks", hold, queue="q", auto_ack=False)
    await world.broker.publish("acks", Message({}, b"1"))
    event = await held
    return event.ack(), subscription.unsubscribe


@operation
async def component_connect_and_close(world: World) -> tuple[Prepared, Undo | None]:
    component = MemoryTransport()

    async def come_and_go() -> None:
        await component.connect()
        await component.close()

    return come_and_go(), component.close


@operation
async def service_start(world: World) -> tuple[Prepared, Undo | None]:
    service = world.new_service()
    return service.start(QUICK), service.stop


@operation
async def service_stop(world: World) -> tuple[Prepared, Undo | None]:
    service = world.new_service()
    await service.start(QUICK)
    return service.stop(), service.stop


async def cancelled_after(turns: int, prepared: Prepared) -> bool | None:
    """Whether the cancellation was swallowed; None when it came too late to be one."""
    task = asyncio.create_task(prepared)
    for _ in range(turns):
        await asyncio.sleep(0)
    asked = task.cancel()
    await asyncio.wait({task})
    return None if not asked else not task.cancelled()


@pytest.mark.parametrize("transport", ["memory", "http"])
@pytest.mark.parametrize("name", OPERATIONS)
@in_loop
async def test_no_cancellation_is_swallowed(
    name: str, transport: str, record_property: pytest.RecordProperty
) -> None:
    asked = swallowed = 0
    turns = itertools.count()
    async with world(transport) as here:
        while asked < TIMES:
            prepared, undo = await OPERATIONS[name](here)
            result = await cancelled_after(next(turns), prepared)
            if undo is not None:
                await undo()
            if result is None:
                assert asked, "ended before it could be cancelled"
                turns = itertools.count()
                continue
            asked += 1
            swallowed += result
        assert await here.client.call("echo", "Echo.Say", "still here") == "still here"
    record_property("cancelled", asked)
    record_property("swallowed", swallowed)
    assert swallowed == 0
