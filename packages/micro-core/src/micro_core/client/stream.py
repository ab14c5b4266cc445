"""A typed stream of messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

from ..codec.set import CodecSet
from ..deadlines import Deadline, Deadlines
from .base import RpcStream

T = TypeVar("T")
Begin = Callable[["Stream[Any]", Deadline], Awaitable[Any]]


class Stream(Generic[T]):
    """``async with client.stream(...) as stream``: send, half close, iterate.

    Leaving the block before the end cancels the handler on the other side. The iteration ends
    with the handler and raises what the handler raised.
    """

    def __init__(
        self,
        begin: Begin,
        codecs: CodecSet,
        content_type: str,
        type_: Any,
        deadlines: Deadlines,
        deadline: float | None,
    ) -> None:
        self._begin = begin
        self._codecs = codecs
        self._content_type = content_type
        self._type = type_
        self._deadlines = deadlines
        self._deadline = deadline
        self._stream: RpcStream | None = None

    async def __aenter__(self) -> Self:
        try:
            with self._deadlines.until(self._deadline) as limit:
                opened: Self = await self._begin(self, limit)
        except BaseException:
            await self.close()
            raise
        return opened

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self, stream: RpcStream, first: object | None) -> Self:
        """The client's: what was opened, and the first message to send."""
        self._stream = stream
        if first is not None:
            await stream.send(self._codecs.encode(self._content_type, first))
        return self

    async def send(self, message: object) -> None:
        """Raises SocketClosed once the other side has gone."""
        with self._deadlines.until(self._deadline):
            await self._open.send(self._codecs.encode(self._content_type, message))

    async def end(self) -> None:
        """Half close: nothing more will be sent; receiving goes on."""
        await self._open.end()

    async def recv(self) -> T:
        """The next message. Raises StopAsyncIteration at the end."""
        with self._deadlines.until(self._deadline):
            body = await self._open.recv()
        message: T = self._codecs.decode(self._content_type, self._type, body)
        return message

    async def close(self) -> None:
        """What leaving the block does. Idempotent."""
        if self._stream is not None:
            await self._stream.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self.recv()

    @property
    def _open(self) -> RpcStream:
        if self._stream is None:
            raise RuntimeError("use 'async with client.stream(...) as stream' first")
        return self._stream
