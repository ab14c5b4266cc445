"""The event loops that a benchmark runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")
LOOPS = ("asyncio", "uvloop")


def run(loop: str, main: Coroutine[None, None, T]) -> T:
    if loop == "asyncio":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
