"""The wrapper: code around calls, handlers, subscribers and publishes, in one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..context import Metadata, current, enter
from ..message import Header, canonical

Kind = Literal["call", "attempt", "handler", "subscriber", "publish"]


@dataclass(slots=True)
class WrappedRequest:
    """What passes through wrappers.

    ``name`` is the endpoint or the topic, ``value`` the typed request or message; a wrapper may
    replace ``value`` and change ``header``, the metadata. With ``stream`` a call's response is
    the open Stream, and what surrounds a handler surrounds the whole of it: ``value`` is then the
    request, or the iterator of requests, and the response is None. An ``attempt`` is one try of a
    call on one node; its value is the RpcRequest, with ``attempt`` and ``peer``, its response the
    RpcResponse or RpcStream as it came.
    """

    kind: Kind
    service: str
    name: str
    value: Any
    header: Header
    stream: bool = False


Next = Callable[[WrappedRequest], Awaitable[Any]]


class Wrapper(Protocol):
    """``async def wrapper(request, call_next)``: return the response, or raise.

    The first wrapper given is the outermost. Wrappers are composed once, at the start.
    """

    async def __call__(self, request: WrappedRequest, call_next: Next, /) -> Any: ...


def wrapped(wrappers: Sequence[Wrapper], last: Next) -> Next:
    """``last`` inside ``wrappers``."""
    for wrapper in reversed(wrappers):
        last = _around(wrapper, last)
    return last


def _around(wrapper: Wrapper, call_next: Next) -> Next:
    async def run(request: WrappedRequest) -> Any:
        return await wrapper(request, call_next)

    return run


def enter_wrapped(request: WrappedRequest) -> None:
    """What is inside the wrappers of a handler sees the metadata as they left it."""
    header = {canonical(name): value for name, value in request.header.items()}
    enter(current()._replace(metadata=Metadata(header)))
