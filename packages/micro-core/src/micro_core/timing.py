"""The clock of intervals, and closing that is not cut short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any


def now() -> float:
    """Seconds of the running event loop's clock, which a test can move; else of a monotonic one."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


async def finished(closing: Coroutine[Any, Any, None]) -> None:
    """Await ``closing``, which is bounded, to its end; a cancellation meanwhile is raised then."""
    task = asyncio.create_task(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
