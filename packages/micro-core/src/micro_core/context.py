"""What surrounds the request being handled: its metadata, its deadline, who sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from .message import canonical

TRACE_KEYS = frozenset({"Micro-Trace-Id", "Micro-Span-Id", "Traceparent", "Tracestate", "Baggage"})
_OWN = frozenset(
    {"Accept", "Connection", "Content-Type", "Timeout", "User-Agent", "Accept-Encoding"}
)
_USUAL = _OWN | {"Micro-Id", "Micro-Service", "Micro-Method", "Micro-Endpoint"}


class Metadata(Mapping[str, str]):
    """A request's header without the protocol's own names; keys compare without case."""

    __slots__ = ("_header",)

    def __init__(self, header: Mapping[str, str]) -> None:
        self._header = header

    def __getitem__(self, name: str) -> str:
        return self._header[canonical(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)

    def __repr__(self) -> str:
        return f"Metadata({sorted(self._header)})"  # values may be credentials


class Call(NamedTuple):
    """The request being handled. ``deadline`` is a time of the event loop's clock."""

    service: str
    endpoint: str
    metadata: Mapping[str, str]
    deadline: float | None = None
    peer: str = ""
    attempt: int = 1

    def remaining(self) -> float | None:
        """Seconds left, never negative; ``None`` without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


_current: ContextVar[Call | None] = ContextVar("micro_call", default=None)


def current() -> Call:
    """The call that this code is handling. Raises LookupError outside a handler."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being handled here: current() is for handlers")
    return call


def maybe_current() -> Call | None:
    return _current.get()


@contextmanager
def detached() -> Generator[None, None, None]:
    """Calls made inside inherit neither deadline nor metadata of the request being handled."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def enter(call: Call) -> None:
    """The server's: what the task at hand handles from now on."""
    _current.set(call)


def user_metadata(header: Mapping[str, str]) -> dict[str, str]:
    """What of a message's header is metadata and not the protocol's."""
    if header.keys() <= _USUAL:  # most have none, and this is seen at once
        return {}
    return {
        name: value
        for name, value in header.items()
        if name not in _OWN and (not name.startswith(("Micro-", "X-Micro-")) or name in TRACE_KEYS)
    }
