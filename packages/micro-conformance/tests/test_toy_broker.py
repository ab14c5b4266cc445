"""A stranger's broker and server keep every promise, and break those that they should."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from toy_broker import Json, ToyBroker

from micro_conformance import Backend, BrokerSuite
from micro_conformance.broker import faults
from micro_conformance.promise import promises_of
from micro_core import Broker
from micro_core.broker.base import Deliveries, Delivery, SubscribeRequest

SERVER = Path(__file__).with_name("toy_broker.py")


class ToyBackend(Backend):
    """The toy's server in a process of its own."""

    def __init__(self, folder: str, port: int) -> None:
        self._log = Path(folder) / "log"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def launch(self) -> None:
        command = [sys.executable, str(SERVER), str(self._port), str(self._log)]
        self._process = subprocess.Popen(command)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()

    async def start(self) -> None:
        self.launch()
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                await writer.wait_closed()
                return

    async def kill(self) -> None:
        self.end()

    async def stop(self) -> None:
        self.end(signal.SIGTERM)

    async def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    async def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def wipe(self) -> None:
        await self.lose()
        await self.start()

    async def lose(self) -> None:
        self.end()
        self._log.unlink()


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyBackend]:
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        backend = ToyBackend(folder, port)
        asyncio.run(backend.start())
        yield backend
        backend.end()


@pytest.fixture(scope="module")
def micro_backend(toy: ToyBackend) -> Backend:
    return toy


@pytest.mark.full
class TestToy(BrokerSuite):
    server = "toy"
    messages = 1000
    patience = 15.0

    def make(self, address: str) -> Broker:
        return ToyBroker(address)


class AcksOnReceipt(ToyBroker):
    """A message is acked when it is received, and handled later."""

    def _take(self, answer: Json) -> None:
        super()._take(answer)
        if "answer" not in answer and self._writer is not None:
            ack = {"op": "ack", "request": -1, "topic": answer["topic"], "sub": answer["sub"]}
            self._writer.write(json.dumps({**ack, "number": answer["number"]}).encode() + b"\n")


class ConfirmsEarly(ToyBroker):
    """Publish returns before the server has the message."""

    async def _send(self, *message: Any) -> None:
        sending = self.__dict__.setdefault("sending", set())
        task = asyncio.create_task(self._later(super()._send(*message)))
        sending.add(task)
        task.add_done_callback(sending.discard)

    async def _later(self, send: Awaitable[None]) -> None:
        await asyncio.sleep(0.2)
        await send

    async def _close(self) -> None:
        await asyncio.gather(*self.__dict__.get("sending", ()), return_exceptions=True)
        await super()._close()


class Deaf(ToyBroker):
    """Subscriptions do not notice that the connection was lost."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        made: Any = await super()._receive(request)
        self._subscribed[made.id] = copy.copy(made)
        self._subscribed[made.id].queue = Unending(made.queue)
        return cast(Deliveries, made)


class Unending:
    def __init__(self, queue: asyncio.Queue[Any]) -> None:
        self._queue = queue

    def put_nowait(self, item: Any) -> None:
        if item is not None:
            self._queue.put_nowait(item)


class Nothing:
    """The messages of a subscription that there is not."""

    def __aiter__(self) -> Nothing:
        return self

    async def __anext__(self) -> Delivery:
        return await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None: ...


class SubscribesAnyway(ToyBroker):
    """Subscribing succeeds without the server."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        try:
            async with asyncio.timeout(1):
                return await super()._receive(request)
        except (OSError, TimeoutError):
            return Nothing()


class AsksBeforeItCloses(ToyBroker):
    """Closing waits until the server has answered once more, for as long as it takes."""

    async def close(self) -> None:
        while self.health().state in ("connected", "degraded", "lost"):
            try:
                await self.request(op="leave", topic="", sub=-1)
                break
            except OSError:
                await asyncio.sleep(0.1)
        await super().close()


class KeepsToItself(ToyBroker):
    """Each process has topics of its own."""

    async def _send(self, topic: str, *message: Any) -> None:
        await super()._send(f"{os.getpid()}.{topic}", *message)

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        return await super()._receive(replace(request, topic=f"{os.getpid()}.{request.topic}"))


class AlwaysThere(ToyBroker):
    """Connecting succeeds without the server."""

    async def _connect(self) -> None:
        with suppress(OSError):
            await super()._connect()


class OwnProcess(TestToy):
    """In the module, so that a worker finds it."""


class Careless(OwnProcess):
    def make(self, address: str) -> Broker:
        return AcksOnReceipt(address)


class Hasty(OwnProcess):
    def make(self, address: str) -> Broker:
        return ConfirmsEarly(address)


class Unaware(OwnProcess):
    def make(self, address: str) -> Broker:
        return Deaf(address)


class Pretending(OwnProcess):
    def make(self, address: str) -> Broker:
        return SubscribesAnyway(address)


class Lingering(OwnProcess):
    def make(self, address: str) -> Broker:
        return AsksBeforeItCloses(address)


class Alone(OwnProcess):
    def make(self, address: str) -> Broker:
        return KeepsToItself(address)


class Confident(OwnProcess):
    def make(self, address: str) -> Broker:
        return AlwaysThere(address)


for one in (OwnProcess, Careless, Hasty, Unaware, Pretending, Lingering, Alone, Confident):
    one.__test__ = False


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        (Careless, "test_a_killed_consumer_loses_nothing"),
        (Careless, "test_the_last_consumer_killed_loses_nothing"),
        (Hasty, "test_what_a_killed_publisher_had_confirmed_arrives"),
        (Hasty, "test_publishing_to_a_server_that_is_away"),
        (Hasty, "test_publishing_to_a_server_that_is_frozen"),
        (Unaware, "test_a_subscription_outlives_its_server"),
        (Pretending, "test_subscribing_to_a_server_that_is_away"),
        (Lingering, "test_closing_is_bounded_whatever_the_server_does"),
        (Alone, "test_processes_reach_each_other"),
        (Confident, "test_an_unreachable_server_is_a_typed_error"),
    ],
)
@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_a_faulty_one_is_noticed(
    suite: type[BrokerSuite], name: str, toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RECOVERY", 5.0)
    monkeypatch.setattr(suite, "patience", 5.0)
    [promise] = [one for one in promises_of(suite) if one.name == name]
    with pytest.raises(AssertionError):
        suite()._judge(promise, toy, {})


@pytest.mark.full
def test_a_server_that_forgets_is_noticed(toy: ToyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has nothing on disk loses queues and messages, and the figures say so."""
    monkeypatch.setattr(faults, "RECOVERY", 5.0)
    monkeypatch.setattr(ToyBackend, "kill", ToyBackend.lose)
    for promise in promises_of(TestToy):
        if promise.guarantee == "survives_server":
            figures: dict[str, Any] = {}
            with pytest.raises(AssertionError):
                TestToy()._judge(promise, toy, figures)
            assert figures.get("lost", 1) > 0
