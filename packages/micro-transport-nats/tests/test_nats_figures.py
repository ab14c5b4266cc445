"""What the reliability scoreboard asks of transports, measured over a real server and printed."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop, until
from nodes import NodeProcess, Nodes
from scripts import environment, finish

from micro_core import Client, MicroError, Service
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry
from micro_transport_nats import NatsTransport

ROOT = Path(__file__).parents[3]
Record = Callable[[str, float, float], None]


@pytest.fixture
def nats(server_address: Any) -> str:
    return str(server_address("nats"))


# -- T13 ---------------------------------------------------------------------------------------


class Place:
    """A service with a local registry, its nodes, and clients that know those there are."""

    def __init__(self, nats: str, directory: Path, stack: AsyncExitStack) -> None:
        directory.mkdir(mode=0o700)
        self.name = f"worker-{secrets.token_hex(4)}"
        self._nats, self._directory, self._stack = nats, str(directory), stack

    async def __aenter__(self) -> Place:
        flags = ["--registry=local", f"--registry_address={self._directory}"]
        flags += [f"--server_name={self.name}"]
        flags += ["--transport=nats", f"--transport_address={self._nats}"]
        self.nodes = await self._stack.enter_async_context(Nodes(flags, {}))
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def caller(self, *known: NodeProcess) -> Client:
        registry, transport = LocalRegistry(self._directory), NatsTransport(self._nats)
        client = Client(registry=registry, transport=transport)
        await self._stack.enter_async_context(client)
        replies = [await self.answered(client) for _ in range(20)]
        assert set(replies) == {node.pid for node in known}
        return client

    async def answered(self, client: Client, timeout: float = 5.0) -> int:
        """By which process."""
        reply = await client.call(self.name, "Worker.Work", {"number": 1}, timeout=timeout)
        return int(reply["pid"])

    async def pending(self, client: Client, node: NodeProcess, number: int) -> list[float]:
        """When twenty calls under way failed, in seconds from the signal."""
        request = {"number": 0, "seconds": 1000.0}
        calls = [client.call(self.name, "Worker.Work", request, timeout=2.0) for _ in range(20)]
        tasks, ended = [asyncio.create_task(call) for call in calls], list[float]()
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in tasks)
        begin = time.monotonic()
        for task in tasks:
            task.add_done_callback(lambda _: ended.append(time.monotonic() - begin))
        os.kill(node.pid, number)
        async with asyncio.timeout(10):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, MicroError) for result in results), results
        return ended


def test_a_dead_node(nats: str, tmp_path: Path, record: Record) -> None:
    """T13: pending calls of a killed node end at once, the next go elsewhere."""

    @in_loop
    async def body() -> None:
        async with AsyncExitStack() as stack, Place(nats, tmp_path / "r", stack) as place:
            dead, alive = [await place.nodes.start() for _ in range(2)]
            first, second = [await place.caller(dead, alive) for _ in range(2)]
            ended = await place.pending(first, dead, signal.SIGKILL)
            lost = [seconds for seconds in ended if seconds < 1.5]  # the others were of alive
            assert 0 < len(lost) < 20, ended
            record("T13 calls of a killed node fail after, s", max(lost), 0.5)
            for _ in range(20):
                assert await place.answered(second) == alive.pid

    body()


def test_a_frozen_node(nats: str, tmp_path: Path, record: Record) -> None:
    """T13: pending calls of a frozen node end at their deadline; soon it is called no more."""

    @in_loop
    async def body() -> None:
        async with AsyncExitStack() as stack, Place(nats, tmp_path / "r", stack) as place:
            frozen, alive = [await place.nodes.start() for _ in range(2)]
            first, second = [await place.caller(frozen, alive) for _ in range(2)]
            ended = await place.pending(first, frozen, signal.SIGSTOP)
            late = max(abs(seconds - 1.7) for seconds in ended)
            record("T13 calls of a frozen node miss their deadline by, s", late, 0.1)
            failed = 0
            for _ in range(40):
                try:
                    assert await place.answered(second, 0.3) == alive.pid
                except MicroError:
                    failed += 1
            record("T13 calls until a frozen node is left alone", failed, 5)
            os.kill(frozen.pid, signal.SIGCONT)

    body()


# -- T19 ---------------------------------------------------------------------------------------


class Echo:
    async def echo(self, request: int) -> int:
        await asyncio.sleep(0.01 + random.random() / 50)
        return request


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_cancelled_calls_mix_up_nothing(nats: str, record: Record) -> None:
    """T19: 5,000 calls, half of them cancelled at random times."""
    dice = random.Random(19)

    @in_loop
    async def body() -> None:
        registry = MemoryRegistry(secrets.token_hex(4))
        server, caller = NatsTransport(nats), NatsTransport(nats)
        service = Service("echoing", registry=registry, transport=server)
        service.handle(Echo())
        wrong: list[tuple[int, Any]] = []
        cancelled = 0

        async def one(client: Client, number: int) -> None:
            calling = asyncio.create_task(client.call("echoing", "Echo.Echo", number))
            if number % 2:
                await asyncio.wait([calling], timeout=dice.random() / 50)
                calling.cancel()
            await asyncio.wait([calling])
            nonlocal cancelled
            cancelled += calling.cancelled()
            if not calling.cancelled() and calling.result() != number:
                wrong.append((number, calling.result()))

        async with service, Client(registry=registry, transport=caller) as client:
            await client.call("echoing", "Echo.Echo", 0)
            open_before = descriptors()
            for begin in range(0, 5000, 50):
                await asyncio.gather(*(one(client, begin + n) for n in range(50)))
            assert wrong == []
            print(f"\n{cancelled} of 5000 calls were cancelled under way", end="")
            assert cancelled > 1500
            record("T19 answers that went to another call", len(wrong), 0)
            record("T19 more descriptors than before", descriptors() - open_before, 0)
            await until(lambda: sum(len(x.sockets) for x in server.listeners) <= 50)
            record("T19 sockets left of at most 50 calls at a time", len(caller._sockets), 50)

    body()


# -- rates -------------------------------------------------------------------------------------


def test_a_socket_is_not_much_slower_than_a_bare_request(nats: str, record: Record) -> None:
    """The benchmark, shortened: interleaved rounds in one run, of which the ratio counts."""
    script = str(ROOT / "benchmarks" / "transport_nats.py")
    command = [sys.executable, script, "--seconds", "0.2", "--rounds", "15"]
    command += ["--subjects", "nats-py request", "transport"]
    folder = Path(script).parent
    variables = environment(folder, MICRO_TEST_NATS=nats)
    out = finish(command, variables, folder, patience=60).ended_well().out
    print(f"\n{out}", end="")
    found = re.search(r"^transport +[\d,]+/s +([\d.]+)", out, re.MULTILINE)
    assert found is not None, out
    record("nats-py's own request over this, of 1/0.6", 1 / float(found[1]), 1 / 0.6)
