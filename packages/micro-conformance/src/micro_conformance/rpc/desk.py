"""The other side of a server: answers as the endpoint says, and keeps an account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from micro_core import EndpointNotFound, MicroError
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream

Talk = Callable[[RpcStream], Awaitable[None]]


async def echo_all(stream: RpcStream) -> None:
    """Send back each message, until the caller has ended."""
    async for body in bodies(stream):
        await stream.send(body)


async def collect(stream: RpcStream) -> list[bytes]:
    return [body async for body in bodies(stream)]


class bodies:  # noqa: N801 -- reads as a function
    """The messages of a stream until its end."""

    def __init__(self, stream: RpcStream) -> None:
        self._stream = stream

    def __aiter__(self) -> bodies:
        return self

    async def __anext__(self) -> bytes:
        return await self._stream.recv()


class Desk:
    """A dispatch with the endpoints Echo, Wait, Fail and, for streams, Talk.

    Wait answers after ``release``. Fail raises ``error``. ``seen`` are all requests in the order
    of their coming, ``cancelled`` how many handlers were cancelled, ``ended`` how many are over.
    """

    def __init__(self, talk: Talk = echo_all) -> None:
        self.talk = talk
        self.seen: list[RpcRequest] = []
        self.cancelled = 0
        self.ended = 0
        self.release = asyncio.Event()
        self.error = MicroError("failed", id="desk", code=409)

    @property
    def running(self) -> int:
        return len(self.seen) - self.ended

    async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        self.seen.append(request)
        try:
            return await self._answer(request, stream)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1

    async def _answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        match request.endpoint:
            case "Desk.Talk" if stream is not None:
                await self.talk(stream)
            case "Desk.Wait":
                await self.release.wait()
            case "Desk.Fail":
                raise self.error
            case "Desk.Echo":
                pass
            case _:
                raise EndpointNotFound(f"no endpoint {request.endpoint}", id="desk")
        return RpcResponse(request.content_type, request.body)
