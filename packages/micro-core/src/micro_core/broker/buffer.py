"""A bounded queue inside one loop that can be closed, and that loses nothing to a cancellation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Generic, TypeVar

from ..timing import Signal

T = TypeVar("T")


class Buffer(Generic[T]):
    """Items in order, to whoever has waited longest.

    A waiter gets a permit and takes its item itself, so that cancelling it takes nothing with it.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.closed = False
        self._limit = limit
        self._items: deque[T] = deque()
        self._permits = asyncio.Semaphore(0)  # one an item, and more once cleared or closed
        self._less = Signal()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        return self._limit is not None and len(self._items) >= self._limit and not self.closed

    async def room(self) -> None:
        """Until it is not full; a closed one never is."""
        await self._less.until(lambda: not self.full)

    def offer(self, item: T) -> bool:
        """Append, even beyond the limit; ``False`` once closed."""
        if self.closed:
            return False
        self._items.append(item)
        self._permits.release()
        return True

    def give_back(self, items: Collection[T]) -> None:
        """Put items in front of all others, in their order and whatever the limit."""
        self._items.extendleft(reversed(list(items)))
        for _ in items:
            self._permits.release()

    async def get(self) -> T:
        """Raises StopAsyncIteration once closed and empty."""
        await self._permits.acquire()
        while not self._items:
            if self.closed:
                self._permits.release()  # for the next one to see the end
                raise StopAsyncIteration
            await self._permits.acquire()
        self._less.set()
        return self._items.popleft()

    def close(self) -> None:
        """Take nothing more; what is in it can still be had."""
        self.closed = True
        self._less.set()
        self._permits.release()

    def clear(self) -> list[T]:
        """Empty it; returns what was in it."""
        items = list(self._items)
        self._items.clear()
        self._less.set()
        return items
