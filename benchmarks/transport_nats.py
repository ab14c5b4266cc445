"""The NATS transport beside nats-py's own request: one server process each, one caller process.

    MICRO_TEST_NATS=host:port python benchmarks/transport_nats.py [--in-flight 32] [--seconds 1]

A request and its answer by nats-py, the same by two sockets of the transport, and a whole typed
call over it. Prints the median rates of interleaved rounds, and what they are of the first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import nats
from nats.aio.msg import Msg
from rates import Operation, rate
from rounds import interleave

from micro_core import Client, Message, Service
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node, ServiceInfo
from micro_core.transport.base import Socket
from micro_transport_nats import NatsTransport

ADDRESS = os.environ.get("MICRO_TEST_NATS", "127.0.0.1:4222")
BODY = b'{"name":"John"}\n'
HEADER = {"Content-Type": "application/json", "Micro-Id": "1", "Micro-Endpoint": "Say.Hello"}
Serve = Callable[[], AsyncIterator[str]]


async def bare() -> AsyncIterator[str]:
    client = await nats.connect(ADDRESS)

    async def answer(message: Msg) -> None:
        await message.respond(message.data)

    subject = client.new_inbox()
    await client.subscribe(subject, cb=answer)
    await client.flush()
    yield subject
    await client.close()


async def sockets() -> AsyncIterator[str]:
    async def echo(socket: Socket) -> None:
        while True:
            await socket.send(await socket.recv())

    async with NatsTransport(ADDRESS) as transport:
        yield (await transport.listen("", echo)).address


async def calls() -> AsyncIterator[str]:
    service = Service("bench", transport=NatsTransport(ADDRESS), registry=MemoryRegistry())

    class Say:
        async def hello(self, request: dict[str, str]) -> dict[str, str]:
            return {"greeting": "Hello " + request["name"]}

    service.handle(Say())
    async with service:
        assert service.node is not None
        yield service.node.address


SERVERS: dict[str, Serve] = {"nats-py request": bare, "transport": sockets, "call": calls}


async def serve(name: str) -> None:
    """Print the address, and end with the standard input."""
    servers = SERVERS[name]()
    print(await anext(servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    async for _ in servers:
        pass


@asynccontextmanager
async def server(name: str) -> AsyncIterator[str]:
    command = (sys.executable, __file__, "--serve", name)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    yield (await process.stdout.readline()).decode().strip()
    process.stdin.close()
    await process.wait()


async def by_nats(subject: str, number: int, seconds: float) -> float:
    client = await nats.connect(ADDRESS)
    try:
        return await rate([lambda: client.request(subject, BODY, timeout=5)] * number, seconds)
    finally:
        await client.close()


async def by_transport(address: str, number: int, seconds: float) -> float:
    async with NatsTransport(ADDRESS) as transport:
        return await rate([asking(await transport.dial(address)) for _ in range(number)], seconds)


def asking(socket: Socket) -> Operation:
    async def ask() -> None:
        await socket.send(Message(dict(HEADER), BODY))
        await socket.recv()

    return ask


async def by_call(address: str, number: int, seconds: float) -> float:
    metadata = {"protocol": "mucp", "transport": "nats"}
    info = ServiceInfo("bench", "latest", [Node("bench-1", address, metadata)])
    async with MemoryRegistry() as registry:
        await registry.register(info, ttl=600)
        async with Client(registry=registry, transport=NatsTransport(ADDRESS)) as client:

            def call() -> Awaitable[object]:
                return client.call("bench", "Say.Hello", {"name": "John"})

            return await rate([call] * number, seconds)


async def measure(chosen: list[str], in_flight: int, seconds: float, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        at = {name: await stack.enter_async_context(server(name)) for name in chosen}
        callers = {"nats-py request": by_nats, "transport": by_transport, "call": by_call}
        subjects = {name: partial(callers[name], address) for name, address in at.items()}
        series = await interleave(subjects, [in_flight], rounds, seconds)
    floor = series[chosen[0], in_flight]
    for (name, _), each in series.items():
        print(
            f"{name:16} {each.median:8,.0f}/s  {each.over(floor):.2f}  (spread {each.spread:.0%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subjects", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--serve", choices=SERVERS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    else:
        asyncio.run(measure(options.subjects, options.in_flight, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
