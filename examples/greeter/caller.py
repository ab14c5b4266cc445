"""Calls the greeter by name, once and as a stream, and publishes what it was told."""

from __future__ import annotations

import asyncio

from messages import CountReply, CountRequest, HelloReply, HelloRequest

from micro_core import Client


async def main() -> None:
    async with Client("caller") as client:
        reply = await client.call(
            "greeter", "Say.Hello", HelloRequest("John"), HelloReply, wait=True, timeout=10.0
        )
        print(f"caller   called Say.Hello: {reply.greeting}", flush=True)
        count = client.stream("greeter", "Say.Count", CountRequest(3), response=CountReply)
        async with count as numbers:
            told = [reply.number async for reply in numbers]
        print(f"caller   streamed Say.Count: {told}", flush=True)
        await client.publish("greetings", reply)
        print("caller   published the greeting on topic 'greetings'", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
