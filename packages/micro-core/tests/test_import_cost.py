"""What ``import micro_core`` costs and what it must not pull in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = 15
MEASURE = """
import time
begin = time.process_time()
import asyncio
middle = time.process_time()
import micro_core
print(middle - begin, time.process_time() - middle)
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


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    ).stdout


def test_importing_costs_less_than_importing_asyncio(
    record_property: pytest.RecordProperty, tmp_path: Path
) -> None:
    """Processor time, and the least of many runs: what else the machine does must not count.

    Compiled, as an installed package is: a checkout may not be, or not be writable. The aim is
    40 ms; a ratio holds on slower machines, too.
    """
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    runs = [tuple(map(float, python(MEASURE, **compiled).split())) for _ in range(RUNS)]
    asyncio, micro_core = (min(column) for column in zip(*runs, strict=True))
    print(f"import micro_core: {1000 * micro_core:.1f} ms above asyncio's {1000 * asyncio:.1f}")
    record_property("milliseconds", 1000 * micro_core)
    assert micro_core < asyncio, "see python -X importtime"


@pytest.mark.parametrize("module", ["micro_core", "micro_core.client.client"])
def test_no_library_is_imported_before_it_is_needed(module: str) -> None:
    found = python(f"import sys, {module}; print(*sorted(set({LATER!r}) & set(sys.modules)))")
    assert found.split() == []
