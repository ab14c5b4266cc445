"""What is chosen, and what choosing costs."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

from micro_core import Node, Selector

from ..promise import promise
from ..suite import Suite
from .lab import TOOK, Nodes, SelectorLab, chosen, is_one_of, missing

MEMORY = 200  # bytes that may stay of each set of two nodes that is gone


class Choosing(Suite[Selector]):
    @promise()
    async def test_it_chooses_one_of_the_given_nodes(self, lab: SelectorLab) -> None:
        """What is chosen is always one of the given nodes, whatever their number."""
        selector = lab.make()
        for count in range(1, 30):
            nodes = lab.nodes(count)
            for _ in range(3 * count):
                assert is_one_of(selector.choose(nodes), nodes)

    @promise()
    async def test_one_node_is_always_chosen(self, lab: SelectorLab) -> None:
        """The only node of a set is chosen every time, also after it failed."""
        selector, nodes = lab.make(), lab.nodes(1)
        for _ in range(100):
            assert selector.choose(nodes) is nodes[0]
            selector.started(nodes[0])
            selector.finished(nodes[0], ConnectionError("refused"), 0.5)

    @promise()
    async def test_a_new_set_is_used_at_once(self, lab: SelectorLab) -> None:
        """A node that has left the set is not chosen again, and one that has joined it is."""
        selector = lab.make()
        before, after = lab.nodes(4), lab.nodes(4, first=2)
        chosen(selector, before, 100)
        found = chosen(selector, after, 400)
        assert set(found) <= {node.id for node in after}
        assert not missing(after, found)

    @promise()
    async def test_a_node_that_comes_back_is_used(self, lab: SelectorLab) -> None:
        """A node that left the set and came back gets calls again."""
        selector, nodes = lab.make(), lab.nodes(4)
        chosen(selector, nodes, 100)
        chosen(selector, nodes[1:], 100)
        back = tuple(nodes)
        assert not missing(back, chosen(selector, back, 400))

    @promise()
    async def test_a_node_that_moved_is_called_where_it_is(self, lab: SelectorLab) -> None:
        """After a node has come back at another address, what is chosen has the new one."""
        selector = lab.make()
        chosen(selector, lab.nodes(3), 100)
        moved = tuple(lab.node(number, "10.0.0.2") for number in range(3))
        for _ in range(100):
            assert selector.choose(moved).address.startswith("10.0.0.2:")

    @promise()
    async def test_nothing_is_awaited(self, lab: SelectorLab) -> None:
        """Choosing and accounting are done when they return: no task, nothing to await."""
        selector, nodes = lab.make(), lab.nodes(3)
        tasks = asyncio.all_tasks()
        node = selector.choose(nodes)
        assert isinstance(node, Node), f"choose() gave {type(node).__name__}"
        calls: list[Callable[[], object]] = [
            partial(selector.started, node),
            partial(selector.finished, node, None, 0.01),
        ]
        told = [call() for call in calls]
        assert told == [None, None], f"started() and finished() gave {told}"
        assert asyncio.all_tasks() == tasks

    @promise()
    async def test_the_programs_random_numbers_are_its_own(self, lab: SelectorLab) -> None:
        """A program that has seeded ``random`` gets the same numbers whatever is chosen."""
        state = random.getstate()
        try:
            random.seed(1)
            before = random.getstate()
            selector = lab.make()
            for count in (1, 2, 5):
                chosen(selector, lab.nodes(count), 20)
            assert random.getstate() == before, "choosing has used the program's own random numbers"
        finally:
            random.setstate(state)

    @promise()
    async def test_choosing_costs_the_same_among_many(self, lab: SelectorLab) -> None:
        """One choice among a thousand nodes takes less than ten times one among ten."""
        few, many = lab.nodes(10), lab.nodes(1000)
        selector = lab.make()
        ratio = _cost(selector, many) / _cost(selector, few)
        lab.figure("cost of a choice among 1000 nodes, in choices among 10", round(ratio, 1))
        assert ratio < 10, f"{ratio:.1f} times"

    @promise()
    async def test_memory_is_bounded(self, lab: SelectorLab) -> None:
        """What is kept of nodes that are gone does not grow with their number."""
        selector = lab.make()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(0, 24_000, 2):
                node = selector.choose(lab.nodes(2, first=number))
                selector.started(node)
                selector.finished(node, None, TOOK)
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        lab.figure("bytes kept after 12,000 sets that are gone", kept)
        assert kept < 12_000 * MEMORY, f"{kept} bytes are kept of 12,000 sets that are gone"


def _cost(selector: Selector, nodes: Nodes) -> float:
    """Seconds of a choice when nothing disturbs."""
    choose = selector.choose
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(100):
            choose(nodes)
        best = min(best, time.perf_counter() - begin)
    return best / 100
