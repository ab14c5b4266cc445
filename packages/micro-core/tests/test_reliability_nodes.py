"""Nodes that fail or are slow, and retries that must not become a storm."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from in_loops import in_loop
from network import Network, in_movable_loop, move

from micro_core import InternalError, MicroError, Node, ServiceInfo, Unavailable, endpoint
from micro_core.wrapper.base import Next, WrappedRequest

SELECTORS = ("random", "roundrobin", "p2c")


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")
    caplog.set_level(logging.CRITICAL, "micro.server")  # the handlers fail on purpose


@dataclass
class Item:
    id: int


class Worker:
    def __init__(self, number: int, seconds: float = 0.0) -> None:
        self.number = number
        self.seconds = seconds
        self.bad = False
        self.runs = 0

    async def work(self, item: Item) -> Item:
        self.runs += 1
        if self.bad:
            raise RuntimeError("broken")
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return Item(self.number)


# -- T17: no retry storm --------------------------------------------------------------------------


class Failing:
    @endpoint(idempotent=True)
    async def work(self, item: Item) -> Item:
        raise Unavailable("down")


@dataclass
class Storm:
    """Counts what a client whose every call fails makes of them."""

    calls: int = 0
    attempts: int = 0

    async def count(self, request: WrappedRequest, call_next: Next) -> Any:
        self.attempts += 1
        return await call_next(request)

    def check(self, seconds: float, case: str, record: pytest.RecordProperty) -> None:
        ratio, most = self.attempts / self.calls, 1.2 + 10 * (seconds + 1) / self.calls
        figures = (
            f"{self.calls} calls in {seconds:g} s, attempts/calls {ratio:.3f} (most {most:.3f})"
        )
        print(f"T17: {case}: {figures}")
        record("T17", figures)
        assert self.calls * 1.1 < self.attempts
        assert ratio <= most


async def backend(net: Network, case: str) -> None:
    if case == "failing":
        for _ in range(2):
            await net.service("down", Failing())
    else:
        metadata = {"protocol": "mucp", "transport": "http"}
        nodes = [Node(f"down-{n}", f"127.0.0.1:{n}", metadata) for n in (1, 2)]
        await net.registry.register(ServiceInfo("down", "latest", nodes), ttl=1_000_000.0)


@pytest.mark.parametrize("case", ["failing", "unreachable"])
def test_retries_are_within_the_budget(case: str, record_property: pytest.RecordProperty) -> None:
    """30 s at 200 calls a second, on a clock that does not wait."""
    rate, seconds = 200, 30
    storm = Storm()

    @in_movable_loop
    async def body() -> None:
        async with Network() as net:
            await backend(net, case)
            client = await net.client(attempt_wrappers=[storm.count])
            begin = asyncio.get_running_loop().time()
            while (left := begin + seconds - asyncio.get_running_loop().time()) > 0:
                storm.calls += 1
                with pytest.raises(MicroError):
                    await client.call("down", "Failing.Work", Item(1))
                due = begin + storm.calls / rate
                move(min(left, max(0.0, due - asyncio.get_running_loop().time())))

    body()
    storm.check(seconds, case, record_property)


@pytest.mark.full
@pytest.mark.parametrize("case", ["failing", "unreachable"])
def test_retries_are_within_the_budget_in_real_time(
    case: str, record_property: pytest.RecordProperty
) -> None:
    rate, seconds = 200, 30
    storm = Storm()

    async def body() -> None:
        async with Network() as net, asyncio.TaskGroup() as group:
            await backend(net, case)
            client = await net.client(attempt_wrappers=[storm.count])

            async def call() -> None:
                storm.calls += 1
                with pytest.raises(MicroError):
                    await client.call("down", "Failing.Work", Item(1))

            begin = asyncio.get_running_loop().time()
            for number in range(rate * seconds):
                due = begin + number / rate
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                group.create_task(call())

    asyncio.run(body())
    storm.check(seconds, case, record_property)


# -- T18: one bad node ----------------------------------------------------------------------------


@pytest.mark.parametrize("selector", SELECTORS)
def test_an_erroring_node_is_ejected_and_comes_back(  # noqa: C901
    selector: str, record_property: pytest.RecordProperty
) -> None:
    @in_movable_loop
    async def body() -> None:
        workers = [Worker(number) for number in range(5)]
        async with Network() as net:
            for worker in workers:
                await net.service("s", worker)
            client = await net.client(selector=selector)

            async def errors(calls: int) -> int:
                failed = 0
                for id in range(calls):
                    try:
                        await client.call("s", "Worker.Work", Item(id), Item)
                    except InternalError:
                        failed += 1
                return failed

            workers[0].bad = True
            until_ejected = 0
            while not client.health().ejected and until_ejected <= 5:
                until_ejected += await errors(1)
                move(2.0)  # p2c avoids the node before it is ejected; then it is tried again
            after = await errors(500)
            move(31.0)  # back, and still bad
            again = 0
            while not client.health().ejected and again <= 1:
                again += await errors(1)
                move(2.0)
            workers[0].bad = False
            move(61.0)
            runs = workers[0].runs
            healed = 0
            for _ in range(20):
                healed += await errors(10)
                move(2.0)  # what p2c thinks of one slow call fades
            share = (workers[0].runs - runs) / 200
        figures = (
            f"{selector}: ejected after {until_ejected} failures, {after} of 500 failed after it, "
            f"on probation after {again}, share once back {share:.2f}"
        )
        print(f"T18: {figures}")
        record_property("T18", figures)
        assert 1 <= until_ejected <= 5
        assert after <= 500 * 0.02
        assert again == 1
        assert healed == 0
        assert share > 0  # p2c also goes by how quick each node happens to be

    body()


@pytest.mark.parametrize("selector", SELECTORS)
@in_movable_loop
async def test_all_nodes_bad_is_no_empty_set(selector: str) -> None:
    workers = [Worker(number) for number in range(5)]
    async with Network() as net:
        for worker in workers:
            await net.service("s", worker)
            worker.bad = True
        client = await net.client(selector=selector)
        for id in range(200):
            with pytest.raises(InternalError):  # the handler's, not "no nodes"
                await client.call("s", "Worker.Work", Item(id), Item)
            move(0.1)
        for worker in workers:
            worker.bad = False
        for id in range(200):
            await client.call("s", "Worker.Work", Item(id), Item)


async def share_of_slow(selector: str, calls: int, at_once: int) -> float:
    async with Network() as net:
        for number in range(5):
            await net.service("s", Worker(number, 0.05 if number == 0 else 0.005))
        client = await net.client(selector=selector)
        ids = iter(range(calls))
        answered: Counter[int] = Counter()

        async def work() -> None:
            for id in ids:
                reply = await client.call("s", "Worker.Work", Item(id), Item)
                answered[reply.id] += 1

        await asyncio.gather(*(work() for _ in range(at_once)))
        return answered[0] / calls


def test_a_slow_node_gets_little_of_p2c(record_property: pytest.RecordProperty) -> None:
    calls, at_once = 1500, 16
    shares: dict[str, float] = {}

    @in_loop
    async def body() -> None:
        for selector in SELECTORS:
            shares[selector] = await share_of_slow(selector, calls, at_once)

    body()
    figures = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    print(f"T18: share of a node that is ten times slower: {figures}")
    record_property("T18", figures)
    assert shares["p2c"] <= 0.08
    assert shares["random"] > 0.12
