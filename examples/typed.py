"""Calls through an interface that both sides import; the type checkers read it, strictly.

python typed.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from micro_core import Client, NotFound, Service, current, endpoint, options
from micro_core.wrapper.base import Next, WrappedRequest


@dataclass
class Name:
    name: str


@dataclass
class Greeting:
    text: str


@dataclass
class Number:
    value: int


class SayApi(Protocol):
    """What client and server agree on: the endpoints Say.Hello, Say.GetURL, Say.Count..."""

    async def hello(self, request: Name) -> Greeting: ...

    @endpoint(name="GetURL")
    async def get_url(self, request: Name) -> Greeting: ...

    def count(self, request: Number) -> AsyncGenerator[Number, None]: ...

    async def total(self, numbers: AsyncIterator[Number]) -> Number: ...

    def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]: ...


class Say(SayApi):
    async def hello(self, request: Name) -> Greeting:
        return Greeting(f"Hello {request.name} of {current().metadata.get('tenant', 'nobody')}")

    @endpoint(name="GetURL", idempotent=True)
    async def get_url(self, request: Name) -> Greeting:
        raise NotFound(f"no url of {request.name}")

    async def count(self, request: Number) -> AsyncGenerator[Number, None]:
        for value in range(request.value):
            yield Number(value)

    async def total(self, numbers: AsyncIterator[Number]) -> Number:
        return Number(sum([number.value async for number in numbers]))

    async def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]:
        async for number in numbers:
            yield Number(2 * number.value)


class Desk:
    """Its method has no ``async``, runs in a thread and calls from there."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def welcome(self, request: Name) -> Greeting:
        reply = self._client.blocking.call("typed", "Say.Hello", request, Greeting)
        return Greeting(f"{reply.text}, welcome")


async def told(request: WrappedRequest, call_next: Next) -> Any:
    """A wrapper around every call and stream of a client."""
    print(f"{request.kind} {request.name}")
    return await call_next(request)


async def numbers(*values: int) -> AsyncIterator[Number]:
    for value in values:
        yield Number(value)


async def talk(client: Client) -> None:
    say = client.stub("typed", SayApi, timeout=2.0, metadata={"tenant": "7"}, retries=1)
    greeting: Greeting = await say.hello(Name("John"))
    print(greeting.text)
    with options(timeout=1.0, metadata={"tenant": "8"}, version="1.2", labels={"zone": "a"}):
        print((await say.hello(Name("Ann"))).text)
    try:
        await say.get_url(Name("x"))
    except NotFound as error:
        print(error)
    print([number.value async for number in say.count(Number(3))])
    print((await say.total(numbers(1, 2, 3))).value)
    print([number.value async for number in say.double(numbers(4, 5))])
    async with aclosing(client.stub("typed", Say).count(Number(100))) as counted:
        async for number in counted:
            print(number.value)
            break
    reply = await client.call(
        "typed", "Desk.Welcome", Name("Bob"), Greeting, timeout=2.0, labels={"zone": "a"}
    )
    print(reply.text)


async def main() -> None:
    service = Service(
        "typed",
        version="1.2",
        metadata={"zone": "a"},
        registry="memory",
        transport="memory",
        broker="memory",
    )
    service.handle(Say())
    service.handle(Desk(service.client))
    async with service:
        async with Client(
            registry="memory", transport="memory", broker="memory", wrappers=[told]
        ) as client:
            await talk(client)
            print(sorted(client.health().services))


if __name__ == "__main__":
    asyncio.run(main())
