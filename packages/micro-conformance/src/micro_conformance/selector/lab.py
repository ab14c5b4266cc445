"""Nodes to choose from, and calls that are made with what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from micro_core import Node, Selector

from ..lab import Lab

Nodes = tuple[Node, ...]
TOOK = 0.01  # seconds, of every call


class SelectorLab(Lab[Selector]):
    def nodes(self, count: int, *, first: int = 0) -> Nodes:
        """A set of nodes that differ in id and address."""
        return tuple(self.node(number) for number in range(first, first + count))

    def node(self, number: int, host: str = "10.0.0.1") -> Node:
        return Node(f"{self.prefix}-{number}", f"{host}:{10_000 + number}")


def chosen(selector: Selector, nodes: Nodes, count: int) -> Counter[str]:
    """How often each node was chosen for so many calls, one after the other, all successful."""
    found: Counter[str] = Counter()
    for _ in range(count):
        node = selector.choose(nodes)
        selector.started(node)
        selector.finished(node, None, TOOK)
        found[node.id] += 1
    return found


def missing(nodes: Nodes, found: Counter[str]) -> list[str]:
    """The nodes that were never chosen."""
    return [node.id for node in nodes if not found[node.id]]


def is_one_of(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether it is the very object, not one that is equal."""
    return any(node is one for one in nodes)
