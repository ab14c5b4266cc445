"""The better of two that are drawn at random."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import ClassVar

from ..registry.records import Node
from .base import Selector, blames_node

_NODES = 10_000
_BLAME = 1.0  # seconds that a failure counts as, however quick


class _Load:
    """``cost`` is a latency in seconds as of ``seen``; it fades, so that a node is tried again."""

    __slots__ = ("cost", "in_flight", "seen")

    def __init__(self) -> None:
        self.in_flight = 0
        self.cost = 0.0
        self.seen = 0.0


class P2CSelector(Selector):
    """Power of two choices: fewer in flight times lower latency wins.

    Latency is a peak EWMA: a slow answer counts at once and whole, quick ones gradually. Less
    than twofold it is no difference. A node that is not known yet gets one attempt at a time.

    decay: seconds over which a slow answer is forgotten.
    """

    name: ClassVar[str] = "p2c"

    def __init__(self, *, decay: float = 10.0) -> None:
        if decay <= 0:
            raise ValueError("decay is a time above zero")
        self._decay = decay
        self._loads: dict[str, _Load] = {}
        self._draw = random.Random().random

    def choose(self, nodes: Sequence[Node]) -> Node:
        count = len(nodes)
        if count == 1:
            return nodes[0]
        first = int(self._draw() * count)
        second = int(self._draw() * (count - 1))
        one, other = nodes[first], nodes[second + (second >= first)]
        now = asyncio.get_running_loop().time()
        in_flight, cost = self._load(one, now)
        other_in_flight, other_cost = self._load(other, now)
        if not cost < 2 * other_cost < 4 * cost:  # else the difference is chance
            in_flight *= cost or _BLAME
            other_in_flight *= other_cost or _BLAME
        return one if in_flight <= other_in_flight else other

    def started(self, node: Node) -> None:
        load = self._loads.get(node.id)
        if load is None:
            if len(self._loads) >= _NODES:
                self._loads = {id: load for id, load in self._loads.items() if load.in_flight}
            load = self._loads[node.id] = _Load()
        load.in_flight += 1

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        load = self._loads.get(node.id)
        if load is None or not load.in_flight:  # not one that started() has told of
            return
        load.in_flight -= 1
        now = asyncio.get_running_loop().time()
        cost = load.cost * math.exp((load.seen - now) / self._decay)
        if blames_node(error):
            seconds = max(seconds, _BLAME)
        if seconds > cost:
            load.cost = seconds
        elif error is None:  # who gave up early has not measured it
            load.cost = cost + seconds * (1 - cost / load.cost) if load.cost else seconds
        else:
            return
        load.seen = now

    def _load(self, node: Node, now: float) -> tuple[float, float]:
        """Attempts in flight, this one included if the cost is known, and the cost as of now."""
        load = self._loads.get(node.id)
        if load is None or not load.cost:
            return (load.in_flight if load else 0), 0.0
        return load.in_flight + 1, load.cost * math.exp((load.seen - now) / self._decay)
