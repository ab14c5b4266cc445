"""One server in a process of its own: as a script it is that process, imported it starts them.

The process prints its address and serves until its standard input ends, so it ends with its
parent whatever happens to that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loops import LOOPS, run
from subjects import SUBJECTS

START = STOP = 10.0  # seconds


@asynccontextmanager
async def started(subject: str, loop: str) -> AsyncIterator[str]:
    """The address of ``subject``'s server, which runs until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__)), subject, "--loop", loop),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MICRO_DRAIN_DELAY": "0"},
    )
    try:
        yield await _address(process, subject)
    finally:
        await _stop(process)


async def _address(process: asyncio.subprocess.Process, subject: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(START):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server of {subject} did not start: its error is above")
    return line.decode().strip()


async def _stop(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def serve(subject: str) -> None:
    context = SUBJECTS[subject].serve
    assert context is not None
    async with context() as address:
        print(address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=[n for n, s in SUBJECTS.items() if s.serve])
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    options = parser.parse_args()
    run(options.loop, serve(options.subject))


if __name__ == "__main__":
    main()
