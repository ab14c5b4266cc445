"""What a selector is told of attempts."""

from __future__ import annotations

import asyncio
import random

from micro_core import (
    BackendUnavailable,
    BadRequest,
    DeadlineExceeded,
    MicroError,
    Node,
    NoNodes,
    Selector,
    SocketClosed,
)

from ..promise import promise
from ..suite import Suite
from .lab import TOOK, SelectorLab, chosen, is_one_of, missing

ERRORS: tuple[BaseException | None, ...] = (
    None,
    MicroError("strange", code=0),
    MicroError("not implemented", code=501),
    BadRequest("no"),
    NoNodes("none"),
    SocketClosed("gone"),
    BackendUnavailable("refused"),
    DeadlineExceeded("late"),
    TimeoutError(),
    OSError(111, "refused"),
    ValueError(),
    asyncio.CancelledError(),
    KeyboardInterrupt(),
    ExceptionGroup("several", [ValueError()]),
)


class Attempts(Suite[Selector]):
    @promise()
    async def test_every_error_is_taken(self, lab: SelectorLab) -> None:
        """Whatever an attempt ended with, and after however long, the next choice is made."""
        selector, nodes = lab.make(), lab.nodes(3)
        for error in ERRORS:
            for seconds in (0.0, 1e-9, TOOK, 1e6):
                node = selector.choose(nodes)
                selector.started(node)
                selector.finished(node, error, seconds)
                assert is_one_of(selector.choose(nodes), nodes)

    @promise()
    async def test_attempts_may_end_in_any_order(self, lab: SelectorLab) -> None:
        """Attempts that begin and end in any order, also on nodes that have left, are taken."""
        selector = lab.make()
        dice = random.Random(5)
        flying: list[Node] = []
        nodes = lab.nodes(5)
        for number in range(2000):
            if number % 100 == 0:
                nodes = lab.nodes(5, first=number // 100)
            if dice.random() < 0.5 or not flying:
                flying.append(selector.choose(nodes))
                selector.started(flying[-1])
            else:
                selector.finished(flying.pop(dice.randrange(len(flying))), None, TOOK)
        for node in flying:
            selector.finished(node, None, TOOK)
        assert not missing(nodes, chosen(selector, nodes, 500))

    @promise()
    async def test_an_end_without_a_beginning_is_harmless(self, lab: SelectorLab) -> None:
        """Hearing of the end of an attempt that it never heard begin does no harm."""
        selector, nodes = lab.make(), lab.nodes(3)
        for node in (*nodes, lab.node(99)):
            for error in (None, SocketClosed("gone"), asyncio.CancelledError()):
                selector.finished(node, error, TOOK)
        assert not missing(nodes, chosen(selector, nodes, 300))

    @promise()
    async def test_attempts_that_ended_are_forgotten(self, lab: SelectorLab) -> None:
        """A node whose two hundred attempts were given up or refused by it gets calls again."""
        selector, nodes = lab.make(), lab.nodes(3)
        chosen(selector, nodes, 30)
        for number in range(200):
            selector.started(nodes[0])
            error = (asyncio.CancelledError(), BadRequest("no"))[number % 2]
            selector.finished(nodes[0], error, TOOK)
        assert not missing(nodes, chosen(selector, nodes, 300))

    @promise()
    async def test_when_all_fail_all_are_tried(self, lab: SelectorLab) -> None:
        """While every node fails, every node still gets its turn."""
        selector, nodes = lab.make(), lab.nodes(4)
        found: set[str] = set()
        for number in range(400):
            node = selector.choose(nodes)
            selector.started(node)
            selector.finished(node, BackendUnavailable("refused"), TOOK)
            if number >= 100:
                found.add(node.id)
        assert found == {node.id for node in nodes}

    @promise(timeout=900)
    async def test_a_node_that_failed_is_tried_again(self, lab: SelectorLab) -> None:
        """A node that failed twenty times is chosen within ten minutes of one call a second."""
        selector, nodes = lab.make(), lab.nodes(3)
        chosen(selector, nodes, 30)
        for _ in range(20):
            selector.started(nodes[0])
            selector.finished(nodes[0], BackendUnavailable("refused"), TOOK)
        for _ in range(600):
            if chosen(selector, nodes, 1)[nodes[0].id]:
                return
            await asyncio.sleep(1)
        raise AssertionError(f"{nodes[0].id} was not chosen once in ten minutes")
