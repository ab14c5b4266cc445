"""The loops that promises are tried in."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class JumpingLoop(asyncio.SelectorEventLoop):
    """Never waits for a timer: when nothing else is to be done, its clock jumps to the next one.

    For plugins that live in the process and use no threads; a minute of backoff takes no time.
    """

    def __init__(self) -> None:
        self._jumped = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return super().time() + self._jumped

    def jump(self, seconds: float) -> None:
        self._jumped += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0 if timeout else timeout)
        if timeout and not found:
            self._loop.jump(timeout)
        return found


def run(main: Coroutine[Any, Any, T], *, jumping: bool = False) -> T:
    """Run ``main`` in a new loop, which is closed after it with all that it left."""
    with asyncio.Runner(loop_factory=JumpingLoop if jumping else None) as runner:
        return runner.run(main)
