"""From a handler's annotations to an endpoint: its name, its types, its shape."""

from __future__ import annotations

import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin

from ..registry.records import Endpoint

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__micro_endpoint__"
_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None
    idempotent: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """What the server knows about one endpoint. ``request`` and ``response`` are the types of
    one message; ``streams_in`` and ``streams_out`` say in which direction there are many."""

    name: str
    function: Callable[..., Any]
    request: Any
    response: Any
    streams_in: bool = False
    streams_out: bool = False
    is_async: bool = True
    idempotent: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def streams(self) -> bool:
        return self.streams_in or self.streams_out

    def record(self) -> Endpoint:
        """What the registry is told."""
        from .schema import value_of

        metadata = dict(self.metadata)
        if self.streams:
            metadata["stream"] = "true"
        if self.idempotent:
            metadata["idempotent"] = "true"
        return Endpoint(self.name, value_of(self.request), value_of(self.response), metadata)


def endpoint(
    *, name: str | None = None, idempotent: bool = False, metadata: Mapping[str, str] | None = None
) -> Callable[[F], F]:
    """Say more about a method of a handler class.

    ``name`` replaces the method's part of ``Type.Method``; ``idempotent`` allows a client to
    repeat a call that may have run; ``metadata`` goes into the registry.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, _Mark(name, idempotent, dict(metadata or {})))
        return function

    return mark


def wire_name(name: str) -> str:
    """``get_url`` as ``GetUrl``: each word capitalised and nothing else changed."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def plans_of(handler: object, name: str | None = None) -> Iterator[EndpointPlan]:
    """One plan for each public method. Raises TypeError naming a method that cannot be one."""
    prefix = name or type(handler).__name__
    for attribute in dir(type(handler)):
        if attribute.startswith("_"):
            continue
        function = getattr(handler, attribute)
        if inspect.ismethod(function) or inspect.isfunction(function):
            mark: _Mark | None = getattr(function, _MARK, None)
            method = (mark.name if mark else None) or wire_name(attribute)
            yield plan_of(function, f"{prefix}.{method}")


def plan_of(function: Callable[..., Any], name: str) -> EndpointPlan:
    """Raises TypeError that names the function and what is missing."""
    if name.count(".") != 1 or not all(name.split(".")):
        raise TypeError(f"endpoint name {name!r} must be Type.Method")
    where = f"{name} ({getattr(function, '__qualname__', function)})"
    request, response = _annotations(function, where)
    request, streams_in = _unstream(request)
    response, streams_out = _unstream(response)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if (streams_in or streams_out) and not is_async:
        raise TypeError(f"{where}: a stream needs an 'async def'")
    if streams_out != inspect.isasyncgenfunction(function):
        raise TypeError(f"{where}: annotate '-> AsyncIterator[T]' exactly when it yields")
    mark: _Mark | None = getattr(function, _MARK, None)
    return EndpointPlan(
        name=name,
        function=function,
        request=request,
        response=response,
        streams_in=streams_in,
        streams_out=streams_out,
        is_async=is_async,
        idempotent=mark.idempotent if mark else False,
        metadata=mark.metadata if mark else {},
    )


def _annotations(function: Callable[..., Any], where: str) -> tuple[Any, Any]:
    hints = type_hints(function, where)
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"{where}: a handler takes exactly one parameter, the request")
    name = parameters[0].name
    for wanted in (name, "return"):
        if wanted not in hints:
            raise TypeError(f"{where}: annotate {wanted!r}; Any carries plain values")
    return hints[name], hints["return"]


def type_hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """The evaluated annotations. Raises TypeError naming one that cannot be evaluated."""
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise TypeError(
            f"{where}: an annotation cannot be evaluated: {error}; "
            "its types must be importable from the module that defines the handler"
        ) from error


def _unstream(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in _STREAMS:
        return get_args(annotation)[0], True
    return annotation, False
