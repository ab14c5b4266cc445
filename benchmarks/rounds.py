"""Rates of several subjects, measured in interleaved rounds so that they share the weather."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from statistics import median

Operation = Callable[[], Awaitable[object]]
Connect = Callable[[int], AbstractAsyncContextManager[Sequence[Operation]]]
Key = tuple[str, int]
_WARM_UP = 0.1  # of the time of a measurement


@dataclass(frozen=True, slots=True)
class Series:
    """Operations a second of one subject at one number in flight, a value for each round."""

    rates: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        return median(self.rates)

    @property
    def spread(self) -> float:
        """Highest less lowest, as a part of the median."""
        return (max(self.rates) - min(self.rates)) / self.median

    def over(self, other: Series) -> float:
        """The median of the ratios within each round."""
        return median(a / b for a, b in zip(self.rates, other.rates, strict=True))


async def measure(
    subjects: Mapping[str, Connect], in_flight: Sequence[int], rounds: int, seconds: float
) -> dict[Key, Series]:
    """Every subject at every number in flight, once a round; ``seconds`` each."""
    series = {(name, number): Series() for number in in_flight for name in subjects}
    for _ in range(rounds):
        for name, number in series:
            async with subjects[name](number) as operations:
                await _rate(operations, seconds * _WARM_UP)
                gc.collect()
                series[name, number].rates.append(await _rate(operations, seconds))
    return series


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
