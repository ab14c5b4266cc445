"""Processes of a service script, and a load of calls that runs while they come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from micro_core import Client, MicroError

WORKER = Path(__file__).parent / "data" / "worker.py"


class NodeProcess:
    """One process of the worker; it is started when its start line has been read."""

    def __init__(self, flags: list[str], environ: Mapping[str, str]) -> None:
        self._flags = flags
        self._environ = dict(environ)
        self.log: list[str] = []
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]
        self._started = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            *self._flags,
            env={**os.environ, **self._environ},
            stderr=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(30.0):
            await self._started.wait()
        assert self._process.returncode is None, "".join(self.log)
        return self

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode())
            if b" started as " in line:
                self._started.set()
        self._started.set()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the process to end."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(30.0):
            code = await self._process.wait()
            await self._reader
        return code


class Nodes:
    """Starts processes; whatever still runs at the end is killed."""

    def __init__(self, flags: list[str], environ: Mapping[str, str]) -> None:
        self._flags = flags
        self._environ = environ
        self._all: list[NodeProcess] = []

    async def start(self) -> NodeProcess:
        node = NodeProcess(self._flags, self._environ)
        self._all.append(node)
        return await node.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self._all:
            if hasattr(node, "_process"):
                await node.end(signal.SIGKILL)


class Load:
    """Callers that go on until they are stopped, and an account of every call."""

    def __init__(self, client: Client, service: str, callers: int = 16, pause: float = 0.0) -> None:
        self._client = client
        self._service = service
        self._callers = callers
        self._pause = pause
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.answered: Counter[int] = Counter()
        self.failed: list[str] = []
        self.slowest = 0.0

    @property
    def calls(self) -> int:
        return self.answered.total() + len(self.failed)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(n)) for n in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def reach(self, calls: int) -> None:
        """Wait until so many calls have been made in all."""
        while self.calls < calls:
            await asyncio.sleep(0.01)

    async def _call(self, number: int) -> None:
        while not self._stopping:
            begin = time.monotonic()
            try:
                done = await self._client.call(self._service, "Worker.Work", {"number": number})
            except MicroError as error:
                self.failed.append(f"{time.monotonic():.3f} {error!r}")
            else:
                assert done["number"] == number
                self.answered[done["pid"]] += 1
            self.slowest = max(self.slowest, time.monotonic() - begin)
            if self._pause:
                await asyncio.sleep(self._pause)
