"""Messages that are no mucp, or too much of it, into its server over memory and http."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from typing import Any

import pytest
from in_loops import in_loop, until

from micro_core import Service
from micro_core.client.base import RpcRequest
from micro_core.client.mucp import MucpClient
from micro_core.errors import EndpointNotFound, InvalidName, MicroError, SocketClosed
from micro_core.message import Message
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node
from micro_core.server.mucp import MucpServer
from micro_core.transport.base import Socket, Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport

TEXTS = (
    "", "1", "-1", "x", "9" * 30, "1e9", "٣", "EOS", "null", "{}", "[" * 5000, "a" * 5000,
    '{"code":"x","detail":[1]}', "application/json", "application/protobuf", "application/x",
    "text/html; charset=x", "s", "other", "Echo.Say", "Echo.Talk", "Echo.", ".", "Echo.__class__",
    "../../etc/passwd", "\t", "😀",
)  # fmt: skip
NAMES = (
    "Micro-Id", "Micro-Service", "Micro-Endpoint", "Micro-Method", "X-Micro-Endpoint", "Timeout",
    "Micro-Stream", "Micro-Error", "Content-Type", "Accept", "Connection", "Micro-Happened", "X",
)  # fmt: skip
BODIES = (b"", b"null", b'"hello"', b"\xff\xfe", b"[" * 10_000, b'{"a":1}', b"1" * 5000, b"\0")
GOOD = {
    "Micro-Id": "good",
    "Micro-Service": "s",
    "Micro-Endpoint": "Echo.Say",
    "Content-Type": "application/json",
}


class Echo:
    async def say(self, text: str) -> str:
        return text


def odd(dice: random.Random) -> Message:
    header = dict(GOOD) if dice.random() < 0.5 else {}
    for _ in range(dice.randint(0, 4)):
        header[dice.choice(NAMES)] = dice.choice(TEXTS)
    return Message(header, dice.choice(BODIES))


async def ask(socket: Socket) -> bytes:
    """A good call among all the answers to what was no good."""
    await socket.send(Message(dict(GOOD), b'"hello"'))
    while True:
        message = await socket.recv()
        if message.header.get("Micro-Id") == "good" and message.body == b'"hello"':
            return message.body


async def drain(socket: Socket) -> None:
    with suppress(MicroError):
        while True:
            await socket.recv()


async def garbage(transport: Transport, address: str, dice: random.Random, count: int) -> None:
    """On a connection of ten messages each; whatever is answered is read."""
    for _ in range(count // 10):
        socket = await transport.dial(address)
        reading = asyncio.create_task(drain(socket))
        with suppress(SocketClosed):
            for _ in range(10):
                with suppress(InvalidName):
                    await socket.send(odd(dice))
        await socket.close()
        await reading


async def attack(kind: type[Transport], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    seed = int(os.environ.get("MICRO_TEST_SEED", random.randrange(1 << 32)))
    print(f"MICRO_TEST_SEED={seed}")
    registry, transport = MemoryRegistry("hostile"), kind()
    service = Service("s", registry=registry, transport=kind(), broker="memory")
    service.handle(Echo())
    async with registry, transport, service:
        assert service.node is not None
        address = service.node.address
        await garbage(transport, address, random.Random(seed), 20)
        before = asyncio.all_tasks()
        await garbage(transport, address, random.Random(seed), count)
        socket = await transport.dial(address)
        assert await ask(socket) == b'"hello"'
        await socket.close()
        await until(lambda: len(asyncio.all_tasks()) <= len(before))


@pytest.mark.parametrize("kind", [MemoryTransport, HttpTransport])
@in_loop
async def test_messages_that_are_no_requests(
    kind: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await attack(kind, 2_000, monkeypatch)
    assert [r for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [MemoryTransport, HttpTransport])
def test_a_hundred_thousand_messages_that_are_no_requests(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(attack(kind, 100_000, monkeypatch))


@pytest.mark.parametrize("case", [*TEXTS, None])
@in_loop
async def test_every_odd_id_gets_its_answer(case: str | None) -> None:
    """The one who asked is answered with what it sent as its id, or with none."""

    async def dispatch(request: RpcRequest, _: Any) -> Any:
        raise EndpointNotFound(request.endpoint)

    async with MemoryTransport() as transport:
        server = MucpServer(transport=transport)
        socket = await transport.dial(await server.start("", dispatch))
        await socket.send(Message({} if case is None else {"Micro-Id": case}))
        answer = await socket.recv()
        assert answer.header.get("Micro-Id", "") == (case or "")
        assert '"code":404' in answer.header["Micro-Error"]
        await socket.close()
        await server.stop(0.0)


@pytest.mark.parametrize("text", TEXTS)
@in_loop
async def test_a_client_survives_what_a_server_may_answer(text: str) -> None:
    async def answer(socket: Socket) -> None:
        request = await socket.recv()
        header = {"Micro-Id": request.header["Micro-Id"], "Micro-Error": text}
        await socket.send(Message(header, b"x"))
        await drain(socket)

    async with MemoryTransport() as transport:
        listener = await transport.listen("", answer)
        client = MucpClient(transport=transport)
        request = RpcRequest("s", "S.S", "x/y")
        if text:
            with pytest.raises(MicroError):
                await client.call(Node("s-1", listener.address), request)
        else:
            assert (await client.call(Node("s-1", listener.address), request)).body == b"x"
        await client.close()
        await listener.close()
