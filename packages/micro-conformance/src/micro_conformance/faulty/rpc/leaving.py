"""Callers and servers that are left, and do not notice."""

from __future__ import annotations

import asyncio

from micro_core import (
    BackendUnavailable,
    Node,
    Transport,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.transport.base import Socket

from ...mutants import mutant
from .base import Answering, Asking, Mucp, leave_all


@mutant("test_a_caller_that_gives_up")
class KeepsCalling(Mucp):
    """A call that was cancelled goes on unseen."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            return await asyncio.shield(asyncio.ensure_future(super().calling(node, request)))


@mutant("test_a_caller_that_gives_up_harms_no_other")
class GivesUpAltogether(Mucp):
    """With one call that is cancelled, all of its client are."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except asyncio.CancelledError:
                leave_all(self._transport)
                raise


@mutant("test_a_caller_that_dies", "test_a_caller_that_leaves", "test_a_caller_that_gives_up")
class WorksForNobody(Mucp):
    """Handlers go on when their callers have gone."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.tasks: set[asyncio.Task[RpcResponse]] = getattr(self, "tasks", set())
            task = asyncio.ensure_future(super().answer(request, stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return await asyncio.shield(task)

        async def stop(self, grace: float) -> None:
            await super().stop(grace)
            for task in getattr(self, "tasks", ()):
                task.cancel()


@mutant("test_a_server_that_comes_back", "test_an_idle_connection_that_ended")
class BearsGrudges(Mucp):
    """A node that was lost once is not dialled again."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            idle = self._pool._idle.get(node.address, [])
            self.lost = getattr(self, "lost", False) or any(one.closed for one, _ in idle)
            if self.lost:
                raise BackendUnavailable("lost before", address=node.address)
            return await super().calling(node, request)


@mutant("test_an_idle_connection_that_ended")
class TakesDeadConnections(Mucp):
    """Idle connections are used without a look whether they are alive."""

    class Client(Asking):
        def __init__(self, *, transport: Transport) -> None:
            super().__init__(transport=transport)
            self._pool.take = self._take  # type: ignore[method-assign]

        async def _take(self, address: str) -> Socket:
            idle = self._pool._idle.get(address)
            return idle.pop()[0] if idle else await self._pool.dial(address)
