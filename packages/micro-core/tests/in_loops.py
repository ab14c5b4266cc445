"""Tests that are coroutines, each in an event loop of its own that must be left empty."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

Body = Callable[..., Awaitable[None]]


def in_loop(body: Body) -> Callable[..., None]:
    """Run ``body`` within 90 s, and fail if it leaves a task behind."""

    @functools.wraps(body)
    def test(**fixtures: object) -> None:
        async def main() -> None:
            async with asyncio.timeout(90):
                await body(**fixtures)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        asyncio.run(main())

    return test


async def until(condition: Callable[[], bool]) -> None:
    """Return when ``condition`` holds; fails after 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)
