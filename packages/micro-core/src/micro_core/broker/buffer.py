"""A bounded queue inside one loop that can be closed, and that loses nothing to a cancellation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Buffer(Generic[T]):
    """Items in order, to whoever has waited longest.

    A waiter is woken and takes its item itself, so that cancelling it takes nothing with it.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.closed = False
        self._limit = limit
        self._items: deque[T] = deque()
        self._getters: deque[asyncio.Future[None]] = deque()
        self._less = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        return self._limit is not None and len(self._items) >= self._limit and not self.closed

    async def room(self) -> None:
        """Until it is not full; a closed one never is."""
        while self.full:
            self._less.clear()
            await self._less.wait()

    def offer(self, item: T) -> bool:
        """Append, even beyond the limit; ``False`` once closed."""
        if self.closed:
            return False
        self._items.append(item)
        self._wake()
        return True

    def give_back(self, items: Iterable[T]) -> None:
        """Put items in front of all others, in their order and whatever the limit."""
        for item in reversed(list(items)):
            self._items.appendleft(item)
            self._wake()

    async def get(self) -> T:
        """Raises StopAsyncIteration once closed and empty."""
        while not self._items:
            if self.closed:
                raise StopAsyncIteration
            await self._wait()
        self._less.set()
        return self._items.popleft()

    def close(self) -> None:
        """Take nothing more; what is in it can still be had."""
        self.closed = True
        self._less.set()
        while self._getters:
            self._wake()

    def clear(self) -> list[T]:
        """Empty it; returns what was in it."""
        items = list(self._items)
        self._items.clear()
        self._less.set()
        return items

    async def _wait(self) -> None:
        getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        try:
            await getter
        except asyncio.CancelledError:
            if getter.cancelled():
                with suppress(ValueError):
                    self._getters.remove(getter)
            elif self._items:
                self._wake()  # it was this one's turn; now it is the next one's
            raise

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
