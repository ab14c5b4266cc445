"""Streams of bodies."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import MicroError, NotFound, SocketClosed, TooLarge, Unavailable
from micro_core.client.base import RpcStream

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .desk import bodies, collect, echo_all
from .lab import RpcLab
from .pair import Pair

CHUNK = b"x" * 65536
MOST = 1024  # chunks that nobody reads: 64 MiB
STRANGE = [b"", b"\0", b"EOS", bytes(range(256)), b"", b"x" * (1 << 20), b"last"]


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


class Streams(Suite[Pair]):
    @promise()
    async def test_messages_are_echoed(self, lab: RpcLab) -> None:
        """Message and answer in turns, as often as one likes, and then the end."""
        line = await lab.line()
        stream = await line.open()
        for body in numbers(100):
            await stream.send(body)
            same(await lab.soon(stream.recv(), "it comes back"), body)
        await stream.end()
        await ends(lab, stream)

    @promise()
    async def test_order_is_kept(self, lab: RpcLab) -> None:
        """Five hundred messages each way at once come in the order of their sending."""
        line = await lab.line()
        stream = await line.open()

        async def send() -> None:
            for body in numbers(500):
                await stream.send(body)
            await stream.end()

        sending = lab.task(send())
        assert await lab.soon(collect(stream), "all come back") == numbers(500)
        await lab.soon(sending, "all were sent")

    @promise()
    async def test_any_message_travels(self, lab: RpcLab) -> None:
        """Messages arrive byte for byte: empty ones are messages, and nothing ends by accident."""
        line = await lab.line()
        stream = await line.open()
        for body in STRANGE:
            await stream.send(body)
            assert await lab.soon(stream.recv(), "it comes back") == body
        await stream.end()
        await ends(lab, stream)

    @promise()
    async def test_an_empty_stream(self, lab: RpcLab) -> None:
        """A stream without a message ends cleanly on both sides."""
        got: list[list[bytes]] = []

        async def talk(stream: RpcStream) -> None:
            got.append(await collect(stream))

        line = await lab.line(talk)
        stream = await line.open()
        await stream.end()
        await ends(lab, stream)
        assert got == [[]]

    @promise()
    async def test_a_client_streams(self, lab: RpcLab) -> None:
        """Many messages, the end, and then one answer to them all."""

        async def talk(stream: RpcStream) -> None:
            await stream.send(b",".join(await collect(stream)))

        line = await lab.line(talk)
        stream = await line.open()
        for body in numbers(50):
            await stream.send(body)
        await stream.end()
        assert await lab.soon(stream.recv(), "the answer comes") == b",".join(numbers(50))
        await ends(lab, stream)

    @promise()
    async def test_a_server_streams(self, lab: RpcLab) -> None:
        """One message, and many answers to it until the handler returns."""

        async def talk(stream: RpcStream) -> None:
            for body in numbers(int(await stream.recv())):
                await stream.send(body)

        line = await lab.line(talk)
        stream = await line.open()
        await stream.send(b"300")
        assert await lab.soon(collect(stream), "all come") == numbers(300)
        await ends(lab, stream)

    @promise()
    async def test_half_close_ends_one_direction(self, lab: RpcLab) -> None:
        """A caller that has ended is still sent to, for as long as the handler likes."""
        go = asyncio.Event()

        async def talk(stream: RpcStream) -> None:
            got = await collect(stream)
            await go.wait()
            for body in got:
                await stream.send(body)

        line = await lab.line(talk)
        stream = await line.open()
        await stream.send(b"1")
        await stream.send(b"2")
        await stream.end()
        reading = lab.task(collect(stream))
        await lab.stays(lambda: not reading.done(), "the other direction is open", seconds=0.1)
        go.set()
        assert await lab.soon(reading, "what comes after the half close") == [b"1", b"2"]

    @promise()
    async def test_both_directions_are_independent(self, lab: RpcLab) -> None:
        """A handler may send first and read later, and so may its caller."""
        sent = asyncio.Event()
        got: list[bytes] = []

        async def talk(stream: RpcStream) -> None:
            for body in numbers(50):
                await stream.send(body)
            sent.set()
            got.extend(await collect(stream))

        line = await lab.line(talk)
        stream = await line.open()
        for body in numbers(50):
            await stream.send(body)
        await lab.soon(sent.wait(), "the handler sends before it reads")
        assert [await stream.recv() for _ in range(50)] == numbers(50)
        await stream.end()
        await ends(lab, stream)
        assert got == numbers(50)

    @promise()
    async def test_a_stream_says_what_it_is_for(self, lab: RpcLab) -> None:
        """A handler sees its stream's endpoint, content type, metadata, deadline and attempt."""
        line = await lab.line()
        now = asyncio.get_running_loop().time()
        request = line.request("Talk", header={"Tenant": "7"}, seconds=30.0)
        request.attempt = 2
        stream = await lab.soon(line.client.open(line.served.node, request), "it opens")
        lab.stack.push_async_callback(stream.close)
        await stream.end()
        await ends(lab, stream)
        [seen] = line.desk.seen
        assert (seen.service, seen.endpoint, seen.attempt) == ("desk", "Desk.Talk", 2)
        assert (seen.content_type, seen.header) == (request.content_type, {"Tenant": "7"})
        assert seen.deadline is not None, "a deadline of 30 s was not passed on"
        assert now + 15 < seen.deadline <= now + 30.5

    # -- the end -----------------------------------------------------------------------------

    @promise()
    async def test_the_end_stays_the_end(self, lab: RpcLab) -> None:
        """Whoever asks again after the end is told again, on both sides."""
        ended: list[int] = []

        async def talk(stream: RpcStream) -> None:
            ended.extend([len(await collect(stream)) for _ in range(3)])

        line = await lab.line(talk)
        stream = await line.open()
        await stream.send(b"1")
        await stream.end()
        for _ in range(3):
            await ends(lab, stream)
        assert ended == [1, 0, 0]

    @promise()
    async def test_ending_and_leaving_twice_are_like_once(self, lab: RpcLab) -> None:
        """End and close can be called again, in any order, and after the other side has ended."""
        line = await lab.line()
        stream = await line.open()
        await stream.end()
        await stream.end()
        await ends(lab, stream)
        await stream.end()
        await lab.soon(stream.close(), "it closes")
        await lab.soon(stream.close(), "it closes again")
        early = await line.open()
        await lab.soon(asyncio.gather(early.close(), early.close()), "closing twice at once")

    @promise()
    async def test_nothing_is_sent_after_the_end(self, lab: RpcLab) -> None:
        """Sending after one's own end is SocketClosed, and surely not done."""
        line = await lab.line()
        stream = await line.open()
        await stream.send(b"1")
        await stream.end()
        error = await lab.fails(stream.send(b"2"), SocketClosed, "it is refused")
        assert error.happened == "no"
        assert await lab.soon(collect(stream), "the rest comes") == [b"1"]

    @promise()
    async def test_use_after_leaving_is_an_end(self, lab: RpcLab) -> None:
        """Sending into a stream that one has left is SocketClosed; there is nothing to receive."""
        line = await lab.line()
        stream = await line.open()
        await stream.send(b"1")
        await stream.close()
        await lab.fails(stream.send(b"2"), SocketClosed, "it is refused")
        with pytest.raises((StopAsyncIteration, SocketClosed)):
            await lab.soon(stream.recv(), "it ends")

    @promise()
    async def test_an_error_comes_after_the_messages(self, lab: RpcLab) -> None:
        """What a handler sent before its error arrives first, then the error, whole."""

        async def talk(stream: RpcStream) -> None:
            for body in numbers(20):
                await stream.send(body)
            raise NotFound("no more", id="talk", status="Odd")

        line = await lab.line(talk)
        stream = await line.open()
        got: list[bytes] = []

        async def read() -> None:
            async for body in bodies(stream):
                got.append(body)  # noqa: PERF401 -- what came before the error counts

        error = await lab.fails(read(), NotFound, "the error comes")
        assert got == numbers(20)
        assert (error.code, error.detail, error.id) == (404, "no more", "talk")
        assert (error.status, error.happened) == ("Odd", "yes")

    @promise()
    async def test_an_error_ends_the_senders_work(self, lab: RpcLab) -> None:
        """Sending into a stream whose handler has failed fails soon, and the error can be had."""

        async def talk(stream: RpcStream) -> None:
            await stream.recv()
            raise NotFound("enough", id="talk")

        line = await lab.line(talk)
        stream = await line.open()
        await stream.send(b"1")
        await lab.fails(stream.recv(), NotFound, "the error comes")

        async def refused() -> bool:
            try:
                await stream.send(b"more")
            except SocketClosed:
                return True
            return False

        await lab.eventually(refused, "sending is refused")

    @promise()
    async def test_an_unknown_stream_is_refused(self, lab: RpcLab) -> None:
        """A stream that the other side refuses to open raises its error at the first receive."""
        line = await lab.line()
        request = line.request("Unknown")
        with pytest.raises(NotFound):
            stream = await lab.soon(line.client.open(line.served.node, request), "it opens")
            lab.stack.push_async_callback(stream.close)
            await lab.soon(stream.recv(), "the error comes")

    # -- leaving -----------------------------------------------------------------------------

    @promise()
    async def test_a_caller_that_leaves(self, lab: RpcLab) -> None:
        """Leaving a stream after the first answer cancels its handler, and no other."""
        line = await lab.line()
        stream, other = await line.open(), await line.open()
        for one in (stream, other):
            await one.send(b"1")
            assert await lab.soon(one.recv(), "it comes back") == b"1"
        await stream.close()
        await lab.eventually(lambda: line.desk.cancelled == 1, "the handler is cancelled")
        await other.send(b"2")
        assert await lab.soon(other.recv(), "the other goes on") == b"2"
        assert line.desk.cancelled == 1

    @promise()
    async def test_a_caller_that_dies_in_a_stream(self, lab: RpcLab) -> None:
        """A client that has gone leaves all its streams."""
        line = await lab.line()
        for _ in range(3):
            stream = await line.open()
            await stream.send(b"1")
            assert await lab.soon(stream.recv(), "it comes back") == b"1"
        await lab.soon(line.die(), "closing ends")
        await lab.eventually(lambda: line.desk.cancelled == 3, "the handlers are cancelled")

    @promise()
    async def test_a_caller_that_leaves_unread_messages(self, lab: RpcLab) -> None:
        """A handler whose caller leaves without reading is cancelled, even while it sends."""

        async def talk(stream: RpcStream) -> None:
            for _ in range(MOST):
                await stream.send(CHUNK)
                await asyncio.sleep(0)

        line = await lab.line(talk)
        stream = await line.open()
        await lab.soon(stream.recv(), "a first message")
        await lab.soon(stream.close(), "closing ends")
        await lab.eventually(lambda: line.desk.ended == 1, "the handler is over")

    @promise(guarantee="peer_end_noticed")
    async def test_a_server_that_dies_in_a_stream(self, lab: RpcLab) -> None:
        """A stream whose server dies ends with an error, not as if all were said."""
        line = await lab.line()
        stream = await line.open()
        await stream.send(b"1")
        assert await lab.soon(stream.recv(), "it comes back") == b"1"
        reading = lab.task(stream.recv())
        await asyncio.sleep(0)
        await lab.soon(line.served.die(), "the server ends")
        try:
            error = await lab.fails(reading, Unavailable, "the reader is told")
        except StopAsyncIteration:
            raise AssertionError("a stream that was cut looks complete") from None
        assert error.happened == "maybe", repr(error)

    @promise()
    async def test_a_cancelled_receive_is_no_message_lost(self, lab: RpcLab) -> None:
        """After a receive that was cancelled, a stream gives the next message or an end."""
        line = await lab.line()
        stream = await line.open()
        reading = lab.task(stream.recv())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        try:
            await lab.soon(stream.send(b"1"), "sending goes on or fails")
            assert await lab.soon(stream.recv(), "receiving goes on or ends") == b"1"
        except (StopAsyncIteration, MicroError):
            await line.call()

    # -- many and much -----------------------------------------------------------------------

    @promise()
    async def test_many_streams_side_by_side(self, lab: RpcLab) -> None:
        """Fifty streams of one client each get their own messages, in order."""
        line = await lab.line()

        async def talk(number: int) -> list[bytes]:
            stream = await line.open()
            sent = [b"%d-%d" % (number, turn) for turn in range(20)]
            for body in sent:
                await stream.send(body)
            await stream.end()
            got = await collect(stream)
            assert got == sent
            return got

        talks = asyncio.gather(*[talk(number) for number in range(50)])
        assert len(await lab.soon(talks, "all streams end")) == 50

    @promise(guarantee="backpressure")
    async def test_a_handler_that_does_not_read(self, lab: RpcLab) -> None:
        """Sending to a handler that does not read waits in the end, and nothing is lost."""
        read, enough = asyncio.Event(), asyncio.Event()
        sent: list[int] = []
        got: list[int] = []

        async def talk(stream: RpcStream) -> None:
            await read.wait()
            got.extend(map(len, await collect(stream)))

        async def send() -> None:
            while len(sent) < MOST and not enough.is_set():
                await stream.send(CHUNK)
                sent.append(len(CHUNK))

        line = await lab.line(talk)
        stream = await line.open()
        sending = lab.task(send())
        await quiet(sent)
        assert len(sent) < MOST, f"{MOST} chunks of 64 KiB were taken that nobody reads"
        enough.set()
        read.set()
        await lab.soon(sending, "sending goes on")
        await stream.end()
        await ends(lab, stream)
        assert got == sent

    @promise(guarantee="backpressure")
    async def test_a_caller_that_does_not_read(self, lab: RpcLab) -> None:
        """A handler's sending to a caller that does not read waits in the end; nothing is lost."""
        enough = asyncio.Event()
        sent: list[int] = []

        async def talk(stream: RpcStream) -> None:
            while len(sent) < MOST and not enough.is_set():
                await stream.send(CHUNK)
                sent.append(len(CHUNK))

        line = await lab.line(talk)
        stream = await line.open()
        await quiet(sent)
        assert len(sent) < MOST, f"{MOST} chunks of 64 KiB were taken that nobody reads"
        enough.set()
        got = [len(body) for body in await lab.soon(collect(stream), "all come")]
        assert got == sent

    @promise()
    async def test_an_unread_stream_holds_up_nobody(self, lab: RpcLab) -> None:
        """While a handler leaves its stream unread, the same client's calls are answered."""
        read = asyncio.Event()

        async def talk(stream: RpcStream) -> None:
            await read.wait()
            await echo_all(stream)

        line = await lab.line(talk)
        stream = await line.open()
        for body in numbers(20):
            await stream.send(body)
            assert (await line.call(body=body)).body == body
        await stream.end()
        read.set()
        assert await lab.soon(collect(stream), "the stream goes on") == numbers(20)

    @promise()
    async def test_a_message_too_large(self, lab: RpcLab) -> None:
        """A message over the limit is TooLarge where it is sent, and no handler sees it."""
        seen: set[int] = set()

        async def talk(stream: RpcStream) -> None:
            async for body in bodies(stream):
                seen.add(len(body))

        line = await lab.line(talk)
        stream = await line.open()
        await stream.send(b"1")

        async def send() -> None:
            await stream.send(b"x" * ((4 << 20) + 1))
            await stream.recv()

        await lab.fails(send(), TooLarge, "it is refused")
        assert max(seen, default=0) <= 1
        assert (await line.call(body=b"next")).body == b"next"


async def ends(lab: RpcLab, stream: RpcStream) -> None:
    """Fails unless the next thing to be received is the end."""
    with pytest.raises(StopAsyncIteration):
        await lab.soon(stream.recv(), "the stream ends")


async def quiet(counted: list[int]) -> None:
    """Return when nothing has been added for a while."""
    before = -1
    while before != len(counted):
        before = len(counted)
        await asyncio.sleep(0.2)
