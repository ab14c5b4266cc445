"""The processes of a benchmark: servers and callers, each alone in one.

As a script it is such a process: it prints an address, or a rate for every line with a number in
flight and seconds. It ends when its standard input does, and so with its parent. Each caller has
a process of its own because what one does to the heap changes the rates of the next: asyncio
reads into 256 KiB, which glibc may or may not have to map and unmap each time.
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
from rates import rate
from subjects import SUBJECTS

START = STOP = 10.0  # seconds


class Worker:
    """The parent's side."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._process = process
        self._name = name

    async def measure(self, in_flight: int, seconds: float) -> float:
        self._stdin.write(f"{in_flight} {seconds}\n".encode())
        return float(await self.line(START + 2 * seconds))

    async def line(self, timeout: float) -> str:
        async with asyncio.timeout(timeout):
            line = await self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended: its error is above")
        return line.decode().strip()

    async def stop(self) -> None:
        self._stdin.close()
        try:
            async with asyncio.timeout(STOP):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def server(subject: str, loop: str) -> AsyncIterator[str]:
    """The address of a server that runs until the block ends; ``""`` if it needs none."""
    if SUBJECTS[subject].serve is None:
        yield ""
        return
    async with _worker("serve", subject, loop) as worker:
        yield await worker.line(START)


@asynccontextmanager
async def caller(subject: str, loop: str, address: str) -> AsyncIterator[Worker]:
    async with _worker("call", subject, loop, address) as worker:
        yield worker


@asynccontextmanager
async def _worker(role: str, subject: str, loop: str, address: str = "") -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__)), role, subject, loop, address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MICRO_DRAIN_DELAY": "0"},
    )
    worker = Worker(process, f"{role} {subject}")
    try:
        yield worker
    finally:
        await worker.stop()


# -- in the process ------------------------------------------------------------------------------


async def serve(subject: str) -> None:
    context = SUBJECTS[subject].serve
    assert context is not None
    async with context() as address:
        print(address, flush=True)
        while await _read_line():
            pass


async def call(subject: str, address: str) -> None:
    while line := await _read_line():
        in_flight, seconds = line.split()
        async with SUBJECTS[subject].connect(address, int(in_flight)) as operations:
            print(await rate(operations, float(seconds)), flush=True)


async def _read_line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "call"])
    parser.add_argument("subject", choices=list(SUBJECTS))
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("address")
    options = parser.parse_args()
    serving = options.role == "serve"
    run(
        options.loop,
        serve(options.subject) if serving else call(options.subject, options.address),
    )


if __name__ == "__main__":
    main()
