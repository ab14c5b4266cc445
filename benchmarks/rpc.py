"""Calls per second at several numbers in flight: micro-core, its floors, and grpc.aio.

Client and server are two processes, but for memory and its floor. What counts are the ratios
within one run: the subjects take turns in every round.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from loops import LOOPS, run
from report import Target, environment, table, write_json
from rounds import Connect, Key, Series, measure
from servers import started
from subjects import SUBJECTS

FLOORS = {"micro-http": "floor-http", "micro-memory": "floor-memory"}
PEER = "grpc.aio"
TARGETS = (
    Target("micro-http", "floor-http", 0.5, 32),
    Target("micro-http", PEER, 4.0, 32),
    Target("micro-memory", "floor-memory", 0.6, 32),
    Target("micro-memory", "micro-http", 1.0, 32),
)


async def bench(options: argparse.Namespace) -> dict[Key, Series]:
    async with AsyncExitStack() as stack:
        connects: dict[str, Connect] = {}
        for name in options.subjects:
            subject, address = SUBJECTS[name], ""
            if options.loop not in subject.loops:
                continue
            if subject.serve is not None:
                address = await stack.enter_async_context(started(name, options.loop))
            connects[name] = functools.partial(subject.connect, address)
        return await measure(connects, options.in_flight, options.rounds, options.seconds)


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
    result = run(options.loop, bench(options))
    report(options, facts, result)
    missed = list(filter(None, (target.missed(result) for target in TARGETS)))
    print(*missed, sep="\n", end="\n" if missed else "")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
