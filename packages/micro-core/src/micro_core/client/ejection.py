"""Nodes that fail are left alone for a while, whatever the selector."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from ..registry.records import Node
from .options import Limits

log = logging.getLogger("micro.client")
Nodes = tuple[Node, ...]
Key = tuple[str, str]
_NEVER = float("inf")
_SETS = 1024


@dataclass(slots=True)
class _Record:
    failures: int = 0
    ejections: int = 0
    since: float = -_NEVER


class Ejection:
    """Ejects a node that fails several times in a row; the nth time for n times as long.

    A node that comes back is on probation: its next failure ejects it again, its next success
    is the end of it. If all nodes of a set are ejected, all are used, and one that then succeeds
    is back at once. An attempt that began before the ejection says nothing new.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._records: dict[Key, _Record] = {}
        self._until: dict[Key, float] = {}
        self._next_return = _NEVER
        self._usable: dict[int, tuple[Nodes, Nodes]] = {}

    @property
    def ejected(self) -> tuple[str, ...]:
        """The ids of the nodes that are left alone now."""
        now = asyncio.get_running_loop().time()
        return tuple(sorted(id for (id, _), until in self._until.items() if until > now))

    def usable(self, nodes: Nodes) -> Nodes:
        """Those not ejected, as the same object until that changes; never empty."""
        if self._next_return == _NEVER:
            return nodes
        now = asyncio.get_running_loop().time()
        if now >= self._next_return:
            self._set({key: until for key, until in self._until.items() if until > now})
        of, left = self._usable.get(id(nodes), (None, nodes))
        if of is not nodes:
            left = tuple(n for n in nodes if (n.id, n.address) not in self._until) or nodes
            left = nodes if len(left) == len(nodes) else left
            if len(self._usable) >= _SETS:
                self._usable.clear()
            self._usable[id(nodes)] = nodes, left
        return left

    def succeeded(self, node: Node, begin: float) -> None:
        """An attempt that began at ``begin`` on the loop's clock found the node in order."""
        if not self._records:
            return
        record = self._records.get((node.id, node.address))
        if record is not None and begin >= record.since:
            self.forget(node)

    def failed(self, node: Node, begin: float) -> None:
        limits = self._limits
        if not limits.ejection_failures:
            return
        key = (node.id, node.address)
        record = self._records.setdefault(key, _Record())
        now = asyncio.get_running_loop().time()
        if begin < record.since or self._until.get(key, 0.0) > now:
            return
        record.failures += 1
        if record.failures < limits.ejection_failures and not record.ejections:
            return
        record.ejections += 1
        record.since = now
        seconds = min(limits.ejection_time * record.ejections, limits.ejection_max)
        log.warning("node %s is ejected for %g s", node.id, seconds)
        self._set({**self._until, key: now + seconds})

    def forget(self, node: Node) -> None:
        """It begins anew: it is in order, or was withdrawn from the registry."""
        key = (node.id, node.address)
        self._records.pop(key, None)
        if key in self._until:
            self._set({k: until for k, until in self._until.items() if k != key})

    def _set(self, until: dict[Key, float]) -> None:
        self._until = until
        self._next_return = min(until.values(), default=_NEVER)
        self._usable.clear()
