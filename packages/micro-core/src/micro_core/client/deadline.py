"""Deadlines of calls: times of the event loop's clock."""

from __future__ import annotations

import asyncio

from ..context import maybe_current


def deadline_for(timeout: float | None) -> float | None:
    """The earlier of ``timeout`` seconds from now and the deadline of the call being handled."""
    call = maybe_current()
    inherited = call.deadline if call is not None else None
    if timeout is None:
        return inherited
    own = asyncio.get_running_loop().time() + timeout
    return own if inherited is None else min(own, inherited)
