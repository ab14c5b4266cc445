"""The selector: which node gets the next attempt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ..plugin import Plugin
from ..registry.records import Node


class Selector(Plugin):
    """Synchronous, and called on the path of every call: keep it cheap.

    ``nodes`` is a tuple that stays the same object until the set of nodes changes, so state may
    be kept by its identity. It is never empty.
    """

    kind: ClassVar[str] = "selector"

    @abstractmethod
    def choose(self, nodes: Sequence[Node]) -> Node: ...

    def started(self, node: Node) -> None:
        """An attempt on ``node`` begins."""

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        """The attempt ended, with what error and after how long."""
