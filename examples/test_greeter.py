"""Tests of a service, without a server, a port or a plugin of any test framework.

pytest examples/test_greeter.py
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from micro_core import Client, NotFound, Service, testing


@dataclass
class HelloRequest:
    name: str


@dataclass
class HelloReply:
    greeting: str


class Say:
    async def hello(self, request: HelloRequest) -> HelloReply:
        if request.name == "nobody":
            raise NotFound("nobody is not here")
        reply = HelloReply(f"Hello {request.name}")
        await service.client.publish("greetings", reply)
        return reply

    async def later(self, request: HelloRequest) -> HelloReply:
        await asyncio.sleep(3600)
        return HelloReply(f"Hello {request.name}, an hour later")


service = Service("greeter", registry="local", transport="http")
service.handle(Say())
letters: list[str] = []


@service.subscribe("greetings", queue="mailer")
async def mail(greeting: HelloReply) -> None:
    letters.append(greeting.greeting)


async def greet_all(client: Client, *names: str) -> list[str]:
    """Code that uses the service, and is given its client."""
    found: list[str] = []
    for name in names:
        try:
            reply = await client.call("greeter", "Say.Hello", HelloRequest(name), HelloReply)
        except NotFound:
            continue
        found.append(reply.greeting)
    return found


def test_it_greets() -> None:
    async def body() -> None:
        async with testing.running(service) as client:
            reply = await client.call("greeter", "Say.Hello", HelloRequest("John"), HelloReply)
            assert reply == HelloReply("Hello John")

    asyncio.run(body())


def test_a_greeting_is_published_and_mailed() -> None:
    async def body() -> None:
        letters.clear()
        async with testing.running(service) as client:
            await client.call("greeter", "Say.Hello", HelloRequest("Ann"), HelloReply)
            await client.handled()
            assert [one.topic for one in client.published] == ["greetings"]
            assert client.published[0].decode(HelloReply) == HelloReply("Hello Ann")
        assert letters == ["Hello Ann"]

    asyncio.run(body())


def test_an_hour_passes_in_a_moment() -> None:
    async def body() -> None:
        async with testing.clock() as clock, testing.running(service) as client:
            request = HelloRequest("Bob")
            call = client.call("greeter", "Say.Later", request, HelloReply, timeout=None)
            later = asyncio.create_task(call)
            await clock.advance(3601)
            assert (await later).greeting == "Hello Bob, an hour later"

    asyncio.run(body())


def test_what_uses_it_is_tested_alone() -> None:
    async def body() -> None:
        client = testing.RecordingClient()
        client.reply("greeter", "Say.Hello", HelloReply("hi"), NotFound("gone"), {"greeting": "ho"})
        assert await greet_all(client, "a", "b", "c") == ["hi", "ho"]
        assert [call.request.name for call in client.calls] == ["a", "b", "c"]

    asyncio.run(body())
