"""Services and clients around one registry, and an event loop whose clock can be moved."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from micro_core import Client, Service
from micro_core.registry.memory import MemoryRegistry

Body = Callable[..., Awaitable[None]]


class Network:
    """``async with Network() as net``: what was made of it is closed with it."""

    def __init__(self, transport: str = "http") -> None:
        self.transport = transport
        self.registry = MemoryRegistry("network")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.registry)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def service(self, name: str, *handlers: object, **options: Any) -> Service:
        service = Service(
            name,
            registry=self.registry,
            transport=self.transport,
            broker="memory",
            ttl=1_000_000.0,  # beyond any move of the clock
            **options,
        )
        for handler in handlers:
            service.handle(handler)
        return await self._stack.enter_async_context(service)

    async def client(self, **options: Any) -> Client:
        client = Client(
            registry=self.registry, transport=self.transport, broker="memory", **options
        )
        return await self._stack.enter_async_context(client)


class MovableLoop(asyncio.SelectorEventLoop):
    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def move(seconds: float) -> None:
    """Let so much time pass at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MovableLoop)
    loop.ahead += seconds


def in_movable_loop(body: Body) -> Callable[..., None]:
    """Like ``in_loop``, on a clock that :func:`move` moves; the limit is that of pytest."""

    @functools.wraps(body)
    def test(**fixtures: object) -> None:
        async def main() -> None:
            await body(**fixtures)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=MovableLoop) as runner:
            runner.run(main())

    return test
