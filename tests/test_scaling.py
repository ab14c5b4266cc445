"""What a call costs does not depend on how much there is: ratios within one run."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from places import Place

from micro_core import Client, Node, Service, ServiceInfo
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.memory import MemoryRegistry
from micro_core.settings import Settings

CALLS = 200
ROUNDS = 15
FLAT = 1.5
Call = Callable[[], Awaitable[object]]


async def ratio(floor: Call, subject: Call) -> float:
    """Median over interleaved rounds of what ``subject`` takes beside ``floor``."""
    ratios: list[float] = []
    for call in (floor, subject):
        await measured(call)
    for _ in range(ROUNDS):
        first = await measured(floor)
        ratios.append(await measured(subject) / first)
    return statistics.median(ratios)


async def measured(call: Call) -> float:
    begin = time.process_time()
    for _ in range(CALLS):
        await call()
    return time.process_time() - begin


@asynccontextmanager
async def clients(
    transport: str, selector: str, counts: tuple[int, int], others: int
) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients of one server: their registries know of so many nodes of it, and of others."""
    async with AsyncExitStack() as stack:
        server = Service(
            "s", registry=MemoryRegistry("own"), broker=MemoryBroker("own"), transport=transport
        )

        @server.endpoint("Say.Hello")
        async def hello(request: str) -> str:
            return request

        await server.start(Settings.read(["--drain_delay=0"], {}))
        stack.push_async_callback(server.stop)
        info = server.running.info
        made: list[Client] = []
        for index, count in enumerate(counts):
            registry = MemoryRegistry(f"scale-{index}")
            await stack.enter_async_context(registry)
            node = info.nodes[0]
            nodes = [Node(f"s-{n}", node.address, node.metadata) for n in range(count)]
            await registry.register(ServiceInfo("s", info.version, nodes, info.endpoints), ttl=300)
            for number in range(others * index):
                other = ServiceInfo(f"other-{number}", "1", [Node(f"o-{number}", "127.0.0.1:1")])
                await registry.register(other, ttl=300)
            client = Client(registry=registry, transport=transport, selector=selector)
            made.append(await stack.enter_async_context(client))
        yield made[0], made[1]


@pytest.mark.parametrize("transport", ["memory", "http"])
@pytest.mark.parametrize("selector", ["random", "roundrobin"])
def test_a_call_costs_the_same_among_a_thousand_nodes(
    transport: str, selector: str, record_property: pytest.RecordProperty
) -> None:
    async def main() -> float:
        async with clients(transport, selector, (1, 1000), 0) as (one, thousand):
            return await ratio(
                lambda: one.call("s", "Say.Hello", "hi"),
                lambda: thousand.call("s", "Say.Hello", "hi"),
            )

    times = asyncio.run(main())
    print(f"{transport}, {selector}: a call among 1,000 nodes takes {times:.2f} of one at 1 node")
    record_property("of a call at one node", times)
    assert times < FLAT


def test_a_call_costs_the_same_among_ten_thousand_services(
    record_property: pytest.RecordProperty,
) -> None:
    async def main() -> float:
        async with clients("memory", "random", (1, 1), 10_000) as (alone, among):
            return await ratio(
                lambda: alone.call("s", "Say.Hello", "hi"),
                lambda: among.call("s", "Say.Hello", "hi"),
            )

    times = asyncio.run(main())
    print(f"a call among 10,000 services takes {times:.2f} of one among none")
    record_property("of a call among no others", times)
    assert times < FLAT


CLIENT = """
import asyncio
from micro_core import Client

async def caller(client):
    for number in range(1000):
        reply = await client.call("chooser", "Say.Hello", {"name": str(number)})
        assert reply == {"greeting": f"Hello {number}"}

async def main():
    async with Client() as client:
        for number in range(41):
            await asyncio.gather(*[caller(client) for _ in range(25)])
            print("calls", (number + 1) * 25_000, flush=True)
            await asyncio.sleep(0)
        await asyncio.sleep(60)  # measured, then killed

asyncio.run(main())
"""


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_memory_is_flat_over_a_million_calls(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """In client and server, from the call 25,000 to the call 1,025,000."""
    place = Place(tmp_path)
    place.write("client.py", CLIENT)
    with place.start_service() as server:
        server.line("started")
        with place.start("client.py") as client:
            client.line("calls 25000")
            before = resident(server.pid), resident(client.pid)
            client.line("calls 1025000", 800)
            after = resident(server.pid), resident(client.pid)
    grown = [round((b - a) / 1e6, 1) for a, b in zip(before, after, strict=True)]
    print(f"1,000,000 calls: server and client grew by {grown} MB")
    record_property("megabytes", grown)
    assert max(grown) < 10
