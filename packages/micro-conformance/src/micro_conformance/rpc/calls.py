"""One request, one reply."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from micro_core import (
    BackendError,
    Draining,
    InvalidName,
    MicroError,
    Node,
    SocketClosed,
    TooLarge,
    Unavailable,
    errors,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.errors import error_for

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import Line, RpcLab
from .pair import Pair

BODIES = [b"", b"\0", b"\r\n\r\n", bytes(range(256)), b"\xff\xfe\x00" * 1000, b"x" * (1 << 20)]
ODD = "\t\n of  blanks, \r\n quotes \"', ümläute, ☺ and 😈 \t\n"


def every_error() -> list[type[MicroError]]:
    """One class for each code."""
    found = {kind.code: kind for kind in vars(errors).values() if _is_error(kind)}
    return [error_for(code) for code in sorted(found)]


def _is_error(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, MicroError)


class Calls(Suite[Pair]):
    """over_limit: bytes of a body that servers and clients refuse as they are configured."""

    over_limit: int = (4 << 20) + 1

    # -- what travels ------------------------------------------------------------------------

    @promise()
    async def test_any_body_travels_both_ways(self, lab: RpcLab) -> None:
        """A body arrives and comes back byte for byte: empty, all bytes, a mebibyte."""
        line = await lab.line()
        for body in BODIES:
            same((await line.call(body=body)).body, body)
        for request, body in zip(line.desk.seen, BODIES, strict=True):
            same(request.body, body, "the request")

    @promise()
    async def test_a_request_arrives_as_it_was_sent(self, lab: RpcLab) -> None:
        """A handler sees the service, the endpoint, the content type and who is calling."""
        line = await lab.line()
        await line.call(body=b"1", content_type="text/plain; charset=utf-8")
        [seen] = line.desk.seen
        assert (seen.service, seen.endpoint) == ("desk", "Desk.Echo")
        assert seen.content_type == "text/plain; charset=utf-8"
        assert seen.peer

    @promise()
    async def test_a_reply_says_what_it_is(self, lab: RpcLab) -> None:
        """A reply has the content type that the handler gave it, whatever the request's was."""

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            return RpcResponse("text/plain", b"no json")

        line = await lab.line()
        line.served = await lab.serve(dispatch)
        assert (await line.call(content_type="application/json")).content_type == "text/plain"

    @promise()
    async def test_metadata_arrives(self, lab: RpcLab) -> None:
        """Metadata of a call arrives, with values of any printable text."""
        header = {"Tenant": "7", "X-Empty": "", "X-Text": 'a, b; c="d": ü ☺', "X-Long": "x" * 2000}
        line = await lab.line()
        await line.call(header=header)
        assert line.desk.seen[0].header == header

    @promise()
    async def test_metadata_does_not_leak_between_calls(self, lab: RpcLab) -> None:
        """What one call says is not said of any other, one after another or side by side."""
        line = await lab.line()
        await line.call(header={"X-First": "1"})
        await line.call()
        many = [line.call(body=b"%d" % n, header={f"X-{n}": str(n)}) for n in range(20)]
        await asyncio.gather(*many)
        first, second, *rest = line.desk.seen
        assert (first.header, second.header) == ({"X-First": "1"}, {})
        for request in rest:
            number = request.body.decode()
            assert request.header == {f"X-{number}": number}

    @promise()
    async def test_request_metadata_is_not_echoed(self, lab: RpcLab) -> None:
        """A reply carries nothing of the request's metadata unless the handler puts it there."""
        line = await lab.line()
        reply = await line.call(header={"Authorization": "secret", "Tenant": "7"})
        assert "secret" not in str(reply.header)
        assert "Tenant" not in reply.header

    @promise(guarantee="reply_metadata")
    async def test_a_reply_carries_metadata(self, lab: RpcLab) -> None:
        """Metadata that a handler puts into its response reaches the caller."""

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            return RpcResponse(request.content_type, b"", {"X-Left": "3"})

        line = await lab.line()
        line.served = await lab.serve(dispatch)
        assert (await line.call()).header.get("X-Left") == "3"

    @promise()
    async def test_a_header_cannot_be_injected(self, lab: RpcLab) -> None:
        """Metadata with a line break or a NUL is refused unsent, and the next call is fine."""
        line = await lab.line()
        await line.call()
        for value in ("a\r\nX-Evil: 1", "a\nb", "a\0b"):
            error = await lab.fails(line.call(header={"X-Bad": value}), InvalidName, "refused")
            assert error.happened == "no"
        await line.call()
        assert [request.header for request in line.desk.seen] == [{}, {}]

    # -- errors ------------------------------------------------------------------------------

    @promise()
    async def test_every_error_travels_whole(self, lab: RpcLab) -> None:
        """A handler's error of any code comes with its id, code, detail, status and class."""
        line = await lab.line()
        for kind in every_error():
            line.desk.error = sent = kind("what happened", id="the.id", status="Odd Status")
            error = await lab.fails(line.call("Fail"), kind, f"{kind.__name__} arrives")
            assert _whole(error) == _whole(sent)
            assert (error.happened == "no") == (sent.happened == "no")

    @promise()
    async def test_an_error_of_an_unknown_code_travels(self, lab: RpcLab) -> None:
        """A code that has no class of its own arrives as it is, and so does an empty detail."""
        line = await lab.line()
        for code in (402, 418, 499, 599):
            line.desk.error = sent = MicroError("", id="x", code=code, status="Own")
            error = await lab.fails(line.call("Fail"), MicroError, f"{code} arrives")
            assert _whole(error) == _whole(sent)

    @promise()
    async def test_a_special_status_message(self, lab: RpcLab) -> None:
        """An error's text keeps its blanks, line breaks and characters of any script."""
        line = await lab.line()
        line.desk.error = sent = MicroError(ODD, id=ODD, code=400, status=ODD)
        error = await lab.fails(line.call("Fail"), MicroError, "the error arrives")
        assert _whole(error) == _whole(sent)

    @promise()
    async def test_a_long_error_arrives(self, lab: RpcLab) -> None:
        """An error of any length and script arrives as itself, its text cut if it must be."""
        line = await lab.line()
        for letter in ("x", "ü", "☺", "😈"):
            line.desk.error = MicroError(letter * 100_000, id="long", code=409)
            error = await lab.fails(line.call("Fail"), MicroError, "the error arrives")
            assert (error.code, error.id) == (409, "long"), letter
            assert error.detail.startswith(letter * 500)
        line.desk.error = MicroError("x" * 2000, id="2000", code=409)
        error = await lab.fails(line.call("Fail"), MicroError, "the error arrives")
        assert error.detail == "x" * 2000, "an error of 2000 characters need not be cut"

    @promise()
    async def test_the_connection_survives_errors(self, lab: RpcLab) -> None:
        """After an error the same client's next call is answered, with nothing of the error."""
        line = await lab.line()
        for number in range(20):
            await lab.fails(line.call("Fail"), MicroError, "the error arrives")
            body = b"%d" % number
            assert (await line.call(body=body)).body == body

    @promise()
    async def test_a_refusal_before_the_handler_says_so(self, lab: RpcLab) -> None:
        """An error that promises no handler ran arrives with that promise: happened is no."""
        line = await lab.line()
        line.desk.error = Draining("leaving", id="desk")
        error = await lab.fails(line.call("Fail"), Draining, "the refusal arrives")
        assert error.happened == "no"
        line.desk.error = Unavailable("broken inside", id="desk", happened="yes")
        error = await lab.fails(line.call("Fail"), Unavailable, "the error arrives")
        assert error.happened == "yes"

    @promise()
    async def test_a_node_that_is_not_there(self, lab: RpcLab) -> None:
        """A call to an address that nobody listens on is a BackendError, and surely not done."""
        line = await lab.line()
        line.served.node = Node("gone", "127.0.0.1:1")
        for fail in (line.call, line.open):
            error = await lab.fails(fail(), BackendError, "it fails")
            assert error.happened == "no"

    @promise()
    async def test_a_request_too_large(self, lab: RpcLab) -> None:
        """A request over the limit is TooLarge, reaches no handler, and harms no later call."""
        line = await lab.line()
        await line.call()
        await lab.fails(line.call(body=b"x" * self.over_limit), TooLarge, "it is refused")
        assert (await line.call(body=b"next")).body == b"next"
        assert len(line.desk.seen) == 2

    @promise()
    async def test_a_reply_too_large(self, lab: RpcLab) -> None:
        """A reply over the limit is an error that says it ran, and harms no later call."""

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            size = self.over_limit if request.body == b"large" else 1
            return RpcResponse(request.content_type, b"x" * size)

        line = await lab.line()
        line.served = await lab.serve(dispatch)
        error = await lab.fails(line.call(body=b"large"), MicroError, "it is refused")
        assert error.code in (413, 500), repr(error)
        assert error.happened in ("yes", "maybe")
        assert (await line.call()).body == b"x"

    # -- time --------------------------------------------------------------------------------

    @promise()
    async def test_a_deadline_travels(self, lab: RpcLab) -> None:
        """A handler is told how much time is left, and that there is no deadline if so."""
        line = await lab.line()
        for seconds in (1000.0, 30.0, 1.5):
            now = asyncio.get_running_loop().time()
            await line.call(seconds=seconds)
            deadline = line.desk.seen[-1].deadline
            assert deadline is not None, f"a deadline of {seconds} s was not passed on"
            assert now + 0.5 * seconds < deadline <= now + seconds + 0.5
        await line.call()
        assert line.desk.seen[-1].deadline is None

    @promise()
    async def test_what_is_left_travels(self, lab: RpcLab) -> None:
        """Time that has passed since a deadline was set is not given to the handler."""
        line = await lab.line()
        request = line.request(seconds=1.0)
        assert request.deadline is not None
        await asyncio.sleep(0.7)
        await lab.soon(line.client.call(line.served.node, request), "the call ends")
        deadline = line.desk.seen[0].deadline
        assert deadline is not None
        assert deadline <= request.deadline + 0.3

    @promise()
    async def test_the_number_of_the_attempt_travels(self, lab: RpcLab) -> None:
        """A handler is told which attempt of its call this is."""
        line = await lab.line()
        for attempt in (1, 2, 3, 1):
            request = line.request()
            request.attempt = attempt
            await lab.soon(line.client.call(line.served.node, request), "the call ends")
        assert [request.attempt for request in line.desk.seen] == [1, 2, 3, 1]

    # -- leaving -----------------------------------------------------------------------------

    @promise()
    async def test_a_caller_that_gives_up(self, lab: RpcLab) -> None:
        """A caller that is cancelled ends its handler, and its client's next call is answered."""
        line = await lab.line()
        call = line.calling()
        await line.running()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await lab.eventually(lambda: line.desk.cancelled == 1, "the handler is cancelled")
        assert (await line.call(body=b"next")).body == b"next"

    @promise()
    async def test_a_caller_that_gives_up_harms_no_other(self, lab: RpcLab) -> None:
        """Calls cancelled at any point cancel no other call and spoil no later one."""
        line = await lab.line()
        other = line.calling(body=b"other")
        await line.running()
        for turns in range(40):
            call = line.calling("Echo", b"cancelled")
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            body = b"%d" % turns
            assert (await line.call(body=body)).body == body
        line.desk.release.set()
        assert (await lab.soon(other, "the other call is answered")).body == b"other"

    @promise()
    async def test_a_caller_that_dies(self, lab: RpcLab) -> None:
        """The handlers of a client that has gone are cancelled; those of others are not."""
        line = await lab.line()
        other = await lab.line_to(line.served, line.desk)
        pending = [line.calling() for _ in range(3)]
        staying = other.calling(body=b"stays")
        await line.running(4)
        await lab.soon(line.die(), "closing ends")
        await lab.eventually(lambda: line.desk.cancelled == 3, "three handlers are cancelled")
        assert all(isinstance(e, MicroError) for e in await _outcomes(lab, pending))
        line.desk.release.set()
        assert (await lab.soon(staying, "the other is answered")).body == b"stays"

    @promise(guarantee="peer_end_noticed")
    async def test_a_server_that_dies(self, lab: RpcLab) -> None:
        """Calls pending at a server that dies fail at once, and nobody can tell if they ran."""
        line = await lab.line()
        pending = [line.calling() for _ in range(5)]
        await line.running(5)
        await lab.soon(line.served.die(), "the server ends")
        for error in await _outcomes(lab, pending):
            assert isinstance(error, Unavailable), repr(error)
            assert error.happened == "maybe", repr(error)

    @promise()
    async def test_a_server_that_died_stays_dead(self, lab: RpcLab) -> None:
        """Soon after a server has died, its node is one that is not there."""
        line = await lab.line()
        await line.call()
        await lab.soon(line.served.die(), "the server ends")

        async def surely_not_done() -> bool:
            error = await lab.fails(line.call(), MicroError, "it fails")
            return error.happened == "no"

        await lab.eventually(surely_not_done, "a call fails that was surely not done")

    @promise()
    async def test_a_server_that_comes_back(self, lab: RpcLab) -> None:
        """When a server listens again at its address, the same client's calls are answered."""
        line = await lab.line()
        for _ in range(2):
            await asyncio.gather(*[line.call() for _ in range(5)])
            await lab.soon(line.served.die(), "the server ends")
            line.served = await lab.serve(line.desk.dispatch, line.served.node.address)
            await lab.eventually(lambda: answered(line), "it is answered")

    # -- many --------------------------------------------------------------------------------

    @promise()
    async def test_hundreds_at_once(self, lab: RpcLab) -> None:
        """Two hundred calls in flight at once each get their own answer, in whatever order."""
        line = await lab.line()
        order: list[asyncio.Event] = []

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            turn = asyncio.Event()
            order.append(turn)
            await turn.wait()
            return RpcResponse(request.content_type, request.body)

        line.served = await lab.serve(dispatch)
        calls = [line.calling("Echo", b"%d" % number) for number in range(200)]
        await lab.eventually(lambda: len(order) == 200, "200 handlers run side by side")
        for turn in reversed(order):
            turn.set()
        replies = await lab.soon(asyncio.gather(*calls), "all are answered")
        assert [reply.body for reply in replies] == [b"%d" % number for number in range(200)]

    @promise()
    async def test_a_slow_call_holds_up_nobody(self, lab: RpcLab) -> None:
        """While one call waits for its handler, others of the same client are answered."""
        line = await lab.line()
        slow = line.calling(body=b"slow")
        await line.running()
        for number in range(20):
            assert (await line.call(body=b"%d" % number)).body == b"%d" % number
        assert not slow.done()
        line.desk.release.set()
        assert (await lab.soon(slow, "the slow one is answered")).body == b"slow"

    @promise()
    async def test_a_call_runs_once(self, lab: RpcLab) -> None:
        """A call runs its handler once: answered, failed, refused or cut off."""
        line = await lab.line()
        for number in range(20):
            await line.call(body=b"%d" % number)
            await lab.fails(line.call("Fail"), MicroError, "it fails")
        line.desk.error = Unavailable("full", id="desk", happened="no")
        await lab.fails(line.call("Fail"), MicroError, "it is refused")
        assert len(line.desk.seen) == 41
        pending = line.calling()
        await line.running()
        await lab.soon(line.served.die(), "the server ends")
        await lab.fails(pending, MicroError, "it is cut off")
        assert len(line.desk.seen) == 42

    @promise()
    async def test_a_server_has_many_clients(self, lab: RpcLab) -> None:
        """Twenty clients of one server each get their own answers."""
        line = await lab.line()
        others = [await lab.line_to(line.served, line.desk) for _ in range(20)]
        bodies = [b"%d" % number for number in range(20)]
        for _ in range(3):
            replies = await asyncio.gather(
                *[one.call(body=body) for one, body in zip(others, bodies, strict=True)]
            )
            assert [reply.body for reply in replies] == bodies

    @promise()
    async def test_a_client_has_many_servers(self, lab: RpcLab) -> None:
        """One client calls several nodes, and each call reaches the node that it names."""
        lines = [await lab.line() for _ in range(5)]
        client = lines[0].client
        for number in range(10):
            for line in lines:
                line.client = client
                await line.call(body=b"%d" % number)
        assert [len(line.desk.seen) for line in lines] == [10] * 5

    @promise(timeout=7200)
    async def test_an_endless_call_needs_no_deadline(self, lab: RpcLab) -> None:
        """A call without a deadline is answered however long its handler takes."""
        line = await lab.line()
        call = line.calling(body=b"late")
        await line.running()
        if self.jumping:
            await asyncio.sleep(3600)
        assert not call.done()
        line.desk.release.set()
        assert (await lab.soon(call, "it is answered")).body == b"late"


def _whole(error: MicroError) -> tuple[str, int, str, str]:
    return error.id, error.code, error.detail, error.status


async def _outcomes(lab: RpcLab, calls: list[asyncio.Task[RpcResponse]]) -> list[Any]:
    gathered = asyncio.gather(*calls, return_exceptions=True)
    return list(await lab.soon(gathered, "pending calls end"))


async def answered(line: Line) -> bool:
    try:
        await line.call()
    except (BackendError, SocketClosed):
        return False
    return True
