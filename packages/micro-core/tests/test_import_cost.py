"""What ``import micro_core`` costs and what it must not pull in."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

LIMIT = 0.040  # seconds of processor time above ``import asyncio``
PAIRS = 15
LATER = (
    "aiohttp",
    "argparse",
    "grpc",
    "httptools",
    "importlib.metadata",
    "kafka",
    "kazoo",
    "msgspec",
    "nats",
    "redis",
    "uvloop",
)


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def cost(code: str) -> float:
    """Processor time and not the clock's: other processes of the machine must not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.skipif(os.name != "posix", reason="getrusage is POSIX")
def test_importing_costs_at_most_40_ms_more_than_asyncio() -> None:
    python("import asyncio, micro_core")  # compiled once
    pairs = [(cost("import asyncio"), cost("import asyncio, micro_core")) for _ in range(PAIRS)]
    base, ours = (min(column) for column in zip(*pairs, strict=True))
    assert ours - base <= LIMIT, f"{1000 * (ours - base):.1f} ms: see python -X importtime"


@pytest.mark.parametrize("module", ["micro_core", "micro_core.client.client"])
def test_no_library_is_imported_before_it_is_needed(module: str) -> None:
    found = python(f"import sys, {module}; print(*sorted(set({LATER!r}) & set(sys.modules)))")
    assert found.split() == []
