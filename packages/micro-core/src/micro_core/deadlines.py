"""Many deadlines under one timer."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from .errors import DeadlineExceeded

_GRAIN = 0.01  # seconds from one look to the next, and so the most by which a deadline is late
_NEVER = float("inf")


class Deadlines:
    """The deadlines of what is in flight, on the event loop's clock.

    Nearly every deadline is left before it passes. So entering one adds it to a set, and moves
    the timer only where that is set for later; the timer looks who is still there. With
    ``asyncio.timeout``, which makes and cancels a timer each, it cost 4 us a call on either side
    where this costs 1 us.
    """

    def __init__(self) -> None:
        self.active: set[Deadline] = set()
        self.next_look = _NEVER
        self._earliest_look = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def until(self, when: float | None) -> Deadline:
        """``with deadlines.until(when):`` raises DeadlineExceeded when ``when`` passes inside.

        To be entered once, by a task; ``None`` is no deadline.
        """
        return Deadline(self, _NEVER if when is None else when)

    def look_at(self, when: float) -> None:
        """Set the timer, which is not set or set for later."""
        if self._timer is not None:
            self._timer.cancel()
        self.next_look = max(when, self._earliest_look)
        self._timer = asyncio.get_running_loop().call_at(self.next_look, self._look)

    def close(self) -> None:
        """Leave no timer behind, unless somebody is still inside."""
        if self._timer is not None and not self.active:
            self._timer.cancel()
            self._timer = None
            self.next_look = _NEVER

    def _look(self) -> None:
        self._timer = None
        self.next_look = _NEVER
        now = asyncio.get_running_loop().time()
        self._earliest_look = now + _GRAIN
        due = {deadline for deadline in self.active if deadline.when <= now}
        self.active -= due
        for deadline in due:
            deadline.expire()
        if self.active:
            self.look_at(min(deadline.when for deadline in self.active))


class Deadline:
    """A block of code that ends in time, one way or another. ``passed``: it was cut."""

    __slots__ = ("_cancelling", "_deadlines", "_task", "passed", "when")
    _task: asyncio.Task[object]
    _cancelling: int

    def __init__(self, deadlines: Deadlines, when: float) -> None:
        self.when = when
        self.passed = False
        self._deadlines = deadlines

    def __enter__(self) -> Self:
        if self.when == _NEVER:
            return self
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for the code of a task")
        self._task = task
        self._cancelling = task.cancelling()
        deadlines = self._deadlines
        deadlines.active.add(self)
        if self.when < deadlines.next_look:
            deadlines.look_at(self.when)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.active.discard(self)
        if not self.passed:
            return
        cancelled_by_others = self._task.uncancel() > self._cancelling
        if isinstance(error, asyncio.CancelledError) and not cancelled_by_others:
            raise DeadlineExceeded("the deadline has passed") from error

    def expire(self) -> None:
        self.passed = True
        self._task.cancel()
