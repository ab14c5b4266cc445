"""One node after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ..registry.records import Node
from .base import Selector

_SETS = 1024


class RoundRobinSelector(Selector):
    """Takes turns over each set of nodes, from a random start so that many clients spread."""

    name: ClassVar[str] = "roundrobin"

    def __init__(self) -> None:
        self._turns: dict[int, tuple[Sequence[Node], int]] = {}
        self._draw = random.Random().randrange  # the program may have seeded the common one

    def choose(self, nodes: Sequence[Node]) -> Node:
        seen, turn = self._turns.get(id(nodes), (None, 0))
        if seen is not nodes:  # a new set, or the id of one that is gone
            turn = self._draw(len(nodes))
            if len(self._turns) >= _SETS:
                self._turns.clear()
        self._turns[id(nodes)] = (nodes, turn + 1)
        return nodes[turn % len(nodes)]
