"""Rates of several subjects, measured in interleaved rounds so that they share the weather."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Measure = Callable[[int, float], Awaitable[float]]  # number in flight, seconds -> rate
Key = tuple[str, int]


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


async def interleave(
    subjects: Mapping[str, Measure], in_flight: Sequence[int], rounds: int, seconds: float
) -> dict[Key, Series]:
    """Every subject at every number in flight, once a round; ``seconds`` each."""
    series = {(name, number): Series() for number in in_flight for name in subjects}
    for _ in range(rounds):
        for (name, number), each in series.items():
            each.rates.append(await subjects[name](number, seconds))
    return series
