"""One operation on a service: which nodes, which of them, and once more elsewhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import MicroError, ServiceNotFound
from ..registry.cache import RegistryCache, ServiceView
from ..registry.records import Node, ServiceInfo
from ..selector.base import Selector
from .base import RpcClient
from .protocols import Protocols, no_nodes

T = TypeVar("T")
Operation = Callable[[RpcClient, Node], Awaitable[T]]
_NOT_HERE = frozenset({404, 429, 503})


class Attempts:
    """Runs an operation on a node that the selector chose.

    An attempt that surely reached no handler is repeated once, on another node: not connected,
    not written, or refused by a node that is draining, full, or no longer that service.
    """

    def __init__(self, cache: RegistryCache, protocols: Protocols, selector: Selector) -> None:
        self._cache = cache
        self._protocols = protocols
        self._selector = selector

    async def run(
        self, service: str, version: str | None, wait: bool, operation: Operation[T]
    ) -> T:
        """Raises ServiceNotFound or NoNodes unless ``wait``, and what the last attempt raised."""
        view = self._cache.get(service)
        nodes = self._usable(view, version) if view is not None else ()
        if not nodes:
            nodes = await self._nodes(service, version, wait)
        node = self._selector.choose(nodes)
        try:
            return await self._attempt(node, operation)
        except MicroError as error:
            if error.happened != "no" or error.code not in _NOT_HERE:
                raise
            others = [n for n in await self._nodes(service, version, wait) if n.id != node.id]
            if not others:
                raise
        return await self._attempt(self._selector.choose(tuple(others)), operation)

    async def _nodes(self, service: str, version: str | None, wait: bool) -> tuple[Node, ...]:
        view = self._cache.get(service) or await self._cache.load(service)
        while True:
            nodes = self._usable(view, version)
            if nodes:
                return nodes
            if not wait:
                break
            await view.changed()
        if not view.known:
            raise ServiceNotFound(f"no service {service} in the registry")
        raise no_nodes(service, view.services, version)

    def _usable(self, view: ServiceView, version: str | None) -> tuple[Node, ...]:
        if version is None:
            return view.nodes(None, self._protocols.usable)

        def matches(info: ServiceInfo, node: Node) -> bool:
            return info.version == version and self._protocols.usable(info, node)

        return view.nodes(version, matches)

    async def _attempt(self, node: Node, operation: Operation[T]) -> T:
        rpc = self._protocols.of(node)
        self._selector.started(node)
        begin = time.monotonic()
        try:
            result = await operation(rpc, node)
        except BaseException as error:
            self._selector.finished(node, error, time.monotonic() - begin)
            raise
        self._selector.finished(node, None, time.monotonic() - begin)
        return result
