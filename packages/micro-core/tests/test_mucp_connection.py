"""One connection of the mucp server: requests side by side that do not touch each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from micro_core import Service, mucp
from micro_core.client.base import RpcRequest
from micro_core.message import Message
from micro_core.registry.memory import MemoryRegistry
from micro_core.transport.base import Socket
from micro_core.transport.memory import MemoryTransport

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Handler:
    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def enter(self, request: str) -> str:
        before = tenant.get()
        tenant.set(request)
        return before

    async def enter_and_wait(self, request: str) -> str:
        before = tenant.get()
        tenant.set(request)
        await self.release.wait()
        assert tenant.get() == request
        return before

    async def enter_slowly(self, request: str) -> str:
        before = tenant.get()
        tenant.set(request)
        for _ in range(3):
            await asyncio.sleep(0)
        return before


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")


def on_one_socket(body: Callable[[Socket, Handler], Awaitable[None]]) -> None:
    async def main() -> None:
        handler = Handler()
        registry, transport = MemoryRegistry("connection"), MemoryTransport()
        service = Service("s", registry=registry, transport=MemoryTransport(), broker="memory")
        service.handle(handler)
        async with asyncio.timeout(10.0), registry, transport, service:
            assert service.node is not None
            socket = await transport.dial(service.node.address)
            await body(socket, handler)
            await socket.close()

    asyncio.run(main())


async def ask(socket: Socket, id: str, endpoint: str, text: str) -> None:
    header = mucp.request_header(RpcRequest("s", endpoint, "application/json"), id, 0.0)
    await socket.send(Message(header, f'"{text}"'.encode()))


async def answer(socket: Socket) -> tuple[str, bytes]:
    reply = await socket.recv()
    mucp.raise_error(reply.header)
    return reply.header["Micro-Id"], reply.body


def test_a_context_variable_ends_with_the_handler_that_set_it() -> None:
    async def body(socket: Socket, handler: Handler) -> None:
        for number in range(10):
            endpoint = ("Handler.Enter", "Handler.EnterSlowly")[number % 2]
            await ask(socket, str(number), endpoint, f"tenant {number}")
            assert await answer(socket) == (str(number), b'"nobody"')

    on_one_socket(body)


def test_handlers_side_by_side_have_each_their_own_context() -> None:
    async def body(socket: Socket, handler: Handler) -> None:
        for number in range(10):
            await ask(socket, str(number), "Handler.EnterAndWait", f"tenant {number}")
        await ask(socket, "last", "Handler.Enter", "x")
        assert await answer(socket) == ("last", b'"nobody"')
        handler.release.set()
        answers = [await answer(socket) for _ in range(10)]
        assert sorted(answers) == [(str(number), b'"nobody"') for number in range(10)]

    on_one_socket(body)
