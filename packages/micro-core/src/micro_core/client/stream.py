"""A typed stream of messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from ..deadlines import Deadlines
from .base import RpcStream

T = TypeVar("T")


class Stream(Generic[T]):
    """``async with client.stream(...) as stream``: send, half close, iterate.

    Leaving the block before the end cancels the handler on the other side. The iteration ends
    with the handler and raises what the handler raised.
    """

    def __init__(
        self,
        open_: Callable[[], Awaitable[RpcStream]],
        encode: Callable[[object], bytes],
        decode: Callable[[bytes], T],
        first: object | None,
        deadlines: Deadlines,
        deadline: float | None,
    ) -> None:
        self._open = open_
        self._encode = encode
        self._decode = decode
        self._first = first
        self._deadlines = deadlines
        self._deadline = deadline
        self._stream: RpcStream

    async def __aenter__(self) -> Self:
        with self._deadlines.until(self._deadline):
            self._stream = await self._open()
        if self._first is not None:
            try:
                await self.send(self._first)
            except BaseException:
                await self._stream.close()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stream.close()

    async def send(self, message: object) -> None:
        """Raises SocketClosed once the other side has gone."""
        with self._deadlines.until(self._deadline):
            await self._stream.send(self._encode(message))

    async def end(self) -> None:
        """Half close: nothing more will be sent; receiving goes on."""
        await self._stream.end()

    async def recv(self) -> T:
        """The next message. Raises StopAsyncIteration at the end."""
        with self._deadlines.until(self._deadline):
            body = await self._stream.recv()
        return self._decode(body)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self.recv()
