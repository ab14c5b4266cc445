"""The wrapper: code around calls, handlers, subscribers and publishes, in one shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..message import Header

Kind = Literal["call", "handler", "subscriber", "publish"]


@dataclass(slots=True)
class WrappedRequest:
    """What passes through wrappers. ``name`` is the endpoint or the topic, ``value`` the typed
    request or message; a wrapper may replace ``value`` and change ``header``."""

    kind: Kind
    service: str
    name: str
    value: Any
    header: Header


Next = Callable[[WrappedRequest], Awaitable[Any]]


class Wrapper(Protocol):
    """``async def wrapper(request, call_next)``: return the response, or raise.

    The first wrapper given is the outermost. Wrappers are composed once, at the start.
    """

    async def __call__(self, request: WrappedRequest, call_next: Next) -> Any: ...
