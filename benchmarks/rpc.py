"""Calls per second at several numbers in flight: micro-core, its floors, and grpc.aio.

Each client and each server is a process; memory and its floor have one for both. What counts are
the ratios within one run: the subjects take turns in every round. ``floor-http`` is the bare
httptools Protocol that the targets were set against; ``floor-buffered`` is the same without the
256 KiB that asyncio allocates for each of its reads, which micro-core avoids too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from loops import LOOPS
from report import Target, environment, table, write_json
from rounds import Key, Measure, Series, interleave
from subjects import SUBJECTS
from workers import caller, server

FLOORS = {"micro-http": "floor-http", "micro-memory": "floor-memory"}
PEER = "grpc.aio"
TARGETS = (
    Target("micro-http", "floor-http", 0.5, 32),
    Target("micro-http", PEER, 4.0, 32),
    Target("micro-memory", "micro-http", 1.0, 32),
)


async def bench(options: argparse.Namespace) -> dict[Key, Series]:
    names = [name for name in options.subjects if options.loop in SUBJECTS[name].loops]
    async with AsyncExitStack() as stack:
        measures: dict[str, Measure] = {}
        for name in names:
            address = await stack.enter_async_context(server(name, options.loop))
            worker = await stack.enter_async_context(caller(name, options.loop, address))
            measures[name] = worker.measure
        return await interleave(measures, options.in_flight, options.rounds, options.seconds)


def report(
    options: argparse.Namespace, facts: Mapping[str, str], result: Mapping[Key, Series]
) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"median of {options.rounds} rounds of {options.seconds:g} s")
    print(*table(result, FLOORS, PEER), sep="\n")
    if options.json is not None:
        write_json(options.json, facts, result, rounds=options.rounds, seconds=options.seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio", help="uvloop leaves out grpc")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument(
        "--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), metavar="NAME"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    facts = environment(options.loop)
    result = asyncio.run(bench(options))
    report(options, facts, result)
    missed = list(filter(None, (target.missed(result) for target in TARGETS)))
    print(*missed, sep="\n", end="\n" if missed else "")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
