"""The buffer between publishers and subscribers of one loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial, wraps

import pytest

from micro_core.broker.buffer import Buffer


def in_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(body)
    def test(**fixtures: object) -> None:
        async def main() -> None:
            async with asyncio.timeout(20):
                await body(**fixtures)

        asyncio.run(main())

    return test


@in_loop
async def test_in_order_and_to_whoever_has_waited_longest() -> None:
    buffer: Buffer[int] = Buffer()
    got: list[tuple[str, int]] = []

    async def take(name: str) -> None:
        while (number := await take_or_end(buffer)) is not None:
            got.append((name, number))

    async with asyncio.TaskGroup() as group:
        group.create_task(take("a"))
        group.create_task(take("b"))
        for number in range(6):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert buffer.offer(number)
        buffer.close()
    assert got == [("ab"[number % 2], number) for number in range(6)]


@in_loop
async def test_given_back_comes_first() -> None:
    buffer: Buffer[int] = Buffer(2)
    buffer.offer(3)
    buffer.give_back([1, 2])
    assert [await buffer.get() for _ in range(3)] == [1, 2, 3]
    waiting = [asyncio.create_task(buffer.get()) for _ in range(2)]
    await asyncio.sleep(0)
    buffer.give_back([4, 5])
    assert sorted([await waiting[0], await waiting[1]]) == [4, 5]


@in_loop
async def test_room_is_waited_for_and_a_closed_one_has_it() -> None:
    buffer: Buffer[int] = Buffer(1)
    await buffer.room()
    buffer.offer(1)
    assert buffer.full
    waiting = asyncio.create_task(buffer.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert await buffer.get() == 1
    await waiting
    buffer.offer(2)
    waiting = asyncio.create_task(buffer.room())
    await asyncio.sleep(0)
    buffer.close()
    await waiting


@in_loop
async def test_closed_it_takes_nothing_but_gives_what_it_has() -> None:
    buffer: Buffer[int] = Buffer()
    buffer.offer(1)
    buffer.close()
    assert not buffer.offer(2)
    assert await buffer.get() == 1
    with pytest.raises(StopAsyncIteration):
        await buffer.get()
    empty: Buffer[int] = Buffer()
    waiting = [asyncio.create_task(take_or_end(empty)) for _ in range(3)]
    await asyncio.sleep(0)
    empty.close()
    assert await asyncio.gather(*waiting) == [None, None, None]


async def take_or_end(buffer: Buffer[int]) -> int | None:
    try:
        return await buffer.get()
    except StopAsyncIteration:
        return None


@in_loop
async def test_clear_empties_it() -> None:
    buffer: Buffer[int] = Buffer(2)
    buffer.offer(1)
    buffer.offer(2)
    waiting = asyncio.create_task(buffer.room())
    await asyncio.sleep(0)
    assert buffer.clear() == [1, 2]
    await waiting
    assert len(buffer) == 0


@in_loop
async def test_whoever_is_cancelled_when_woken_passes_its_turn_on() -> None:
    buffer: Buffer[int] = Buffer()
    first, second = (asyncio.create_task(take_or_end(buffer)) for _ in range(2))
    await asyncio.sleep(0)
    buffer.offer(1)
    first.cancel()
    assert await second == 1
    assert first.cancelled()


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_cancelling_whoever_waits_loses_nothing(seed: int) -> None:
    rng = random.Random(seed)
    buffer: Buffer[int] = Buffer()
    got: list[int] = []

    async def take() -> None:
        got.append(await buffer.get())

    takers = [asyncio.create_task(take())]
    for number in range(500):
        takers += [asyncio.create_task(take()) for _ in range(rng.randrange(4))]
        if rng.random() < 0.5:
            await asyncio.sleep(0)
        steps: list[Callable[[], bool]] = [partial(buffer.offer, number), rng.choice(takers).cancel]
        for step in rng.sample(steps, 2):  # in the same turn of the loop
            step()
    while len(buffer):
        takers.append(asyncio.create_task(take()))
        await asyncio.sleep(0)
    for taker in takers:
        taker.cancel()
    await asyncio.wait(takers)
    assert sorted(got) == list(range(500))
