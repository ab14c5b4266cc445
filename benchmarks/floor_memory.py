"""The floor of RPC inside a process: two coroutines hand over typed JSON, and nothing else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from floor_http import Reply, Request

_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(Request).decode
_reply = msgspec.json.Decoder(Reply).decode


class Pipe:
    """One direction, one reader."""

    def __init__(self) -> None:
        self._bodies: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, body: bytes) -> None:
        self._bodies.append(body)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set_result(None)

    async def get(self) -> bytes:
        while not self._bodies:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._bodies.popleft()


class Pair:
    """A caller and the coroutine that answers it."""

    def __init__(self) -> None:
        self._requests = Pipe()
        self._replies = Pipe()

    async def serve(self) -> None:
        while True:
            request = _request(await self._requests.get())
            self._replies.put(_encode(Reply(f"Hello {request.name}")))

    async def call(self, request: Request) -> Reply:
        self._requests.put(_encode(request))
        return _reply(await self._replies.get())


@asynccontextmanager
async def pairs(number: int) -> AsyncIterator[list[Pair]]:
    made = [Pair() for _ in range(number)]
    tasks = [asyncio.create_task(pair.serve()) for pair in made]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
