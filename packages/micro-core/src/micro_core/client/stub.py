"""From an interface that both sides import to an object with its methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import InternalError, SocketClosed
from ..server.endpoint import _MARK, EndpointPlan, _annotations, _unstream, wire_name
from .options import CallOptions, around, chosen_options, joined
from .stream import Stream

if TYPE_CHECKING:
    from .client import Client


def make_stub(
    client: Client,
    service: str,
    interface: Callable[..., object],
    name: str | None,
    options: CallOptions,
) -> Any:
    """See :meth:`Client.stub`."""
    plans = plans_of_interface(interface, name)
    chosen_options(options)  # to be told now of one that is none
    return SimpleNamespace(
        **{name: _method(client, service, plan, options) for name, plan in plans.items()}
    )


@lru_cache(maxsize=1024)
def plans_of_interface(
    interface: Callable[..., object], name: str | None
) -> Mapping[str, EndpointPlan]:
    """Raises TypeError naming a method that is neither ``async`` nor a stream."""
    own = getattr(interface, "__name__", str(interface))
    prefix = name or own.removesuffix("Api") or own
    found = {
        attribute: _plan(attribute, function, prefix)
        for attribute in dir(interface)
        if not attribute.startswith("_")
        and inspect.isfunction(function := getattr(interface, attribute))
    }
    if not found:
        raise TypeError(f"{own} has no methods to make a stub of")
    return found


def _plan(attribute: str, function: Callable[..., Any], prefix: str) -> EndpointPlan:
    where = f"{function.__module__}.{function.__qualname__}"
    mark = getattr(function, _MARK, None)
    endpoint = f"{prefix}.{(mark and mark.name) or wire_name(attribute)}"
    request, response = _annotations(function.__get__(object()), where)
    request, streams_in = _unstream(request)
    response, streams_out = _unstream(response)
    if inspect.iscoroutinefunction(function) == streams_out:
        remedy = "without 'async'" if streams_out else "with 'async def'"
        raise TypeError(f"{where}: write it {remedy}, so that it is called as the checkers read it")
    return EndpointPlan(endpoint, function, request, response, streams_in, streams_out)


def _method(
    client: Client, service: str, plan: EndpointPlan, options: CallOptions
) -> Callable[[Any], Any]:
    def stream(argument: Any) -> AsyncGenerator[Any, None]:
        first, messages = (None, argument) if plan.streams_in else (argument, None)
        chosen = joined(options, around.get())
        opened = client.stream(service, plan.name, first, response=plan.response, **chosen)
        return _exchange(opened, messages)

    async def last(messages: Any) -> Any:
        async with aclosing(stream(messages)) as replies:
            async for reply in replies:
                return reply
        raise InternalError(f"{plan.name} ended without a reply")

    async def unary(request: Any) -> Any:
        chosen = joined(options, around.get())
        return await client.call(service, plan.name, request, plan.response, **chosen)

    return stream if plan.streams_out else last if plan.streams_in else unary


async def _exchange(
    stream: Stream[Any], messages: AsyncIterator[Any] | None
) -> AsyncGenerator[Any, None]:
    failures: list[Exception] = []
    async with stream:
        feeding = asyncio.create_task(_feed(stream, messages, failures))
        try:
            async for reply in stream:
                yield reply
        except SocketClosed:
            if not failures:
                raise
        finally:
            feeding.cancel()
            await asyncio.wait([feeding])
    if failures:  # of the caller's own iterator
        raise failures[0]


async def _feed(
    stream: Stream[Any], messages: AsyncIterator[Any] | None, failures: list[Exception]
) -> None:
    if messages is None:
        return
    try:
        async for message in messages:
            try:
                await stream.send(message)
            except SocketClosed:
                return  # whoever receives is told why
        await stream.end()
    except Exception as error:
        failures.append(error)
        await stream.close()
