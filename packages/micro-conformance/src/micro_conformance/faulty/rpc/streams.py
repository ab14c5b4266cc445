"""Streams that lose, swap, hold back or never end."""

from __future__ import annotations

import asyncio
from typing import Any

from micro_core import (
    MicroError,
    Node,
    SocketClosed,
    Transport,
    Unavailable,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.transport.base import Socket
from micro_core.transport.memory import MemorySocket, MemoryTransport

from ...mutants import mutant
from .base import Answering, Asking, Mucp, Talking


@mutant("test_client_streaming", "test_a_client_streams", "test_empty_stream")
class NeverEnds(Mucp):
    """The end of a stream is not sent."""

    class Stream(Talking):
        async def end(self) -> None:
            self._ended = True


@mutant("test_half_close_ends_one_direction")
class EndsBothWays(Mucp):
    """A half close closes both directions."""

    class Stream(Talking):
        async def end(self) -> None:
            await super().end()
            self._finished = True


@mutant("test_ending_and_leaving_twice_are_like_once")
class EndsOnce(Mucp):
    """A second end is an error."""

    class Stream(Talking):
        async def end(self) -> None:
            if self._ended:
                raise SocketClosed("ended before")
            await super().end()


@mutant("test_order_is_kept", "test_a_server_streams", "test_server_streaming")
class SwapsMessages(Mucp):
    """Two messages that wait are received the second first."""

    class Stream(Talking):
        async def recv(self) -> bytes:
            box = self.inbox
            if len(box) > 1 and "Micro-Error" not in box[1].header:
                box[0], box[1] = box[1], box[0]
            return await super().recv()


@mutant("test_any_message_travels")
class SkipsEmptyMessages(Mucp):
    """An empty message is not sent."""

    class Stream(Talking):
        async def send(self, body: bytes) -> None:
            if body:
                await super().send(body)


@mutant("test_any_message_travels")
class ReadsBodies(Mucp):
    """A message whose body is EOS ends the stream."""

    class Stream(Talking):
        async def send(self, body: bytes) -> None:
            await (self.end() if body == b"EOS" else super().send(body))


@mutant("test_messages_are_echoed", "test_both_directions_are_independent", "test_ping_pong")
class HoldsBack(Mucp):
    """What a handler sends is held back until it returns."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            if stream is None:
                return await super().answer(request, stream)
            sent: list[bytes] = []
            send, held = stream.send, _appending(sent)
            stream.send = held  # type: ignore[method-assign]
            try:
                response = await super().answer(request, stream)
            finally:
                stream.send = send  # type: ignore[method-assign]
            for body in sent:
                await send(body)
            return response


@mutant("test_the_end_stays_the_end")
class TellsTheEndOnce(Mucp):
    """Whoever asks after the end is told of a closed socket."""

    class Stream(Talking):
        told = False

        async def recv(self) -> bytes:
            if self.told:
                raise SocketClosed("over")
            try:
                return await super().recv()
            except StopAsyncIteration:
                self.told = True
                raise


@mutant("test_nothing_is_sent_after_the_end")
class TakesWhatIsLate(Mucp):
    """What is sent after the end is dropped without a word."""

    class Stream(Talking):
        async def send(self, body: bytes) -> None:
            if not self._ended:
                await super().send(body)


@mutant("test_an_error_ends_the_senders_work", "test_use_after_leaving_is_an_end")
class SendsToNobody(Mucp):
    """What is sent to a handler that is over is dropped without a word."""

    class Stream(Talking):
        async def send(self, body: bytes) -> None:
            if not self._finished:
                await super().send(body)


@mutant("test_an_error_comes_after_the_messages")
class HurriesErrors(Mucp):
    """An error overtakes the messages before it."""

    class Stream(Talking):
        async def recv(self) -> bytes:
            box = self.inbox
            if len(box) > 1 and box[-1].header.get("Micro-Error", "EOS") != "EOS":
                box.appendleft(box.pop())
            return await super().recv()


@mutant("test_an_unknown_stream_is_refused", "test_a_server_that_dies_in_a_stream")
class TakesErrorsForEnds(Mucp):
    """The error of a stream looks like its end."""

    class Stream(Talking):
        async def recv(self) -> bytes:
            try:
                return await super().recv()
            except MicroError as error:
                raise StopAsyncIteration from error


@mutant("test_a_caller_that_leaves", "test_cancel_after_first_response", "test_cancel_after_begin")
class LeavesQuietly(Mucp):
    """Leaving a stream tells the other side nothing."""

    class Stream(Talking):
        async def close(self) -> None:
            self._finished = True


@mutant("test_a_cancelled_receive_is_no_message_lost")
class LosesCancelledReceives(Mucp):
    """A receive that was cancelled takes the next message with it."""

    class Stream(Talking):
        async def recv(self) -> bytes:
            if self._finished:
                raise StopAsyncIteration
            return await asyncio.shield(asyncio.ensure_future(self._receive()))

        async def _receive(self) -> bytes:
            while self._socket._waiter is not None:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            return await super().recv()


@mutant("test_many_streams_side_by_side")
class HasFewStreams(Mucp):
    """A client opens twenty streams and no more."""

    class Client(Asking):
        opened = 0

        async def open(self, node: Node, request: RpcRequest) -> RpcStream:
            self.opened += 1
            if self.opened > 20:
                raise Unavailable("twenty streams are enough", happened="no")
            return await super().open(node, request)


@mutant("test_an_unread_stream_holds_up_nobody")
class ServesStreamsFirst(Mucp):
    """While a stream is open, its server answers no call."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.quiet: asyncio.Lock = getattr(self, "quiet", None) or asyncio.Lock()
            if stream is None:
                async with self.quiet:
                    return await super().answer(request, stream)
            if self.quiet.locked():
                return await super().answer(request, stream)
            async with self.quiet:
                return await super().answer(request, stream)


@mutant("test_a_handler_that_does_not_read", "test_a_caller_that_does_not_read")
class BuffersEverything(Mucp):
    """A stream takes whatever is sent into memory, on both sides."""

    def make_transport(self) -> Transport:
        return Bottomless(self.address)


class Bottomless(MemoryTransport):
    async def _dial(self, address: str) -> Socket:
        socket = await super()._dial(address)
        assert isinstance(socket, MemorySocket)
        assert socket._other is not None
        for one in (socket, socket._other):
            one._full = lambda: False  # type: ignore[method-assign]
        return socket


def _appending(sent: list[bytes]) -> Any:
    async def send(body: bytes) -> None:
        sent.append(body)

    return send
