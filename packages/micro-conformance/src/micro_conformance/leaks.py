"""What a plugin leaves behind: tasks, threads, descriptors."""

from __future__ import annotations

import asyncio
import os
import threading
import time

PATIENCE = 5.0  # real seconds for a thread or a connection that has been told to end


class Leaks:
    """Taken before a plugin is made; :meth:`check` after it was closed."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()

    async def check(self) -> None:
        """Raises AssertionError that names what is left and was not there before."""
        end = time.monotonic() + PATIENCE
        while (left := self._left()) and time.monotonic() < end:
            await asyncio.sleep(0)
            time.sleep(0.001)  # noqa: ASYNC251 -- the loop's own clock may be a jumping one
        assert not left, f"left behind after close(): {left}"

    def _left(self) -> list[str]:
        tasks = asyncio.all_tasks() - self._tasks
        threads = set(threading.enumerate()) - self._threads
        pooled = {t for t in threads if t.name.startswith("asyncio_")}  # the loop's own
        return [
            *(f"task {task.get_name()}" for task in tasks),
            *(f"thread {thread.name}" for thread in threads - pooled),
            *(f"descriptor {number} {what}" for number, what in self._opened().items()),
        ]

    def _opened(self) -> dict[int, str]:
        before = self._descriptors
        return {n: what for n, what in _descriptors().items() if before.get(n) != what}


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one of the listing itself
            continue
    return found
