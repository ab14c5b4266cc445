"""The better of two."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from network import in_movable_loop, move

from micro_core import InternalError, Node, NotFound
from micro_core.selector.p2c import P2CSelector

NODES = tuple(Node(f"n{n}", f"10.0.0.{n}:80") for n in range(5))


def shares(selector: P2CSelector, times: int = 2000) -> Counter[str]:
    return Counter(selector.choose(NODES).id for _ in range(times))


def once(selector: P2CSelector, node: Node, seconds: float, error: Exception | None = None) -> None:
    selector.started(node)
    selector.finished(node, error, seconds)


@in_movable_loop
async def test_one_node_and_two_equal_ones() -> None:
    selector = P2CSelector()
    assert selector.choose(NODES[:1]) is NODES[0]
    for node in NODES:
        once(selector, node, 0.01)
    assert all(count > 0 for count in shares(selector).values())
    assert len(shares(selector)) == 5


@in_movable_loop
async def test_the_busiest_of_all_is_never_drawn_against_another() -> None:
    selector = P2CSelector()
    for node in NODES:
        once(selector, node, 0.01)
    for _ in range(3):
        selector.started(NODES[2])
    assert shares(selector)["n2"] == 0
    for _ in range(3):
        selector.finished(NODES[2], None, 0.01)
    assert shares(selector)["n2"] > 0


@in_movable_loop
async def test_a_slow_answer_counts_at_once_and_is_forgotten() -> None:
    selector = P2CSelector(decay=10.0)
    for node in NODES:
        once(selector, node, 0.01)
    once(selector, NODES[0], 1.0)
    assert shares(selector)["n0"] == 0
    for _ in range(8):
        move(10.0)
        for node in NODES[1:]:
            once(selector, node, 0.01)
    assert shares(selector)["n0"] > 0


@in_movable_loop
async def test_failing_fast_is_not_being_fast_but_an_answered_4xx_is_no_failure() -> None:
    selector = P2CSelector()
    for node in NODES:
        once(selector, node, 0.01)
    once(selector, NODES[0], 0.0001, InternalError())
    once(selector, NODES[1], 0.0001, NotFound())
    drawn = shares(selector)
    assert drawn["n0"] == 0
    assert drawn["n1"] > 0


@in_movable_loop
async def test_an_unknown_node_gets_one_attempt_until_it_is_known() -> None:
    selector = P2CSelector()
    for node in NODES[1:]:
        once(selector, node, 0.01)
    assert shares(selector)["n0"] > 0
    selector.started(NODES[0])
    assert shares(selector)["n0"] == 0
    selector.finished(NODES[0], asyncio.CancelledError(), 0.02)
    assert shares(selector)["n0"] < shares(selector)["n1"]


@in_movable_loop
async def test_nodes_that_are_gone_are_forgotten() -> None:
    selector = P2CSelector()
    held = Node("held", "h:1")
    selector.started(held)
    for number in range(25_000):
        once(selector, Node(f"x{number}", "x:1"), 0.01)
    assert len(selector._loads) <= 10_001
    selector.finished(held, None, 0.01)


def test_a_decay_that_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="decay"):
        P2CSelector(decay=0.0)
