"""Everything a user can write so far, once. It runs, and the type checkers read it.

python tour.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from micro_core import (
    Client,
    Event,
    Message,
    Node,
    NotFound,
    Service,
    ServiceInfo,
    ServiceNotFound,
    current,
    detached,
    endpoint,
)
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.memory import MemoryRegistry


@dataclass
class HelloRequest:
    name: str


@dataclass
class HelloReply:
    greeting: str


@dataclass
class Number:
    value: int


class Say:
    async def hello(self, request: HelloRequest) -> HelloReply:
        return HelloReply(greeting=f"Hello {request.name}")

    def slowly(self, request: HelloRequest) -> HelloReply:
        return HelloReply(greeting=f"Hello {request.name}, from a thread")

    @endpoint(name="GetURL", idempotent=True, metadata={"auth": "none"})
    async def get_url(self, request: HelloRequest) -> HelloReply:
        call = current()
        tenant = call.metadata.get("tenant", "nobody")
        raise NotFound(f"no url for {request.name} of {tenant}, {call.remaining()} s left")


class Chat:
    async def count(self, request: Number) -> AsyncIterator[Number]:
        for value in range(request.value):
            yield Number(value)

    async def total(self, numbers: AsyncIterator[Number]) -> Number:
        return Number(sum([number.value async for number in numbers]))

    async def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]:
        async for number in numbers:
            yield Number(2 * number.value)


service = Service(
    "tour", version="1.2.0", registry="memory", transport="memory", broker="memory", ttl=10.0
)
service.handle(Say())
service.handle(Chat())
received: asyncio.Queue[str] = asyncio.Queue()


@service.endpoint("Say.Bye")
async def bye(request: HelloRequest) -> HelloReply:
    async with asyncio.timeout(1.0):
        return await service.client.call("tour", "Say.Hello", request, HelloReply)


@service.subscribe("greetings", queue="mailer", attempts=3, concurrency=2)
async def mail(greeting: HelloReply, event: Event) -> None:
    await received.put(f"{event.topic}: {greeting.greeting}")


@service.before_start
async def prepare() -> None:
    print("about to start")


@service.after_stop
def finished() -> None:
    print("stopped")


async def calls(client: Client) -> None:
    reply = await client.call("tour", "Say.Hello", HelloRequest("John"), HelloReply, timeout=2.0)
    print(reply.greeting)
    print(await client.call("tour", "Say.Slowly", {"name": "Ann"}, version="1.2.0"))
    with detached():
        print((await client.call("tour", "Say.Bye", HelloRequest("Bob"), HelloReply)).greeting)
    try:
        await client.call(
            "tour", "Say.GetURL", HelloRequest("x"), HelloReply, metadata={"tenant": "7"}
        )
    except NotFound as error:
        print(error.code, error.detail)
    try:
        await client.call("nowhere", "Say.Hello", HelloRequest("x"), HelloReply)
    except ServiceNotFound as error:
        print(error)


async def streams(client: Client) -> None:
    async with client.stream("tour", "Chat.Count", Number(3), response=Number) as numbers:
        print([number.value async for number in numbers])
    async with client.stream("tour", "Chat.Total", response=Number) as stream:
        for value in (1, 2, 3):
            await stream.send(Number(value))
        await stream.end()
        print((await stream.recv()).value)
    async with client.stream("tour", "Chat.Double", response=Number) as stream:
        await stream.send(Number(21))
        print((await stream.recv()).value)
        await stream.end()
        async for _ in stream:
            raise AssertionError


async def events(client: Client) -> None:
    await client.publish("greetings", HelloReply("hi"), key="john")
    print(await received.get())


async def components() -> None:
    """Each stands alone, too."""
    async with MemoryRegistry("alone") as registry:
        info = ServiceInfo("greeter", "1.0.0", nodes=[Node("greeter-1", "10.0.0.7:9000")])
        async with registry.watch("greeter") as watcher:
            await registry.register(info, ttl=30)
            print([known.name for known in await registry.get_service("greeter")])
            async for event in watcher:
                print(event.action, event.service.nodes[0].address)
                break
    async with MemoryBroker("alone") as broker:
        seen: asyncio.Queue[bytes] = asyncio.Queue()

        async def handler(event: Event) -> None:
            await seen.put(event.message.body)

        subscription = await broker.subscribe("topic", handler, queue="workers")
        await broker.publish("topic", Message({"id": "1"}, b"body"), key=b"john")
        print(await seen.get())
        await subscription.unsubscribe()


async def main() -> None:
    async with service:
        await calls(service.client)
        await events(service.client)
        await streams(service.client)
    await components()


if __name__ == "__main__":
    asyncio.run(main())
