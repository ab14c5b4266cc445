"""Which nodes are left alone, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from network import in_movable_loop, move

from micro_core import (
    BackendUnavailable,
    BadRequest,
    DeadlineExceeded,
    InternalError,
    Node,
    NotFound,
    NotSupported,
    SocketClosed,
    Unavailable,
)
from micro_core.client.ejection import Ejection
from micro_core.client.options import Limits
from micro_core.selector.base import blames_node

NODES = tuple(Node(f"n{n}", f"10.0.0.{n}:80") for n in range(3))


def ejecting(failures: int, seconds: float, most: float) -> Ejection:
    return Ejection(Limits(1, 0.2, 10.0, failures, seconds, most))


def now() -> float:
    return asyncio.get_running_loop().time()


def fail(ejection: Ejection, node: Node, times: int = 1) -> None:
    for _ in range(times):
        ejection.failed(node, now())


@in_movable_loop
async def test_nothing_ejected_is_the_same_object() -> None:
    ejection = ejecting(5, 30.0, 300.0)
    fail(ejection, NODES[0], 4)
    assert ejection.usable(NODES) is NODES
    ejection.succeeded(NODES[0], now())
    fail(ejection, NODES[0], 4)  # in a row, that is
    assert ejection.usable(NODES) is NODES


@in_movable_loop
async def test_an_ejected_node_is_left_out_of_a_stable_tuple_and_returns() -> None:
    ejection = ejecting(5, 30.0, 300.0)
    fail(ejection, NODES[0], 5)
    left = ejection.usable(NODES)
    assert left == NODES[1:]
    assert ejection.usable(NODES) is left
    assert ejection.usable(NODES[1:2]) == NODES[1:2]
    assert ejection.ejected == ("n0",)
    move(29.0)
    assert ejection.usable(NODES) is left
    move(1.5)
    assert ejection.usable(NODES) is NODES
    assert ejection.ejected == ()


@in_movable_loop
async def test_on_probation_one_failure_ejects_for_longer_up_to_the_most() -> None:
    ejection = ejecting(5, 30.0, 75.0)
    fail(ejection, NODES[0], 5)
    for seconds in (30.0, 60.0, 75.0, 75.0):
        move(seconds - 1.0)
        assert ejection.usable(NODES) == NODES[1:]
        move(2.0)
        assert ejection.usable(NODES) is NODES
        fail(ejection, NODES[0])
        assert ejection.usable(NODES) == NODES[1:]
    move(76.0)
    ejection.succeeded(NODES[0], now())
    fail(ejection, NODES[0], 4)
    assert ejection.usable(NODES) is NODES


@in_movable_loop
async def test_all_ejected_are_all_used_and_a_success_brings_one_back() -> None:
    ejection = ejecting(1, 30.0, 300.0)
    for node in NODES:
        fail(ejection, node)
    assert ejection.usable(NODES) is NODES
    fail(ejection, NODES[1], 10)  # does not prolong what has begun
    ejection.succeeded(NODES[1], now())
    assert ejection.usable(NODES) == (NODES[1],)
    move(31.0)
    assert ejection.usable(NODES) is NODES


@in_movable_loop
async def test_what_began_before_an_ejection_says_nothing_after_it() -> None:
    ejection = ejecting(1, 30.0, 300.0)
    begin = now()
    move(1.0)
    fail(ejection, NODES[0])
    ejection.succeeded(NODES[0], begin)
    assert ejection.usable(NODES) == NODES[1:]
    move(31.0)
    ejection.failed(NODES[0], begin)
    assert ejection.usable(NODES) is NODES


@in_movable_loop
async def test_a_node_of_the_same_id_elsewhere_is_another_and_a_withdrawn_one_is_forgotten() -> (
    None
):
    ejection = ejecting(1, 30.0, 300.0)
    fail(ejection, NODES[0])
    again = (Node("n0", "10.0.9.9:80"), *NODES[1:])
    assert ejection.usable(again) is again
    ejection.forget(NODES[0])
    assert ejection.usable(NODES) is NODES


@in_movable_loop
async def test_zero_failures_is_off() -> None:
    ejection = ejecting(0, 30.0, 300.0)
    fail(ejection, NODES[0], 50)
    assert ejection.usable(NODES) is NODES


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (None, False),
        (BackendUnavailable("refused"), True),
        (SocketClosed("cut"), True),
        (DeadlineExceeded(), True),
        (InternalError("a handler's own"), True),
        (Unavailable("full"), True),
        (NotSupported("everywhere"), False),
        (BadRequest(), False),
        (NotFound(), False),
        (ValueError(), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_what_speaks_against_a_node(error: BaseException | None, blamed: bool) -> None:
    assert blames_node(error) is blamed
