"""A benchmark's result: as a table, as JSON, against targets."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rounds import Key, Series

_LIBRARIES = ("micro-core", "httptools", "msgspec", "uvloop", "grpcio")


@dataclass(frozen=True, slots=True)
class Target:
    """``subject`` must reach ``ratio`` times ``other`` at ``in_flight``."""

    subject: str
    other: str
    ratio: float
    in_flight: int

    def missed(self, result: Mapping[Key, Series]) -> str | None:
        """Which is missed and by what; None when it is met, or not measured."""
        one = result.get((self.subject, self.in_flight))
        other = result.get((self.other, self.in_flight))
        if one is None or other is None or (ratio := one.over(other)) >= self.ratio:
            return None
        return (
            f"missed: {self.subject} is {ratio:.2f} of {self.other} at {self.in_flight} in flight, "
            f"the target is {self.ratio:g}"
        )


def table(result: Mapping[Key, Series], floors: Mapping[str, str], peer: str) -> Iterator[str]:
    """``floors`` names each subject's floor; ``peer`` is what all are compared with, too."""
    titles = f"{'in flight':>9}  {'subject':<14}{'per second':>11}{'spread':>8}{'of floor':>10}"
    yield f"{titles}  x {peer}"
    for (name, number), series in result.items():
        yield (
            f"{number:>9}  {name:<14}{series.median:>11,.0f}{series.spread:>8.0%}"
            f"{_ratio(result, series, floors.get(name), number):>10}"
            f"{_ratio(result, series, peer if name != peer else None, number):>9}"
        )


def _ratio(result: Mapping[Key, Series], series: Series, other: str | None, number: int) -> str:
    base = result.get((other, number)) if other else None
    return "" if base is None else f"{series.over(base):.2f}"


def environment(loop: str) -> dict[str, str]:
    """``load``: processes that want a processor, at the start; others than ours spoil the rates."""
    return {
        "loop": loop,
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        **{name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def write_json(
    file: Path, environment: Mapping[str, str], result: Mapping[Key, Series], **settings: object
) -> None:
    series: Sequence[dict[str, Any]] = [
        {
            "subject": name,
            "in_flight": number,
            "median": each.median,
            "spread": each.spread,
            "rates": each.rates,
        }
        for (name, number), each in result.items()
    ]
    record = {"environment": environment, "settings": settings, "series": series}
    file.write_text(json.dumps(record, indent=1) + "\n")
