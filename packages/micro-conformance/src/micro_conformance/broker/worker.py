"""A publisher or consumer in a process of its own: ``python -m micro_conformance.broker.worker``.

Its argument is a :class:`Job` as JSON. It prints a line once it works, writes its ledger as it
goes, a line a message, and ends well when its standard input does.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from micro_core import Broker, Event

from .ledger import outcome_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker does, and how it makes the plugin: by the suite's subclass of its author.

    choice: the plugin as ``kind:name``, for a subclass that the command line has made.
    """

    module: str
    file: str
    suite: str
    choice: str
    address: str
    ledger: str
    topic: str
    queue: str | None = None
    role: str = "consume"
    count: int = 0
    prefix: str = ""
    prefetch: int = 20

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def make(self) -> Broker:
        if self.module == "micro_conformance.chosen":
            from .. import chosen  # which knows all suites, and so this package too

            chosen.choose([self.choice], "")
        found: Any = _module(self.module, self.file)
        for part in self.suite.split("."):
            found = getattr(found, part)
        broker: Broker = found().make(self.address)
        return broker


def _module(name: str, file: str) -> ModuleType:
    """By name, or else from its file: test files are often no modules that can be imported."""
    try:
        return importlib.import_module(name)
    except ImportError:
        spec = importlib.util.spec_from_file_location("micro_conformance_subject", file)
        if spec is None or spec.loader is None:
            raise
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class Lines:
    """A file to which each line is appended with one write, so that a kill cuts none in two."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, text: str) -> None:
        os.write(self._file, text.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


async def work(job: Job) -> None:
    lines = Lines(job.ledger)
    try:
        async with job.make() as broker, _parent() as gone:
            if job.role == "publish":
                await _publish(broker, job, lines, gone)
            else:
                await _consume(broker, job, lines, gone)
    finally:
        lines.close()


async def _consume(broker: Broker, job: Job, lines: Lines, gone: asyncio.Event) -> None:
    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        lines.write(event.message.body.decode())

    subscription = await broker.subscribe(job.topic, handle, queue=job.queue, prefetch=job.prefetch)
    _say("works")
    await gone.wait()
    await subscription.drain(5)


async def _publish(broker: Broker, job: Job, lines: Lines, gone: asyncio.Event) -> None:
    _say("works")
    for number in range(job.count):
        if gone.is_set():
            return
        body = f"{job.prefix}{number:05}"
        lines.write(f"{await outcome_of(broker, job.topic, body.encode())} {body}")
    _say("done")


@asynccontextmanager
async def _parent() -> AsyncIterator[asyncio.Event]:
    """Set when standard input ends, as it does with the process that started this one."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            gone.set()

    loop.add_reader(0, read)
    try:
        yield gone
    finally:
        loop.remove_reader(0)


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


if __name__ == "__main__":
    asyncio.run(work(Job(**json.loads(sys.argv[1]))))
