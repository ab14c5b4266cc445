"""Deadlines over hops, calls that run once, and cancelling that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop, until
from network import Network

from micro_core import Client, DeadlineExceeded, current


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")


@dataclass
class Item:
    id: int


# -- T15: deadlines travel -----------------------------------------------------------------------


class Hop:
    """Passes a call on to the next service; the last one sleeps."""

    def __init__(self, remaining: list[float], after: str = "") -> None:
        self.after = after
        self.remaining = remaining
        self.client: Client
        self.cancelled_at: float | None = None

    async def go(self, item: Item) -> Item:
        left = current().remaining()
        assert left is not None
        self.remaining.append(left)
        if self.after:
            return await self.client.call(self.after, "Hop.Go", item, Item, timeout=None)
        try:
            await asyncio.sleep(5.0)
        except asyncio.CancelledError:
            if item.id == 1:
                self.cancelled_at = asyncio.get_running_loop().time()
            raise
        return item


def test_a_deadline_holds_over_three_hops(record_property: pytest.RecordProperty) -> None:
    @in_loop
    async def body() -> None:
        remaining: list[float] = []
        hops = [Hop(remaining, "two"), Hop(remaining, "three"), Hop(remaining)]
        async with Network() as net:
            for name, hop in zip(("one", "two", "three"), hops, strict=True):
                hop.client = (await net.service(name, hop)).client
            client = await net.client()
            for name in ("one", "two"):  # connections, for the figures' sake
                with pytest.raises(DeadlineExceeded):
                    await client.call(name, "Hop.Go", Item(0), Item, timeout=0.1)
            remaining.clear()
            clock = asyncio.get_running_loop().time
            begin = clock()
            with pytest.raises(DeadlineExceeded) as caught:
                await client.call("one", "Hop.Go", Item(1), Item, timeout=1.0)
            ended = clock() - begin
            leaf = hops[-1]
            await until(lambda: leaf.cancelled_at is not None)
            assert leaf.cancelled_at is not None
            cancelled = leaf.cancelled_at - begin
        figures = f"client {ended:.3f} s, leaf cancelled {cancelled:.3f} s, remaining " + ", ".join(
            f"{left:.4f}" for left in remaining
        )
        print(f"T15: deadline 1 s over three hops: {figures}")
        record_property("T15", figures)
        assert caught.value.code == 408
        assert len(remaining) == 3
        assert 1.0 > remaining[0] > remaining[1] > remaining[2] > 0.5
        assert 0.9 < ended < 1.5  # the leaf would have slept 5 s
        assert 0.9 < cancelled < 1.6

    body()


# -- T16: what may have run is not repeated -------------------------------------------------------


class Ledger:
    """Writes every run down before anything else; each tenth is slower than the caller waits."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def book(self, item: Item) -> Item:
        os.write(self._file, f"{item.id}\n".encode())
        if item.id % 10 == 0:
            await asyncio.sleep(30.0)
        return item

    def _close(self) -> None:
        os.close(self._file)


def test_a_call_that_may_have_run_is_run_once(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    calls = 1000

    @in_loop
    async def body() -> None:
        ledgers = [Ledger(tmp_path / f"{n}") for n in range(2)]
        async with Network() as net:
            for ledger in ledgers:
                await net.service("books", ledger)
            client = await net.client()
            gate = asyncio.Semaphore(100)

            async def book(id: int) -> str:
                async with gate:
                    try:
                        await client.call("books", "Ledger.Book", Item(id), Item, timeout=1.5)
                    except DeadlineExceeded:
                        return "late"
                    return "answered"

            outcome = Counter(await asyncio.gather(*map(book, range(calls))))
        for ledger in ledgers:
            ledger._close()
        booked = Counter(line for n in range(2) for line in (tmp_path / f"{n}").read_text().split())
        figures = f"{calls} calls, {booked.total()} executions, {dict(outcome)}"
        print(f"T16: {figures}")
        record_property("T16", figures)
        assert outcome["late"] == calls // 10
        assert booked == Counter(map(str, range(calls)))

    body()


# -- T19: cancelling ------------------------------------------------------------------------------


class Echo:
    async def echo(self, item: Item) -> Item:
        await asyncio.sleep(random.random() * 0.004)
        return item


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def idle_sockets(client: Client) -> int:
    assert client._parts is not None
    rpc: Any = client._parts.client
    return sum(map(len, rpc._pool._idle.values()))


def test_cancelled_calls_leave_nothing_behind(record_property: pytest.RecordProperty) -> None:
    calls, at_once = 5000, 32

    @in_loop
    async def body() -> None:
        before = descriptors()
        async with Network() as net:
            service = await net.service("echo", Echo())
            client = await net.client()

            async def together() -> None:
                async with asyncio.TaskGroup() as group:
                    for id in range(at_once):
                        group.create_task(client.call("echo", "Echo.Echo", Item(id), Item))

            await together()
            await until(lambda: idle_sockets(client) == at_once)
            pool, open_ones = idle_sockets(client), descriptors()
            outcome = await cancel_at_random(client, calls, at_once)
            await until(lambda: service.server.active == 0)
            await together()
            await until(lambda: descriptors() <= open_ones)
            after = idle_sockets(client), descriptors()
        await until(lambda: descriptors() <= before)
        figures = (
            f"{calls} calls, {dict(outcome)}, pool {pool} -> {after[0]}, "
            f"descriptors {open_ones} -> {after[1]}"
        )
        print(f"T19: {figures}")
        record_property("T19", figures)
        assert outcome["wrong"] == outcome["failed"] == 0
        assert outcome["cancelled"] > calls / 10
        assert outcome["right"] > calls / 10
        assert after == (pool, open_ones)

    body()


async def cancel_at_random(client: Client, calls: int, at_once: int) -> Counter[str]:
    outcome: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    ids = iter(range(1, calls + 1))
    span = 0.01  # within which to cancel: finds itself so that about half are

    async def one(id: int) -> None:
        nonlocal span
        task = asyncio.create_task(client.call("echo", "Echo.Echo", Item(id), Item))
        handle = loop.call_later(random.random() * span, task.cancel)
        try:
            outcome["right" if await task == Item(id) else "wrong"] += 1
            span *= 0.98
        except asyncio.CancelledError:
            outcome["cancelled"] += 1
            span *= 1.02
        except Exception:
            outcome["failed"] += 1
        finally:
            handle.cancel()

    async def work() -> None:
        for id in ids:
            await one(id)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return outcome
