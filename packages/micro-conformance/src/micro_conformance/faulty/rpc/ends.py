"""Servers and clients that begin and end badly."""

from __future__ import annotations

import asyncio
from typing import Any

from micro_core import (
    BackendUnavailable,
    Draining,
    Transport,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.server.base import Dispatch, RpcServer

from ...mutants import mutant
from .base import Answering, Asking, Mucp, leave_all


@mutant("test_constructing_does_nothing")
class StartsEarly(Mucp):
    """A server has a task of its own from its construction on."""

    class Server(Answering):
        def __init__(self, *, transport: Transport) -> None:
            super().__init__(transport=transport)
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(1e9))

        async def stop(self, grace: float) -> None:
            self.task.cancel()
            await super().stop(grace)


@mutant("test_a_server_tells_its_address")
class TellsTheWrongAddress(Mucp):
    """Every fourth server tells an address where it is not."""

    count = 0

    def make_server(self, transport: Transport) -> RpcServer:
        self.count += 1
        server = super().make_server(transport)
        if self.count % 4 == 0:
            server.name = "lost"  # type: ignore[misc]
        return server

    class Server(Answering):
        async def start(self, address: str, dispatch: Dispatch) -> str:
            return await super().start(address, dispatch) + "0" * (self.name == "lost")


@mutant("test_an_address_that_is_taken")
class SharesAddresses(Mucp):
    """Starting where another server listens looks like success."""

    class Server(Answering):
        async def start(self, address: str, dispatch: Dispatch) -> str:
            try:
                return await super().start(address, dispatch)
            except BackendUnavailable:
                return address


@mutant("test_draining_answers_as_before")
class DrainsAtOnce(Mucp):
    """A draining server refuses requests from the first moment on."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            self.real = _refusing
            await super().drain(delay)


@mutant("test_draining_asks_clients_to_leave")
class AsksNobodyToLeave(Mucp):
    """A draining server does not tell its clients."""

    class Server(Answering):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, False if name == "draining" else value)


@mutant("test_draining_is_bounded")
class DrainsForEver(Mucp):
    """Draining lasts as long as a client is connected."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            await super().drain(1e6)


@mutant("test_draining_asks_clients_to_leave", "test_closing_is_noticed")
class DrainsInFull(Mucp):
    """Draining takes all of its delay, whoever is connected."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            self.draining = True
            await asyncio.sleep(delay)


@mutant("test_draining_may_be_cut_short")
class DrainsRegardless(Mucp):
    """A drain that was cancelled goes on."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            await asyncio.shield(super().drain(delay))

        async def stop(self, grace: float) -> None:
            await super().stop(grace)


@mutant("test_stopping_finishes_what_runs")
class StopsAtOnce(Mucp):
    """Stopping cuts off what runs, whatever its grace."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            await super().stop(0.0)


@mutant("test_stopping_cancels_what_is_left")
class StopsHalfway(Mucp):
    """Stopping only makes new clients impossible."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            listener, self._listener = self._listener, None
            await super().stop(grace)
            self._listener = listener if grace else None
            if not grace and listener is not None:
                await listener.close()


@mutant("test_a_stopping_server_runs_nothing_new")
class StopsLate(Mucp):
    """A stopping server runs what comes until its grace is over."""

    class Server(Answering):
        def __setattr__(self, name: str, value: Any) -> None:
            if name != "dispatch" or value == self.answer:
                super().__setattr__(name, value)


@mutant("test_stopping_twice_is_like_once")
class StopsTwice(Mucp):
    """The third stop is an error."""

    class Server(Answering):
        stops = 0

        async def stop(self, grace: float) -> None:
            self.stops += 1
            if self.stops > 2:
                raise RuntimeError("stopped before")
            await super().stop(grace)


@mutant("test_stopping_does_not_wait_for_nothing")
class TakesItsTime(Mucp):
    """Stopping takes all of its grace."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            await asyncio.sleep(grace)
            await super().stop(0.0)


@mutant("test_a_stubborn_handler_does_not_hold_up_a_stop")
class WaitsForHandlers(Mucp):
    """Stopping waits until every handler has ended."""

    class Server(Answering):
        active = 0

        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.active += 1
            try:
                return await super().answer(request, stream)
            finally:
                self.active -= 1

        async def stop(self, grace: float) -> None:
            await super().stop(grace)
            while self.active:
                await asyncio.sleep(0.1)


@mutant("test_closing_twice_is_like_once")
class ClosesTwice(Mucp):
    """The third close is an error."""

    class Client(Asking):
        closes = 0

        async def close(self) -> None:
            self.closes += 1
            if self.closes > 2:
                raise RuntimeError("closed before")
            await super().close()


@mutant("test_a_caller_that_dies")
class WaitsForReplies(Mucp):
    """Closing waits until every call is answered."""

    class Client(Asking):
        async def close(self) -> None:
            while self.flying:
                await asyncio.sleep(0.1)
            await super().close()


@mutant("test_a_closed_client_refuses")
class WorksOn(Mucp):
    """A client that was closed opens again by itself."""

    class Client(Asking):
        async def close(self) -> None:
            await super().close()
            self._pool._closed = False


@mutant("test_closing_is_noticed")
class ClosesNothing(Mucp):
    """Closing a client leaves its idle connections."""

    class Client(Asking):
        async def close(self) -> None:
            idle, self._pool._idle = self._pool._idle, {}
            await super().close()
            self.kept = idle


@mutant("test_forgetting_drops_idle_connections", "test_a_withdrawn_node_is_disconnected")
class ForgetsNothing(Mucp):
    """A node that was withdrawn stays connected."""

    class Client(Asking):
        def forget(self, address: str) -> None:
            pass


@mutant("test_forgetting_harms_no_call")
class ForgetsTooMuch(Mucp):
    """Forgetting a node cuts off its calls."""

    class Client(Asking):
        def forget(self, address: str) -> None:
            leave_all(self._transport)


async def _refusing(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
    raise Draining("leaving")
