"""Deadlines under one timer cut what asyncio.timeout would cut, and nothing else."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import pytest

from micro_core import DeadlineExceeded
from micro_core.deadlines import Deadlines

LONG = 60.0  # seconds; a test that waits for it hangs, and so fails


def in_a_loop(body: Callable[[Deadlines], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            deadlines = Deadlines()
            async with asyncio.timeout(10.0):
                await body(deadlines)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            assert not deadlines.active

        asyncio.run(main())

    run.__name__ = run.__qualname__ = body.__name__
    return run


def now() -> float:
    return asyncio.get_running_loop().time()


@in_a_loop
async def test_a_deadline_that_passes_cuts(deadlines: Deadlines) -> None:
    when = now() + 0.02
    deadline = deadlines.until(when)
    with pytest.raises(DeadlineExceeded) as caught, deadline:
        await asyncio.sleep(LONG)
    assert deadline.passed
    assert now() >= when
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


@in_a_loop
async def test_a_deadline_in_the_past_cuts_at_the_first_wait(deadlines: Deadlines) -> None:
    reached = False
    with pytest.raises(DeadlineExceeded), deadlines.until(now() - 1.0):
        reached = True
        await asyncio.sleep(LONG)
    assert reached


@in_a_loop
async def test_what_ends_in_time_is_not_cut_then_or_later(deadlines: Deadlines) -> None:
    with deadlines.until(now() + 0.03) as deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.06)
    assert not deadline.passed


@in_a_loop
async def test_no_deadline_is_never_passed_and_sets_no_timer(deadlines: Deadlines) -> None:
    with deadlines.until(None):
        await asyncio.sleep(0.01)
        assert not deadlines.active
    assert deadlines.next_look == math.inf


@in_a_loop
async def test_each_of_many_is_cut_no_sooner_than_it_said(deadlines: Deadlines) -> None:
    """Entered in any order, under a timer that must move both ways."""

    async def one(seconds: float) -> float:
        when = now() + seconds
        with pytest.raises(DeadlineExceeded), deadlines.until(when):
            await asyncio.sleep(LONG)
        return now() - when

    async def in_time() -> float:
        with deadlines.until(now() + LONG):
            await asyncio.sleep(0.25)
        return 0.0

    chance = random.Random(7)
    delays = [chance.random() * 0.2 for _ in range(200)]
    late = await asyncio.gather(*(one(delay) for delay in delays), *(in_time() for _ in range(20)))
    assert min(late) >= 0.0


@in_a_loop
async def test_a_sooner_deadline_is_not_kept_waiting_by_a_later_one(deadlines: Deadlines) -> None:
    ended: list[str] = []

    async def one(name: str, seconds: float) -> None:
        with pytest.raises(DeadlineExceeded), deadlines.until(now() + seconds):
            await asyncio.sleep(LONG)
        ended.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(one("last", 0.3))
        await asyncio.sleep(0)
        group.create_task(one("first", 0.05))
        await asyncio.sleep(0)
        group.create_task(one("middle", 0.15))
    assert ended == ["first", "middle", "last"]


@in_a_loop
async def test_the_outer_of_two_cuts_through_the_inner(deadlines: Deadlines) -> None:
    outer, inner = deadlines.until(now() + 0.02), deadlines.until(now() + LONG)
    with pytest.raises(DeadlineExceeded), outer, inner:
        await asyncio.sleep(LONG)
    assert outer.passed
    assert not inner.passed


@in_a_loop
async def test_the_inner_of_two_leaves_the_outer_alone(deadlines: Deadlines) -> None:
    with deadlines.until(now() + LONG) as outer:
        with pytest.raises(DeadlineExceeded), deadlines.until(now() + 0.02):
            await asyncio.sleep(LONG)
        await asyncio.sleep(0.03)
    assert not outer.passed


@in_a_loop
async def test_two_that_pass_together_are_one_error(deadlines: Deadlines) -> None:
    when = now() + 0.02
    with pytest.raises(DeadlineExceeded), deadlines.until(when), deadlines.until(when):
        await asyncio.sleep(LONG)
    await asyncio.sleep(0)  # no cancellation is left over


@in_a_loop
async def test_a_cancellation_by_somebody_else_stays_one(deadlines: Deadlines) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        with deadlines.until(now() + 0.02) as deadline:
            inside.set()
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                assert deadline.passed
                task.cancel()
                raise

    task = asyncio.create_task(work())
    await inside.wait()
    await asyncio.wait([task])
    assert task.cancelled()


@in_a_loop
async def test_an_error_of_its_own_after_the_cut_travels(deadlines: Deadlines) -> None:
    with pytest.raises(KeyError), deadlines.until(now() + 0.01):
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            raise KeyError("mine") from None


@in_a_loop
async def test_close_leaves_no_timer_and_the_next_loop_has_its_own(deadlines: Deadlines) -> None:
    with deadlines.until(now() + LONG):
        deadlines.close()
        assert deadlines.next_look < math.inf, "somebody is inside"
    deadlines.close()
    assert deadlines.next_look == math.inf

    def elsewhere() -> None:
        async def main() -> None:
            with pytest.raises(DeadlineExceeded), deadlines.until(now() + 0.01):
                await asyncio.sleep(LONG)

        asyncio.run(main())

    await asyncio.to_thread(elsewhere)


def test_outside_a_task_it_says_so() -> None:
    async def main() -> str:
        said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def call_back() -> None:
            with pytest.raises(RuntimeError) as caught, Deadlines().until(now() + 1.0):
                pass
            said.set_result(str(caught.value))

        asyncio.get_running_loop().call_soon(call_back)
        return await said

    assert "task" in asyncio.run(main())
