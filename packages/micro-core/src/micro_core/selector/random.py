"""Any node with the same chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ..registry.records import Node
from .base import Selector


class RandomSelector(Selector):
    name: ClassVar[str] = "random"

    def __init__(self) -> None:
        self._pick = random.Random().choice

    def choose(self, nodes: Sequence[Node]) -> Node:
        return self._pick(nodes)
