"""Calls from threads."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from in_loops import in_loop, until
from network import Network

from micro_core import (
    BackendUnavailable,
    Client,
    DeadlineExceeded,
    NotFound,
    SocketClosed,
    WrongLoop,
    current,
    options,
)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")
    monkeypatch.setenv("MICRO_CLIENT_FORWARD", "tenant")


@dataclass
class Ask:
    text: str


class Leaf:
    def __init__(self) -> None:
        self.running = 0

    async def tell(self, request: Ask) -> dict[str, Any]:
        call = current()
        return {"metadata": dict(call.metadata), "remaining": call.remaining()}

    async def fail(self, request: Ask) -> Ask:
        raise NotFound(request.text)

    async def hang(self, request: Ask) -> Ask:
        self.running += 1
        try:
            await asyncio.sleep(30.0)
        finally:
            self.running -= 1
        return request


class Middle:
    """Its methods have no ``async``, so they run in threads."""

    client: Client
    error: BaseException | None = None

    def tell(self, request: Ask) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        with options(metadata={"X-Own": "1"}):
            return self.client.blocking.call("leaf", "Leaf.Tell", request, timeout=None)

    def fail(self, request: Ask) -> Ask:
        return self.client.blocking.call("leaf", "Leaf.Fail", request, Ask)

    def hang(self, request: Ask) -> Ask:
        try:
            return self.client.blocking.call("leaf", "Leaf.Hang", request, Ask, timeout=None)
        except BaseException as error:
            self.error = error
            raise

    def announce(self, request: Ask) -> Ask:
        self.client.blocking.publish("news", request, metadata={"tenant": "7"})
        return request


async def start(net: Network) -> tuple[Leaf, Middle, Client]:
    leaf, middle = Leaf(), Middle()
    await net.service("leaf", leaf)
    middle.client = (await net.service("middle", middle)).client
    return leaf, middle, await net.client()


@in_loop
async def test_a_handler_in_a_thread_calls_with_its_deadline_and_metadata() -> None:
    async with Network() as net:
        _, _, client = await start(net)
        told = await client.call(
            "middle", "Middle.Tell", Ask(""), timeout=2.0, metadata={"tenant": "7", "other": "x"}
        )
        assert told["metadata"] == {"Tenant": "7", "X-Own": "1"}
        assert 0.5 < told["remaining"] < 2.0
        with pytest.raises(NotFound, match="gone"):
            await client.call("middle", "Middle.Fail", Ask("gone"))


@in_loop
async def test_the_deadline_ends_the_call_of_the_thread() -> None:
    async with Network() as net:
        leaf, middle, client = await start(net)
        with pytest.raises(DeadlineExceeded):
            await client.call("middle", "Middle.Hang", Ask(""), timeout=0.3)
        await until(lambda: middle.error is not None and not leaf.running)
        assert isinstance(middle.error, DeadlineExceeded)


@in_loop
async def test_publishing_from_a_thread() -> None:
    async with Network() as net:
        _, _, client = await start(net)
        news: asyncio.Queue[Any] = asyncio.Queue()
        assert client._parts is not None
        broker = client._parts.broker
        async with broker:
            subscription = await broker.subscribe("news", news.put)
            await client.call("middle", "Middle.Announce", Ask("hi"))
            event = await news.get()
            await subscription.unsubscribe()
        assert event.message.body == b'{"text":"hi"}'
        assert event.message.header["Tenant"] == "7"


@in_loop
async def test_in_the_loops_own_thread_it_is_an_error_not_a_deadlock() -> None:
    async with Network() as net:
        _, _, client = await start(net)
        with pytest.raises(WrongLoop, match="await"):
            client.blocking.call("leaf", "Leaf.Tell", Ask(""))
        with pytest.raises(WrongLoop):
            client.blocking.publish("news", Ask(""))


@in_loop
async def test_a_client_that_is_not_open_or_is_closed_meanwhile() -> None:
    with pytest.raises(BackendUnavailable, match="not open"):
        Client().blocking.call("leaf", "Leaf.Tell", Ask(""))
    async with Network() as net:
        leaf, _, _ = await start(net)
        async with Client(registry=net.registry, transport="http", broker="memory") as client:
            call = asyncio.create_task(
                asyncio.to_thread(
                    client.blocking.call, "leaf", "Leaf.Hang", Ask(""), Ask, timeout=None
                )
            )
            await until(lambda: leaf.running == 1)
        with pytest.raises(SocketClosed, match="closed during"):
            await call
        with pytest.raises(BackendUnavailable, match="not open"):
            await asyncio.to_thread(client.blocking.call, "leaf", "Leaf.Tell", Ask(""))
        await until(lambda: leaf.running == 0)
