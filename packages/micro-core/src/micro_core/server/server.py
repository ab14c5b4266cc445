"""The server: endpoints, and what surrounds every handler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..client.base import RpcRequest, RpcResponse, RpcStream
from ..codec.set import CodecSet, Reader
from ..context import Call, Metadata, current, enter
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
from ..wrapper.base import WrappedRequest, Wrapper, enter_wrapped, wrapped
from .endpoint import EndpointPlan, plan_of, plans_of

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

log = logging.getLogger("micro.server")
Invoke = Callable[[Any], Awaitable[Any]]
_reply: ContextVar[Invoke] = ContextVar("micro_reply")  # sends an item of the stream at hand


class _Bound(NamedTuple):
    """An endpoint with its decoders built and its wrappers composed."""

    plan: EndpointPlan
    read: Reader
    encode: Callable[[str, Any], bytes]
    invoke: Invoke


class Server:
    """Holds the endpoints of one service and answers for them, whatever the protocol.

    A handler's MicroError travels whole. Anything else is logged with its traceback under a
    fresh id and travels as 500 ``internal error`` with that id.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int = 32,
        max_calls: int = 1000,
        wrappers: Sequence[Wrapper] = (),
    ) -> None:
        self.name = name
        self.wrappers = wrappers
        self.threads = threads
        self.max_calls = max_calls
        self.draining = False
        self.active = 0
        self._codecs: CodecSet | None = None
        self._endpoints: dict[str, EndpointPlan] = {}
        self._bound: dict[str, _Bound] = {}
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
        if self._codecs is not None:
            self._bind(plan, self._codecs)

    @property
    def codecs(self) -> CodecSet | None:
        """To be set, after the wrappers, before the first dispatch: endpoints are bound to it.

        Raises TypeError, naming the endpoint, for a request that no codec carries.
        """
        return self._codecs

    @codecs.setter
    def codecs(self, codecs: CodecSet) -> None:
        self._codecs = codecs
        for plan in self._endpoints.values():
            self._bind(plan, codecs)

    def _bind(self, plan: EndpointPlan, codecs: CodecSet) -> None:
        try:
            read = codecs.reader(plan.request)
        except TypeError as error:
            raise TypeError(f"{plan.name}: {error}") from error
        invoke: Invoke = plan.function
        if plan.streams:
            invoke = partial(self._reply_all, plan)
        elif not plan.is_async:
            invoke = partial(self._run_in_thread, plan)
        if self.wrappers:
            invoke = self._wrapped(plan, invoke)
        self._bound[plan.name] = _Bound(plan, read, codecs.encode, invoke)

    def _wrapped(self, plan: EndpointPlan, invoke: Invoke) -> Invoke:
        async def last(request: WrappedRequest) -> Any:
            enter_wrapped(request)
            return await invoke(request.value)

        chain = wrapped(self.wrappers, last)

        async def run(value: Any) -> Any:
            header = dict(current().metadata)
            return await chain(
                WrappedRequest("handler", self.name, plan.name, value, header, plan.streams)
            )

        return run

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
        bound = self._admit(request, stream)
        plan = bound.plan
        self.active += 1
        deadline = self._deadlines.until(request.deadline)
        try:
            enter(_call(request))
            with deadline:
                return await self._run(bound, request, stream)
        except MicroError as error:
            if deadline.passed:
                raise DeadlineExceeded(f"{plan.name} ran out of time", id=self.name) from error
            raise
        except Exception as error:
            raise _internal(plan, error) from error
        finally:
            self.active -= 1

    def _admit(self, request: RpcRequest, stream: RpcStream | None) -> _Bound:
        if self.draining:
            raise Draining("draining", id=self.name)
        if request.service and request.service != self.name:
            raise ServiceNotFound(f"this is {self.name}, not {request.service}", id=self.name)
        bound = self._bound.get(request.endpoint)
        if bound is None:
            raise EndpointNotFound(f"{self.name} has no endpoint {request.endpoint}", id=self.name)
        plan = bound.plan
        if plan.streams != (stream is not None):
            kind = "a stream" if plan.streams else "no stream"
            raise BadRequest(f"{plan.name} is {kind}", id=self.name, happened="no")
        if self.active >= self.max_calls:
            raise Unavailable(f"{self.max_calls} calls in flight", id=self.name, happened="no")
        return bound

    async def _run(
        self, bound: _Bound, request: RpcRequest, stream: RpcStream | None
    ) -> RpcResponse:
        value = None if stream is not None else self._decode(bound, request, request.body)
        try:
            if stream is not None:
                await self._run_stream(bound, request, stream)
                return RpcResponse(request.content_type)
            result = await bound.invoke(value)
            return RpcResponse(request.content_type, self._encode(bound, request, result))
        except MicroError as error:
            error.happened = "yes"  # also when it came from a call that the handler made
            raise

    def _decode(self, bound: _Bound, request: RpcRequest, body: bytes) -> Any:
        try:
            return bound.read(request.content_type, body)
        except MicroError as error:
            error.id = error.id or self.name
            error.happened = "no"
            raise

    def _encode(self, bound: _Bound, request: RpcRequest, result: Any) -> bytes:
        try:
            return bound.encode(request.content_type, result)
        except MicroError as error:  # not the caller's fault
            raise _internal(bound.plan, error) from error

    async def _run_stream(self, bound: _Bound, request: RpcRequest, stream: RpcStream) -> None:
        async def reply(item: Any) -> None:
            await stream.send(self._encode(bound, request, item))

        _reply.set(reply)
        messages = self._messages(bound, request, stream)
        await bound.invoke(messages if bound.plan.streams_in else await anext(messages, None))
        await stream.end()

    async def _reply_all(self, plan: EndpointPlan, value: Any) -> None:
        """Run a stream's handler, inside of the wrappers."""
        reply = _reply.get()
        if not plan.streams_out:
            await reply(await plan.function(value))
            return
        async with contextlib.aclosing(plan.function(value)) as items:
            async for item in items:
                await reply(item)

    async def _messages(
        self, bound: _Bound, request: RpcRequest, stream: RpcStream
    ) -> AsyncIterator[Any]:
        while True:
            try:
                body = await stream.recv()
            except StopAsyncIteration:
                return
            yield self._decode(bound, request, body)

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
