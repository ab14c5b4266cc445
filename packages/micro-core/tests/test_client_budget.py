"""How many retries there may be."""

from __future__ import annotations

import pytest
from network import in_movable_loop, move

from micro_core.client.budget import RetryBudget


def drain(budget: RetryBudget) -> int:
    taken = 0
    while budget.take():
        taken += 1
    return taken


@in_movable_loop
async def test_the_first_second_is_there_at_once_and_each_second_brings_the_floor() -> None:
    budget = RetryBudget(0.2, 10.0)
    assert drain(budget) == 10
    assert not budget.take()
    move(1.0)
    assert drain(budget) in (9, 10)  # a little of it has faded


@in_movable_loop
async def test_calls_earn_their_share() -> None:
    budget = RetryBudget(0.2, 0.0)
    assert not budget.take()
    budget.calls += 1000
    assert 198 <= drain(budget) <= 200


@in_movable_loop
async def test_what_is_earned_fades() -> None:
    budget = RetryBudget(0.2, 10.0)
    for _ in range(36):
        budget.calls += 100 * 1000  # in 100 s
        move(100.0)
    taken = drain(budget)
    assert taken <= 10 * 10 + 0.2 * 1000 * 10
    move(10_000.0)
    assert drain(budget) <= 100


@pytest.mark.parametrize("step", [0.005, 0.5, 3.0])
def test_never_more_than_was_earned(step: float, record_property: pytest.RecordProperty) -> None:
    @in_movable_loop
    async def body() -> None:
        budget, rate, seconds, taken = RetryBudget(0.2, 10.0), 200, 30, 0
        for _ in range(int(seconds / step)):
            move(step)
            budget.calls += int(rate * step)
            taken += drain(budget)
        calls = rate * seconds
        record_property("retries", taken)
        assert 0.8 * (0.2 * calls + 10 * seconds) < taken <= 0.2 * calls + 10 * (seconds + 1)

    body()
