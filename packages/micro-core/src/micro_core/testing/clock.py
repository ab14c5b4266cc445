"""A clock that a test moves: hours of timeouts, heartbeats and backoff in moments."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

_MOMENT = 0.001  # seconds of real time without work after which what a timer began has settled
_LIMIT = 1.0  # seconds of real time that one timer's work is waited for


class Clock:
    """The time of the running event loop. It also goes on by itself, as real time does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        if not isinstance(loop, asyncio.BaseEventLoop):
            raise RuntimeError(
                f"the clock of {type(loop).__module__} cannot be moved: "
                "run this test on asyncio's own loop, with asyncio.run"
            )
        inside = cast(Any, loop)
        self._loop = inside
        self._real = loop.time
        self._moved = 0.0
        self._before = getattr(inside, "moved", 0.0)
        inside.time = self.time

    def time(self) -> float:
        """Seconds, as the loop's ``time()`` tells them."""
        return self._real() + self._moved

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: what becomes due runs in order, each at its time.

        In between, tasks run until they wait, and sockets are served. What takes longer than a
        moment of real time, in a thread or another process, sees the time pass meanwhile.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a clock cannot be advanced by {seconds} seconds")
        end = self.time() + seconds
        await self._settle()
        while (due := self._next_timer()) <= end:
            self._move_to(due)
            await self._settle()
        self._move_to(end)
        await self._settle()

    def _next_timer(self) -> float:
        timers: list[asyncio.TimerHandle] = self._loop._scheduled
        live = (timer.when() for timer in timers if not timer.cancelled())
        return min(live, default=float("inf"))

    def _move_to(self, when: float) -> None:
        self._moved += max(0.0, when - self.time())
        self._loop.moved = self._before + self._moved

    async def _settle(self) -> None:
        """Until the loop has had nothing to do for a moment."""
        ready: deque[object] = self._loop._ready
        begin = busy = time.monotonic()
        while (now := time.monotonic()) - busy < _MOMENT and now - begin < _LIMIT:
            await asyncio.sleep(0)
            if ready:  # somebody else runs after us
                busy = time.monotonic()


@asynccontextmanager
async def clock() -> AsyncGenerator[Clock, None]:
    """Makes the running loop's clock one that can be moved.

    Timeouts, TTLs, backoff, ejections and deadlines follow, as they are measured by the loop, and
    so does an ``asyncio.timeout`` around the test itself; ``time.time()`` and
    ``time.monotonic()`` do not. At the end time goes on from where it is: a loop's clock never
    goes back. Raises RuntimeError on uvloop, whose clock cannot be moved.
    """
    yield Clock(asyncio.get_running_loop())
