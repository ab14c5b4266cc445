"""What ``import micro_core`` costs and what it must not pull in."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMIT = 0.040  # seconds of processor time above ``import asyncio``
RUNS = 15
MEASURE = """
import asyncio, time
begin = time.process_time()
import micro_core
print(time.process_time() - begin)
"""
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


def test_importing_costs_at_most_40_ms_more_than_asyncio() -> None:
    """Processor time, and the least of many runs: what else the machine does must not count."""
    seconds = min(float(python(MEASURE)) for _ in range(RUNS))
    assert seconds <= LIMIT, f"{1000 * seconds:.1f} ms: see python -X importtime"


@pytest.mark.parametrize("module", ["micro_core", "micro_core.client.client"])
def test_no_library_is_imported_before_it_is_needed(module: str) -> None:
    found = python(f"import sys, {module}; print(*sorted(set({LATER!r}) & set(sys.modules)))")
    assert found.split() == []
