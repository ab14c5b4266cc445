"""From an interface that both sides import to an object with its methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import InternalError, SocketClosed
from ..server.endpoint import _MARK, _annotations, _unstream, wire_name
from .options import CallOptions, surrounded
from .stream import Stream

if TYPE_CHECKING:
    from .client import Client


@dataclass(frozen=True, slots=True)
class MethodPlan:
    attribute: str
    endpoint: str
    request: Any
    response: Any
    streams_in: bool
    streams_out: bool


def make_stub(
    client: Client,
    service: str,
    interface: Callable[..., object],
    name: str | None,
    options: CallOptions,
) -> Any:
    """See :meth:`Client.stub`."""
    methods = {
        plan.attribute: _method(client, service, plan, options)
        for plan in plans_of_interface(interface, name)
    }
    return SimpleNamespace(**methods)


@lru_cache(maxsize=1024)
def plans_of_interface(
    interface: Callable[..., object], name: str | None
) -> tuple[MethodPlan, ...]:
    """Raises TypeError naming a method that is neither ``async`` nor a stream."""
    own = getattr(interface, "__name__", str(interface))
    prefix = name or own.removesuffix("Api") or own
    found = [
        _plan(attribute, function, prefix)
        for attribute in dir(interface)
        if not attribute.startswith("_")
        and inspect.isfunction(function := getattr(interface, attribute))
    ]
    if not found:
        raise TypeError(f"{own} has no methods to make a stub of")
    return tuple(found)


def _plan(attribute: str, function: Callable[..., Any], prefix: str) -> MethodPlan:
    where = f"{function.__module__}.{function.__qualname__}"
    mark = getattr(function, _MARK, None)
    endpoint = f"{prefix}.{(mark and mark.name) or wire_name(attribute)}"
    request, response = _annotations(function.__get__(object()), where)
    request, streams_in = _unstream(request)
    response, streams_out = _unstream(response)
    if inspect.iscoroutinefunction(function) == streams_out:
        remedy = "without 'async'" if streams_out else "with 'async def'"
        raise TypeError(f"{where}: write it {remedy}, so that it is called as the checkers read it")
    return MethodPlan(attribute, endpoint, request, response, streams_in, streams_out)


def _method(
    client: Client, service: str, plan: MethodPlan, options: CallOptions
) -> Callable[[Any], Any]:
    endpoint, response = plan.endpoint, plan.response

    def stream(first: object) -> Stream[Any]:
        return client.stream(service, endpoint, first, response=response, **surrounded(options))

    def unary(request: Any) -> Any:
        return client.call(service, endpoint, request, response, **surrounded(options))

    def many(argument: Any) -> Any:
        if plan.streams_in:
            return _exchange(stream(None), argument)
        return _exchange(stream(argument), None)

    async def last(messages: Any) -> Any:
        async for reply in _exchange(stream(None), messages):
            return reply
        raise InternalError(f"{endpoint} ended without a reply")

    return many if plan.streams_out else last if plan.streams_in else unary


async def _exchange(stream: Stream[Any], messages: AsyncIterator[Any] | None) -> AsyncIterator[Any]:
    async with stream:
        feeding = None if messages is None else asyncio.create_task(_feed(stream, messages))
        try:
            async for reply in stream:
                yield reply
        finally:
            if feeding is not None:
                await _end(feeding)


async def _feed(stream: Stream[Any], messages: AsyncIterator[Any]) -> None:
    try:
        async for message in messages:
            await stream.send(message)
        await stream.end()
    except SocketClosed:
        pass  # whoever receives is told why
    except BaseException:
        await stream.close()
        raise


async def _end(feeding: asyncio.Task[None]) -> None:
    """What the caller's own iterator raised is what the call raises."""
    feeding.cancel()
    await asyncio.wait([feeding])
    if not feeding.cancelled() and (error := feeding.exception()):
        raise error
