"""What publishers and consumers of several processes can rely on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from micro_core import Broker

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, numbered
from .ledger import Ledger
from .worker import Job

START = 30.0  # seconds in which an interpreter has to have imported everything and connected


class Worker:
    """A child process and what it has written to its ledger."""

    def __init__(self, process: asyncio.subprocess.Process, ledger: Path) -> None:
        self._process = process
        self._ledger = ledger

    @property
    def lines(self) -> list[str]:
        text = self._ledger.read_text() if self._ledger.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def bodies(self) -> list[bytes]:
        return [line.encode() for line in self.lines]

    async def says(self, word: str, within: float = START) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        assert line.decode().strip() == word, "the worker broke; its error is above"

    async def kill(self) -> None:
        """With SIGKILL; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._release()

    async def finish(self) -> None:
        """Let it close its broker; what does not end is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                await self._process.wait()
        await self.kill()

    def _release(self) -> None:
        process: Any = self._process
        process._transport.close()  # its pipes, which wait for the loop's next turns otherwise


class Processes(Suite[Broker]):
    """messages: how many are published."""

    messages: ClassVar[int] = 10_000

    @asynccontextmanager
    async def _worker(self, lab: BrokerLab, topic: str, **job: Any) -> AsyncIterator[Worker]:
        cls = type(self)
        with tempfile.TemporaryDirectory() as folder:
            ledger = Path(folder) / "ledger"
            process = await _spawn(
                Job(
                    module=cls.__module__,
                    file=sys.modules[cls.__module__].__file__ or "",
                    suite=cls.__qualname__,
                    choice=f"{self.kind}:{self.make(lab.address).name}",
                    address=lab.address,
                    ledger=str(ledger),
                    topic=topic,
                    **job,
                )
            )
            worker = Worker(process, ledger)
            try:
                await worker.says("works")
                yield worker
            finally:
                await worker.finish()

    @promise(processes=True, timeout=120)
    async def test_processes_reach_each_other(self, lab: BrokerLab) -> None:
        """What one process publishes subscribers in two others get, in order and once."""
        broker, topic = await lab.new(), lab.topic()
        async with self._worker(lab, topic) as one, self._worker(lab, topic) as two:
            await lab.publish(broker, topic, numbered(200))
            for worker in (one, two):
                await lab.eventually(
                    lambda worker=worker: len(worker.lines) >= 200,  # type: ignore[misc]
                    "200 messages are handled",
                    within=START,
                )
                assert sorted(worker.bodies) == numbered(200)
                if lab.features.ordered:
                    assert worker.bodies == numbered(200)

    @promise(processes=True, ability="queue", guarantee="at_least_once", timeout=300)
    async def test_a_killed_consumer_loses_nothing(self, lab: BrokerLab) -> None:
        """Of two consumers one is killed with kill -9: what it had and had not acked, another gets.

        Every confirmed message is handled.
        """
        broker, topic, ledger = await lab.new(), lab.topic(), Ledger()
        async with (
            self._worker(lab, topic, queue="q") as killed,
            self._worker(lab, topic, queue="q") as staying,
        ):
            async with asyncio.TaskGroup() as both:
                both.create_task(self._publish(broker, topic, ledger))
                await lab.eventually(lambda: len(killed.lines) >= 20, "it is at work", within=60)
                await killed.kill()
            await self._account(lab, ledger, [killed, staying])

    @promise(processes=True, ability="queue", guarantee="at_least_once", timeout=300)
    async def test_the_last_consumer_killed_loses_nothing(self, lab: BrokerLab) -> None:
        """A queue's only consumer is killed with kill -9: one that comes later gets the rest."""
        broker, topic, ledger = await lab.new(), lab.topic(), Ledger()
        async with self._worker(lab, topic, queue="q") as killed:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._publish(broker, topic, ledger))
                await lab.eventually(lambda: len(killed.lines) >= 20, "it is at work", within=60)
                await killed.kill()
            async with self._worker(lab, topic, queue="q") as later:
                await self._account(lab, ledger, [killed, later])

    @promise(processes=True, ability="queue", guarantee="at_least_once", timeout=300)
    async def test_what_a_killed_publisher_had_confirmed_arrives(self, lab: BrokerLab) -> None:
        """What a publisher had confirmed before it was killed with kill -9 is handled."""
        topic, ledger = lab.topic(), Ledger()
        sink = await lab.listen(await lab.new(), topic, queue="q")
        async with self._worker(lab, topic, role="publish", count=self.messages) as publisher:
            await lab.eventually(lambda: len(publisher.lines) >= 50, "it is at work", within=60)
            await publisher.kill()
            for line in publisher.lines:
                outcome, _, body = line.partition(" ")
                getattr(ledger, outcome).append(body.encode())
        await lab.eventually(lambda: not ledger.lost(sink.bodies), "nothing is lost")
        lab.figures |= ledger.figures(sink.bodies)

    async def _publish(self, broker: Broker, topic: str, ledger: Ledger) -> None:
        """From ten publishers, a tenth each; what fails is noted and not tried again."""

        async def publish(bodies: Sequence[bytes]) -> None:
            for body in bodies:
                await ledger.publish(broker, topic, body)

        bodies = numbered(self.messages)
        await asyncio.gather(*[publish(bodies[n::10]) for n in range(10)])

    async def _account(self, lab: BrokerLab, ledger: Ledger, workers: Sequence[Worker]) -> None:
        def handled() -> list[bytes]:
            return [body for worker in workers for body in worker.bodies]

        try:
            await lab.eventually(
                lambda: not ledger.lost(handled()), "nothing is lost", within=3 * self.patience
            )
        finally:
            lab.figures |= ledger.figures(handled())


async def _spawn(job: Job) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "micro_conformance.broker.worker",
        job.to_json(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
