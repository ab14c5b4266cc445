"""How many operations a second, so many at a time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence

Operation = Callable[[], Awaitable[object]]
_WARM_UP = 0.1  # of the time of a measurement


async def rate(operations: Sequence[Operation], seconds: float) -> float:
    """Repeat each operation, one after the other, all side by side."""
    await _rate(operations, seconds * _WARM_UP)
    gc.collect()
    return await _rate(operations, seconds)


async def _rate(operations: Sequence[Operation], seconds: float) -> float:
    done = 0
    begin = time.perf_counter()
    end = begin + seconds

    async def repeat(operation: Operation) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await operation()
            done += 1

    async with asyncio.TaskGroup() as group:
        for operation in operations:
            group.create_task(repeat(operation))
    return done / (time.perf_counter() - begin)
