"""One operation on a service: which nodes, which of them, and once more elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from ..deadlines import Deadline
from ..errors import DeadlineExceeded, MicroError, ServiceNotFound
from ..message import checked_header
from ..registry.cache import RegistryCache, ServiceView
from ..registry.records import Node
from ..selector.base import Selector, blames_node
from ..wrapper.base import WrappedRequest, Wrapper, wrapped
from .base import RpcClient, RpcRequest, RpcResponse, RpcStream
from .budget import RetryBudget
from .ejection import Ejection, Nodes
from .options import CallOptions, Filter, Limits
from .protocols import Protocols, no_nodes

T = TypeVar("T")
Operation = Callable[[RpcClient, Node, RpcRequest], Awaitable[T]]
_NOT_HERE = frozenset({404, 429, 503})


class Attempts:
    """Runs an operation on a node that the selector chose, of those not ejected.

    An attempt that surely reached no handler is repeated once, on another node: not connected,
    not written, or refused by a node that is draining, full, or no longer that service. One that
    failed otherwise is repeated as often as the call or its endpoint allows, on the same node if
    there is no other. A budget bounds both.
    """

    def __init__(
        self,
        cache: RegistryCache,
        protocols: Protocols,
        selector: Selector,
        limits: Limits,
        wrappers: Sequence[Wrapper],
    ) -> None:
        self._cache = cache
        self._protocols = protocols
        self._selector = selector
        self._retries = limits.retries
        self._wrappers = wrappers
        self._budget = RetryBudget(limits.retry_budget, limits.retry_floor)
        self._loop = asyncio.get_running_loop()
        self.ejection = Ejection(limits)

    async def run(
        self, request: RpcRequest, chosen: CallOptions, limit: Deadline, operation: Operation[T]
    ) -> T:
        """Raises ServiceNotFound or NoNodes unless ``wait``, and what the last attempt raised."""
        self._budget.calls += 1
        filter = Filter.of(chosen)
        nodes = self._known(request.service, filter)
        if not nodes:
            nodes = await self._find(request.service, filter, chosen.get("wait", False))
        node = self._selector.choose(self.ejection.usable(nodes))
        tried = {node.id}
        while True:
            try:
                return await self._attempt(node, request, limit, operation)
            except MicroError as error:
                again = self._again(error, request, chosen, tried)
                if again is None:
                    raise
            node = again
            if node.id in tried:
                await asyncio.sleep(random.uniform(0.0, min(1.0, 0.05 * 2.0**request.attempt)))
            tried.add(node.id)
            request = replace(request, attempt=request.attempt + 1)

    # -- nodes -------------------------------------------------------------------------------

    async def _find(self, service: str, filter: Filter | None, wait: bool) -> Nodes:
        view = self._cache.get(service) or await self._cache.load(service)
        while not (nodes := self._of(view, filter)):
            if not wait and not view.known:
                raise ServiceNotFound(f"no service {service} in the registry")
            if not wait:
                raise no_nodes(service, view.services, filter)
            await view.changed()
        return nodes

    def _known(self, service: str, filter: Filter | None) -> Nodes:
        view = self._cache.get(service)
        return () if view is None else self._of(view, filter)

    def _of(self, view: ServiceView, filter: Filter | None) -> Nodes:
        usable = self._protocols.usable
        if filter is None:
            return view.nodes(None, usable)
        return view.nodes(filter, lambda info, n: filter.passes(info, n) and usable(info, n))

    # -- attempts ----------------------------------------------------------------------------

    def _again(
        self, error: MicroError, request: RpcRequest, chosen: CallOptions, tried: set[str]
    ) -> Node | None:
        """The node for another attempt, if there may be one."""
        unseen = error.happened == "no" and error.code in _NOT_HERE
        harmless = blames_node(error) and error.code != 408  # the deadline is over all attempts
        harmless = harmless and request.attempt <= self._allowed(request, chosen)
        if not harmless and not (unseen and request.attempt == 1):
            return None
        nodes = self._known(request.service, Filter.of(chosen))
        others = tuple(node for node in nodes if node.id not in tried)
        others = others or (nodes if harmless else ())
        if not others or not self._budget.take():
            return None
        return self._selector.choose(self.ejection.usable(others))

    def _allowed(self, request: RpcRequest, chosen: CallOptions) -> int:
        if "retries" in chosen:
            return chosen["retries"]
        view = self._cache.get(request.service)
        services = () if view is None else view.services
        marks = [
            endpoint.metadata.get("idempotent") == "true"
            for info in services
            for endpoint in info.endpoints
            if endpoint.name == request.endpoint
        ]
        return self._retries if marks and all(marks) else 0

    async def _attempt(
        self, node: Node, request: RpcRequest, limit: Deadline, operation: Operation[T]
    ) -> T:
        rpc = self._protocols.of(node)
        request.peer = node.address
        self._selector.started(node)
        begin = self._loop.time()
        try:
            if self._wrappers:
                result = await self._inside_wrappers(rpc, node, request, operation)
            else:
                result = await operation(rpc, node, request)
        except BaseException as error:
            self._note(node, DeadlineExceeded() if limit.passed else error, begin)
            raise
        self._selector.finished(node, None, self._loop.time() - begin)
        self.ejection.succeeded(node, begin)
        return result

    def _note(self, node: Node, error: BaseException, begin: float) -> None:
        self._selector.finished(node, error, self._loop.time() - begin)
        if blames_node(error):
            self.ejection.failed(node, begin)
        elif isinstance(error, MicroError) and error.happened == "yes":
            self.ejection.succeeded(node, begin)

    async def _inside_wrappers(
        self, rpc: RpcClient, node: Node, request: RpcRequest, operation: Operation[T]
    ) -> T:
        async def last(outer: WrappedRequest) -> T:
            header = checked_header(outer.header)
            return await operation(rpc, node, replace(outer.value, header=header))

        service, name, header = request.service, request.endpoint, dict(request.header)
        stream = operation is opening
        outer = WrappedRequest("attempt", service, name, request, header, stream)
        return cast(T, await wrapped(self._wrappers, last)(outer))


def calling(rpc: RpcClient, node: Node, request: RpcRequest) -> Awaitable[RpcResponse]:
    return rpc.call(node, request)


def opening(rpc: RpcClient, node: Node, request: RpcRequest) -> Awaitable[RpcStream]:
    return rpc.open(node, request)
