"""The clock of intervals, waiting for a condition, and closing that is bounded and complete."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("micro.timing")


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


async def end(*tasks: asyncio.Task[Any] | None, limit: float) -> None:
    """Cancel ``tasks``, but for the current one, and wait ``limit`` seconds at most."""
    ending = [task for task in tasks if task and task is not asyncio.current_task()]
    for task in ending:
        task.cancel()
    done, late = await asyncio.wait(ending, timeout=limit) if ending else ((), ())
    for task in done:
        if not task.cancelled():
            task.exception()  # taken, so that it is not reported as lost
    for task in late:
        log.error("%s does not end: it ignores its cancellation", task.get_name())


class Signal(asyncio.Event):
    """Set whenever a condition may have come true that somebody waits for."""

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.clear()
            await self.wait()
