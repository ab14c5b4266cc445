"""The server: endpoints, and what surrounds every handler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from ..client.base import RpcRequest, RpcResponse, RpcStream
from ..codec.set import CodecSet
from ..context import Call, Metadata, enter
from ..deadlines import Deadlines
from ..errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    EndpointNotFound,
    InternalError,
    MicroError,
    ServiceNotFound,
    Unavailable,
)
from ..registry.records import Endpoint
from .endpoint import EndpointPlan, plan_of, plans_of

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

log = logging.getLogger("micro.server")


class Server:
    """Holds the endpoints of one service and answers for them, whatever the protocol.

    A handler's MicroError travels whole. Anything else is logged with its traceback under a
    fresh id and travels as 500 ``internal error`` with that id.
    """

    def __init__(self, name: str, *, threads: int = 32, max_calls: int = 1000) -> None:
        self.name = name
        self.codecs: CodecSet
        self.threads = threads
        self.max_calls = max_calls
        self.draining = False
        self.active = 0
        self._endpoints: dict[str, EndpointPlan] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._deadlines = Deadlines()

    def handle(self, handler: object, *, name: str | None = None) -> None:
        """Make every public method of ``handler`` an endpoint ``Type.Method``."""
        for plan in plans_of(handler, name):
            self._add(plan)

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function the endpoint ``name``."""
        self._add(plan_of(function, name))

    def _add(self, plan: EndpointPlan) -> None:
        if plan.name in self._endpoints:
            raise TypeError(f"endpoint {plan.name} is defined twice")
        self._endpoints[plan.name] = plan

    def records(self) -> list[Endpoint]:
        """The endpoints as the registry is told, by name."""
        return [self._endpoints[name].record() for name in sorted(self._endpoints)]

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        self._deadlines.close()

    async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        """Run the endpoint that ``request`` names. Raises nothing but MicroError."""
        plan = self._admit(request, stream)
        self.active += 1
        deadline = self._deadlines.until(request.deadline)
        try:
            enter(_call(request))
            with deadline:
                return await self._run(plan, request, stream)
        except MicroError as error:
            if deadline.passed:
                raise DeadlineExceeded(f"{plan.name} ran out of time", id=self.name) from error
            raise
        except Exception as error:
            raise _internal(plan, error) from error
        finally:
            self.active -= 1

    def _admit(self, request: RpcRequest, stream: RpcStream | None) -> EndpointPlan:
        if self.draining:
            raise Draining("draining", id=self.name)
        if request.service and request.service != self.name:
            raise ServiceNotFound(f"this is {self.name}, not {request.service}", id=self.name)
        plan = self._endpoints.get(request.endpoint)
        if plan is None:
            raise EndpointNotFound(f"{self.name} has no endpoint {request.endpoint}", id=self.name)
        if plan.streams != (stream is not None):
            kind = "a stream" if plan.streams else "no stream"
            raise BadRequest(f"{plan.name} is {kind}", id=self.name, happened="no")
        if self.active >= self.max_calls:
            raise Unavailable(f"{self.max_calls} calls in flight", id=self.name, happened="no")
        return plan

    async def _run(
        self, plan: EndpointPlan, request: RpcRequest, stream: RpcStream | None
    ) -> RpcResponse:
        value = None if stream is not None else self._decode(plan, request, request.body)
        try:
            if stream is not None:
                await self._run_stream(plan, request, stream)
                return RpcResponse(request.content_type)
            if plan.is_async:
                result = await plan.function(value)
            else:
                result = await self._run_in_thread(plan, value)
            return RpcResponse(request.content_type, self._encode(plan, request, result))
        except MicroError as error:
            error.happened = "yes"  # also when it came from a call that the handler made
            raise

    def _decode(self, plan: EndpointPlan, request: RpcRequest, body: bytes) -> Any:
        try:
            return self.codecs.decode(request.content_type, plan.request, body)
        except MicroError as error:
            error.id = error.id or self.name
            error.happened = "no"
            raise

    def _encode(self, plan: EndpointPlan, request: RpcRequest, result: Any) -> bytes:
        try:
            return self.codecs.encode(request.content_type, result)
        except MicroError as error:  # not the caller's fault
            raise _internal(plan, error) from error

    async def _run_stream(self, plan: EndpointPlan, request: RpcRequest, stream: RpcStream) -> None:
        messages = self._messages(plan, request, stream)
        value = messages if plan.streams_in else await anext(messages, None)
        if plan.streams_out:
            async with contextlib.aclosing(plan.function(value)) as items:
                async for item in items:
                    await stream.send(self._encode(plan, request, item))
        else:
            result = await plan.function(value)
            await stream.send(self._encode(plan, request, result))
        await stream.end()

    async def _messages(
        self, plan: EndpointPlan, request: RpcRequest, stream: RpcStream
    ) -> AsyncIterator[Any]:
        while True:
            try:
                body = await stream.recv()
            except StopAsyncIteration:
                return
            yield self._decode(plan, request, body)

    async def _run_in_thread(self, plan: EndpointPlan, value: Any) -> Any:
        """The deadline is answered on time; the call counts until its thread has ended."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(self.threads, f"micro-{self.name}")
        run = contextvars.copy_context().run
        future = self._executor.submit(run, plan.function, value)
        self.active += 1
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has gone before the thread
                loop.call_soon_threadsafe(self._thread_ended)

        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def _thread_ended(self) -> None:
        self.active -= 1


def _call(request: RpcRequest) -> Call:
    return Call(
        request.service,
        request.endpoint,
        Metadata(request.header),
        request.deadline,
        request.peer,
        request.attempt,
    )


def _internal(plan: EndpointPlan, error: Exception) -> InternalError:
    id = os.urandom(8).hex()
    log.error("%s failed, id %s", plan.name, id, exc_info=error)
    return InternalError("internal error", id=id)
