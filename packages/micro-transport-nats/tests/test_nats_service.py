"""Services over NATS: other processes, streams, a stop under load."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats as native
import pytest
from in_loops import in_loop, until
from scripts import Script, environment, finish

from micro_core import Client, NotFound, Service
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry
from micro_transport_nats import NatsTransport

ROOT = Path(__file__).parents[3]
SERVICE = """
import asyncio
from collections.abc import AsyncIterator
from micro_core import Service

class Say:
    async def hello(self, request: dict[str, str]) -> dict[str, str]:
        return {"greeting": "Hello " + request["name"]}

    async def slow(self, request: dict[str, str]) -> dict[str, str]:
        print("handling", flush=True)
        await asyncio.sleep(1)
        return {"greeting": "slow " + request["name"]}

    async def count(self, request: int) -> AsyncIterator[int]:
        for number in range(request):
            yield number

    async def add(self, requests: AsyncIterator[int]) -> int:
        return sum([number async for number in requests])

    async def twice(self, requests: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in requests:
            yield 2 * number

service = Service("over-nats")
service.handle(Say())
if __name__ == "__main__":
    service.run()
"""


@pytest.fixture
def nats(server_address: Any) -> str:
    return str(server_address("nats"))


@pytest.fixture
def script(nats: str, tmp_path: Path) -> Iterator[Script]:
    (tmp_path / "over_nats.py").write_text(SERVICE)
    flags = ["--registry=local", "--transport=nats", f"--transport_address={nats}"]
    command = [sys.executable, "over_nats.py", *flags]
    with Script(command, environment(tmp_path), tmp_path) as running:
        running.line("started")
        yield running


def client_of(tmp_path: Path, nats: str) -> Client:
    registry = LocalRegistry(str(tmp_path / "micro"))
    return Client(registry=registry, transport=NatsTransport(nats))


def test_the_greeter_runs_in_three_processes(nats: str, tmp_path: Path) -> None:
    flags = ["--registry=local", "--transport=nats", f"--transport_address={nats}"]
    command = [sys.executable, str(ROOT / "examples/greeter/demo.py"), *flags]
    result = finish(command, environment(tmp_path), tmp_path, patience=60).ended_well()
    assert "Hello John" in result.out
    assert "transport nats" in result.out


def test_every_kind_of_call_across_processes(nats: str, tmp_path: Path, script: Script) -> None:
    @in_loop
    async def body() -> None:
        async with client_of(tmp_path, nats) as client:
            reply = await client.call("over-nats", "Say.Hello", {"name": "Жанна"})
            assert reply == {"greeting": "Hello Жанна"}
            with pytest.raises(NotFound):
                await client.call("over-nats", "Say.Nothing", {})
            async with client.stream("over-nats", "Say.Count", 500, response=int) as numbers:
                assert [n async for n in numbers] == list(range(500))
            async with client.stream("over-nats", "Say.Add", response=int) as adding:
                for number in range(100):
                    await adding.send(number)
                await adding.end()
                assert [n async for n in adding] == [4950]
            async with client.stream("over-nats", "Say.Twice", response=int) as twice:
                for number in range(100):
                    await twice.send(number)
                    assert await twice.recv() == 2 * number
                await twice.end()

    body()
    assert script.stop() == 0


def test_a_stop_finishes_what_runs(nats: str, tmp_path: Path, script: Script) -> None:
    @in_loop
    async def body() -> None:
        async with client_of(tmp_path, nats) as client:
            asking = [client.call("over-nats", "Say.Slow", {"name": str(n)}) for n in range(10)]
            running = asyncio.gather(*asking)
            await asyncio.to_thread(script.line, "handling")
            await until(lambda: sum("handling" in line for line in script.lines) == 10)
            script.send(signal.SIGTERM)
            assert await running == [{"greeting": f"slow {n}"} for n in range(10)]

    body()
    assert script.wait() == 0


@in_loop
async def test_a_stream_that_is_left_cancels_its_handler(nats: str) -> None:
    cancelled = asyncio.Event()

    class Say:
        async def tick(self, requests: AsyncIterator[int]) -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    registry = MemoryRegistry("left")
    service = Service("ticking", transport=NatsTransport(nats), registry=registry)
    service.handle(Say())
    async with service, Client(registry=registry, transport=NatsTransport(nats)) as client:
        async with client.stream("ticking", "Say.Tick", response=int) as ticks:
            assert await ticks.recv() == 1
        async with asyncio.timeout(5):
            await cancelled.wait()


# -- what Go Micro writes and reads ----------------------------------------------------------


class Hello:
    async def hello(self, request: dict[str, Any]) -> dict[str, str]:
        return {"greeting": "Hello " + request["name"]}


@in_loop
async def test_a_request_as_go_writes_it_is_answered_as_go_reads_it(nats: str) -> None:
    """By a client of its own, with an inbox of two parts that cannot be asked whether it lives."""
    service = Service(
        "go.nt", transport=NatsTransport(nats, ping_interval=0.1), registry=MemoryRegistry()
    )
    service.handle(Hello(), name="Say")
    async with service:
        assert service.node is not None
        client = await native.connect(nats)
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            for _ in range(2):  # of one connection, as its pool does
                await client.publish(service.node.address, CAPTURED, reply=inbox)
                answer = await answers.next_msg(5)
                found = json.loads(answer.data)
                assert set(found) == {"Header", "Body"}
                assert found["Header"]["Micro-Id"] == "0"
                assert found["Header"]["Content-Type"] == "application/json"
                assert found["Body"] == "eyJncmVldGluZyI6IkhlbGxvIEpvaG4ifQ=="
            await asyncio.sleep(0.4)
            with pytest.raises(native.errors.TimeoutError):  # and nothing that it did not ask for
                await answers.next_msg(0.1)
        finally:
            await client.close()


CAPTURED = (
    b'{"Header":{"Accept":"application/json","Content-Type":"application/json",'
    b'"Micro-Endpoint":"Say.Hello","Micro-Id":"0","Micro-Method":"Say.Hello",'
    b'"Micro-Service":"go.nt","Timeout":"5000000000"},'
    b'"Body":"eyJuYW1lIjoiSm9obiIsImNvdW50IjowfQo="}'
)


@in_loop
async def test_a_listener_as_go_writes_it_is_called(nats: str) -> None:
    """It answers to the reply subject, without one of its own, and with nulls where Go has them."""
    server = await native.connect(nats)
    seen: list[Any] = []

    async def answer(message: Any) -> None:
        seen.append(json.loads(message.data))
        await server.publish(message.reply, b'{"Header":{"Micro-Id":"0"},"Body":null}')

    address = server.new_inbox()
    await server.subscribe(address, cb=answer)
    await server.flush()
    try:
        async with NatsTransport(nats) as transport:
            from micro_core import Message

            socket = await transport.dial(address + ":0")  # as Go's watchers have it
            await socket.send(Message({"micro-id": "0"}, b'{"name":"John"}\n'))
            assert await socket.recv() == Message({"Micro-Id": "0"}, b"")
        assert seen == [{"Header": {"Micro-Id": "0"}, "Body": "eyJuYW1lIjoiSm9obiJ9Cg=="}]
    finally:
        await server.close()


@in_loop
async def test_garbage_ends_its_socket_and_nothing_else(nats: str) -> None:
    service = Service("careful", transport=NatsTransport(nats), registry=MemoryRegistry())
    service.handle(Hello(), name="Say")
    async with service:
        assert service.node is not None
        client = await native.connect(nats)
        try:
            for data in (b"\xff", b"{", b"[]", b'{"Header":1}', b'{"Body":"*"}', b"[" * 100_000):
                inbox = client.new_inbox()
                answers = await client.subscribe(inbox)
                await client.publish(service.node.address, data, reply=inbox)
                assert (await answers.next_msg(5)).data == b""
            await client.publish(service.node.address, CAPTURED)  # no way to answer
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            await client.publish(service.node.address, CAPTURED, reply=inbox)
            assert b"Micro-Id" in (await answers.next_msg(5)).data
        finally:
            await client.close()
