"""The selector: which node gets the next attempt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ..errors import MicroError
from ..plugin import Plugin
from ..registry.records import Node


class Selector(Plugin):
    """Synchronous, and called on the path of every call: keep it cheap.

    ``nodes`` is a tuple that stays the same object until the set of nodes changes, so state may
    be kept by its identity. It is never empty, and without the nodes that are ejected.
    """

    kind: ClassVar[str] = "selector"

    @abstractmethod
    def choose(self, nodes: Sequence[Node]) -> Node: ...

    def started(self, node: Node) -> None:
        """An attempt on ``node`` begins."""

    def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
        """The attempt ended, with what error and after how long."""


def blames_node(error: BaseException | None) -> bool:
    """Whether an attempt's error speaks against the node, and another may do better.

    Not connected, cut off, too late, and any 5xx, be it the handler's own; but not 501, which an
    endpoint is on every node. A 4xx is the caller's.
    """
    return isinstance(error, MicroError) and (
        error.code == 408 or (error.code >= 500 and error.code != 501)
    )
