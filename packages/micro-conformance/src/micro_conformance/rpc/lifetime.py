"""How servers and clients begin and end."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import BackendUnavailable, MicroError, Unavailable
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream

from ..promise import promise
from ..suite import Suite
from .lab import Line, RpcLab
from .pair import Pair


class Lifetime(Suite[Pair]):
    # -- servers -----------------------------------------------------------------------------

    @promise()
    async def test_constructing_does_nothing(self, lab: RpcLab) -> None:
        """A server and a client that were only made need no end and leave nothing."""
        for _ in range(10):
            transport = lab.pair.make_transport()
            assert lab.pair.make_client(transport).name
            assert lab.pair.make_server(transport).name

    @promise()
    async def test_client_and_server_have_one_name(self, lab: RpcLab) -> None:
        """Client and server have the same name, by which nodes say what they speak."""
        transport = lab.pair.make_transport()
        assert lab.pair.make_client(transport).name == lab.pair.make_server(transport).name

    @promise()
    async def test_a_server_tells_its_address(self, lab: RpcLab) -> None:
        """Starting returns the address that peers dial, another one for each server."""
        lines = [await lab.line() for _ in range(5)]
        assert len({line.served.node.address for line in lines}) == 5
        for line in lines:
            await line.call()

    @promise()
    async def test_an_address_that_is_taken(self, lab: RpcLab) -> None:
        """Starting at an address where another server listens is BackendUnavailable."""
        line = await lab.line()
        server = lab.pair.make_server(await lab.connected())
        starting = server.start(line.served.node.address, line.desk.dispatch)
        await lab.fails(starting, BackendUnavailable, "starting fails")
        await lab.soon(server.stop(0.0), "what did not start can be stopped")
        await line.call()

    @promise()
    async def test_draining_answers_as_before(self, lab: RpcLab) -> None:
        """While a server drains, its clients' calls are answered, new clients' too."""
        line = await lab.line()
        stream = await line.open()
        await line.call()
        draining = lab.task(line.served.server.drain(2 * self.patience))
        await asyncio.sleep(0)
        for number in range(5):
            assert (await line.call(body=b"%d" % number)).body == b"%d" % number
        other = await lab.line_to(line.served, line.desk)
        assert (await other.call(body=b"new")).body == b"new"
        await stream.send(b"1")
        assert await lab.soon(stream.recv(), "the stream goes on") == b"1"
        assert not draining.done(), "a client is still there"

    @promise()
    async def test_draining_asks_clients_to_leave(self, lab: RpcLab) -> None:
        """A client leaves a draining server with the answer it gets, and draining is over then."""
        line = await lab.line()
        calls = [line.calling() for _ in range(3)]
        await line.running(3)
        draining = lab.task(line.served.server.drain(10 * self.patience))
        await asyncio.sleep(0)
        line.desk.release.set()
        await lab.soon(asyncio.gather(*calls), "all are answered")
        await lab.soon(draining, "no client is left, and draining ends")

    @promise()
    async def test_draining_is_bounded(self, lab: RpcLab) -> None:
        """Draining returns after its delay though a client stays, whose call goes on."""
        line = await lab.line()
        call = line.calling(body=b"stays")
        await line.running()
        await lab.soon(line.served.server.drain(0.2), "draining ends")
        assert not call.done()
        line.desk.release.set()
        assert (await lab.soon(call, "the call is answered")).body == b"stays"

    @promise()
    async def test_draining_may_be_cut_short(self, lab: RpcLab) -> None:
        """A drain that is cancelled, as by a second signal, lets the server be stopped at once."""
        line = await lab.line()
        await line.call()
        draining = lab.task(line.served.server.drain(10 * self.patience))
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lab.soon(draining, "draining ends")
        await lab.soon(line.served.server.stop(0.0), "it stops")

    @promise()
    async def test_stopping_finishes_what_runs(self, lab: RpcLab) -> None:
        """Calls and streams that run when a server stops are finished within its grace."""
        line = await lab.line()
        stream = await line.open()
        await stream.send(b"1")
        assert await lab.soon(stream.recv(), "it comes back") == b"1"
        calls = [line.calling(body=b"%d" % number) for number in range(3)]
        await line.running(4)
        stopping = lab.task(line.served.server.stop(10 * self.patience))
        await lab.stays(lambda: not stopping.done(), "handlers are still running", seconds=0.1)
        await stream.send(b"2")
        assert await lab.soon(stream.recv(), "the stream goes on") == b"2"
        await stream.end()
        with pytest.raises(StopAsyncIteration):
            await lab.soon(stream.recv(), "the stream ends")
        line.desk.release.set()
        replies = await lab.soon(asyncio.gather(*calls), "all are answered")
        assert [reply.body for reply in replies] == [b"0", b"1", b"2"]
        await lab.soon(stopping, "it stops once nothing runs")
        assert line.desk.cancelled == 0

    @promise()
    async def test_stopping_cancels_what_is_left(self, lab: RpcLab) -> None:
        """What still runs after the grace is cancelled, and its callers are told."""
        line = await lab.line()
        stream, call = await line.open(), line.calling()
        reading = lab.task(stream.recv())
        await line.running(2)
        await lab.soon(line.served.server.stop(0.2), "it stops")
        assert line.desk.ended == line.desk.cancelled == 2
        for pending in (call, reading):
            error = await lab.fails(pending, Unavailable, "the caller is told")
            assert error.happened == "maybe", repr(error)

    @promise()
    async def test_a_stopping_server_runs_nothing_new(self, lab: RpcLab) -> None:
        """A request that comes while a server stops reaches no handler, and is told so."""
        line = await lab.line()
        await line.call()
        call = line.calling()
        await line.running()
        stopping = lab.task(line.served.server.stop(10 * self.patience))
        await asyncio.sleep(0)
        other = await lab.line_to(line.served, line.desk)
        seen = len(line.desk.seen)
        for one in (line, line, other):
            error = await lab.fails(one.call(), Unavailable, "it is refused")
            assert error.happened == "no", repr(error)
            error = await lab.fails(_first(one), Unavailable, "the stream is refused")
            assert error.happened == "no", repr(error)
        assert len(line.desk.seen) == seen
        line.desk.release.set()
        await lab.soon(call, "what ran is answered")
        await lab.soon(stopping, "it stops")

    @promise()
    async def test_stopping_twice_is_like_once(self, lab: RpcLab) -> None:
        """Stopping can be repeated, also side by side, and needs neither a client nor a start."""
        line = await lab.line()
        await line.call()
        server = line.served.server
        await lab.soon(asyncio.gather(server.stop(1.0), server.stop(0.0)), "it stops")
        await lab.soon(server.stop(5.0), "it stops again")
        unused = lab.pair.make_server(await lab.connected())
        await lab.soon(unused.stop(5.0), "what never started stops")

    @promise()
    async def test_stopping_does_not_wait_for_nothing(self, lab: RpcLab) -> None:
        """A server on which nothing runs stops at once, whatever its grace and its clients."""
        line = await lab.line()
        others = [await lab.line_to(line.served, line.desk) for _ in range(3)]
        for one in (line, *others):
            await one.call()
        await lab.soon(line.served.server.stop(10 * self.patience), "it stops")

    @promise(timeout=120)
    async def test_a_stubborn_handler_does_not_hold_up_a_stop(self, lab: RpcLab) -> None:
        """Stopping ends though a handler ignores that it is cancelled."""
        go, begun = asyncio.Event(), asyncio.Event()

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            begun.set()
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            return RpcResponse(request.content_type)

        line = await lab.line()
        line.served = await lab.serve(dispatch)
        call = line.calling()
        await lab.soon(begun.wait(), "the handler runs")
        try:
            async with asyncio.timeout(20):
                await line.served.server.stop(0.0)
        finally:
            go.set()
        await asyncio.gather(call, return_exceptions=True)

    # -- clients -----------------------------------------------------------------------------

    @promise()
    async def test_closing_twice_is_like_once(self, lab: RpcLab) -> None:
        """Closing a client can be repeated, also side by side, and needs no use before."""
        line = await lab.line()
        await asyncio.gather(*[line.call() for _ in range(3)])
        await lab.soon(asyncio.gather(line.client.close(), line.client.close()), "it closes")
        await lab.soon(line.client.close(), "it closes again")
        unused = lab.pair.make_client(await lab.connected())
        await lab.soon(unused.close(), "what was never used closes")

    @promise()
    async def test_a_closed_client_refuses(self, lab: RpcLab) -> None:
        """A client that was closed refuses calls and streams; surely nothing was done."""
        line = await lab.line()
        await line.call()
        await lab.soon(line.client.close(), "it closes")
        for fail in (line.call, line.open):
            error = await lab.fails(fail(), Unavailable, "it is refused")
            assert error.happened == "no"
        assert len(line.desk.seen) == 1

    @promise()
    async def test_closing_is_noticed(self, lab: RpcLab) -> None:
        """A closed client is connected no more: its server drains at once."""
        line = await lab.line()
        await asyncio.gather(*[line.call() for _ in range(5)])
        await lab.soon(line.client.close(), "it closes")
        await drained(lab, line)

    @promise()
    async def test_forgetting_drops_idle_connections(self, lab: RpcLab) -> None:
        """A client that was told to forget a node is connected to it no more."""
        line, other = await lab.line(), await lab.line()
        await asyncio.gather(*[line.call() for _ in range(5)])
        line.client.forget(other.served.node.address)
        line.client.forget("127.0.0.1:9")
        line.client.forget(line.served.node.address)
        await drained(lab, line)

    @promise()
    async def test_forgetting_harms_no_call(self, lab: RpcLab) -> None:
        """Calls and streams under way at a node that is forgotten are finished."""
        line = await lab.line()
        stream, call = await line.open(), line.calling(body=b"stays")
        await line.running(2)
        line.client.forget(line.served.node.address)
        await stream.send(b"1")
        assert await lab.soon(stream.recv(), "the stream goes on") == b"1"
        line.desk.release.set()
        assert (await lab.soon(call, "the call is answered")).body == b"stays"
        assert (await line.call(body=b"again")).body == b"again"

    @promise()
    async def test_an_idle_connection_that_ended(self, lab: RpcLab) -> None:
        """A server that was replaced while a client was idle costs that client no call."""
        line = await lab.line()
        await asyncio.gather(*[line.call() for _ in range(3)])
        await lab.soon(line.served.die(), "the server ends")
        line.served = await lab.serve(line.desk.dispatch, line.served.node.address)
        if not self.jumping:
            await asyncio.sleep(0.1)  # for the ends to arrive
        for number in range(5):
            assert (await line.call(body=b"%d" % number)).body == b"%d" % number


async def drained(lab: RpcLab, line: Line) -> None:
    """Fails if the server believes in a client for long."""
    draining = line.served.server.drain(10 * lab.suite.patience)
    await lab.soon(draining, "no client is connected, and draining ends")


async def _first(line: Line) -> None:
    """What a new stream says first."""
    stream = await line.open()
    try:
        await stream.recv()
    except StopAsyncIteration:
        raise MicroError("the stream ended as if it had been served") from None
