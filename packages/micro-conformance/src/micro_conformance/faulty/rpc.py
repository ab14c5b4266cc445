"""Protocols with one fault each: mucp over memory, with what is built on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Unpack

from micro_core import (
    BackendUnavailable,
    BadRequest,
    Client,
    DeadlineExceeded,
    Draining,
    InternalError,
    MessageTooLarge,
    MicroError,
    Node,
    SocketClosed,
    Transport,
    Unavailable,
    detached,
)
from micro_core.client.base import RpcClient, RpcRequest, RpcResponse, RpcStream
from micro_core.client.mucp import MucpClient, MucpStream
from micro_core.client.options import CallOptions
from micro_core.errors import error_for
from micro_core.message import Header, checked_header
from micro_core.server.base import Dispatch, RpcServer
from micro_core.server.mucp import MucpServer
from micro_core.server.server import Server
from micro_core.transport.base import Socket
from micro_core.transport.memory import MemorySocket, MemoryTransport

from ..mutants import mutant
from ..rpc.pair import Pair, RpcFeatures

BODIES = "test_any_body_travels_both_ways"
ERRORS = "test_every_error_travels_whole"


class Asking(MucpClient):
    """A client whose calls, requests and streams a mutant may spoil."""

    def __init__(self, *, transport: Transport) -> None:
        super().__init__(transport=transport)
        self.flying = 0

    async def call(self, node: Node, request: RpcRequest) -> RpcResponse:
        self.flying += 1
        try:
            return await self.calling(node, self.spoilt(request))
        finally:
            self.flying -= 1

    async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
        return await super().call(node, request)

    async def open(self, node: Node, request: RpcRequest) -> RpcStream:
        opened = await super().open(node, self.spoilt(request))
        assert isinstance(opened, MucpStream)
        return self.stream(opened)

    def spoilt(self, request: RpcRequest) -> RpcRequest:
        return request

    def stream(self, opened: MucpStream) -> RpcStream:
        return opened


class Answering(MucpServer):
    """A server between whose dispatch and the wire a mutant may stand."""

    async def start(self, address: str, dispatch: Dispatch) -> str:
        self.real = dispatch
        return await super().start(address, self.answer)

    async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        try:
            return await self.real(request, stream)
        except MicroError as error:
            raise self.raised(copy(error)) from error

    def raised(self, error: MicroError) -> MicroError:
        return error


class Talking(MucpStream):
    """The caller's end of a stream, made of a sound one."""

    def __init__(self, opened: MucpStream) -> None:
        super().__init__(opened._socket, opened._header)

    @property
    def inbox(self) -> deque[Any]:
        assert isinstance(self._socket, MemorySocket)
        return self._socket._inbox


class Mucp(Pair):
    """mucp over memory; a mutant replaces ``Client``, ``Server`` or ``Stream``."""

    name = "mucp"

    class Client(Asking):
        pass

    class Server(Answering):
        pass

    Stream: ClassVar[type[Talking] | None] = None

    def make_transport(self) -> Transport:
        return MemoryTransport(self.address)

    def make_client(self, transport: Transport) -> RpcClient:
        client = self.Client(transport=transport)
        if self.Stream is not None:
            client.stream = self.Stream  # type: ignore[method-assign]
        return client

    def make_server(self, transport: Transport) -> RpcServer:
        return self.Server(transport=transport)


# -- errors --------------------------------------------------------------------------------------


@mutant(ERRORS, "test_status_code_and_message")
class LosesCodes(Mucp):
    """Every error arrives as 500."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            return MicroError(
                error.detail, id=error.id, status=error.status, happened=error.happened
            )


@mutant("test_an_error_of_an_unknown_code_travels")
class KnowsFewCodes(Mucp):
    """A code that has no class arrives as 500."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            if error_for(error.code) is MicroError:
                error.code = 500
            return error


@mutant(ERRORS, "test_a_plain_exception_says_nothing")
class LosesIds(Mucp):
    """Errors arrive without their ids."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.id = ""
            return error


@mutant("test_a_long_error_arrives")
class CutsDetails(Mucp):
    """The text of an error is cut after a hundred characters."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = error.detail[:100]
            return error


@mutant("test_a_special_status_message", "test_special_status_message")
class TidiesDetails(Mucp):
    """The blanks in an error's text are made one."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = " ".join(error.detail.split())
            return error


@mutant("test_status_code_and_message", "test_an_error_comes_after_the_messages")
class LosesDetails(Mucp):
    """Errors arrive with an empty text."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = ""
            return error


@mutant("test_a_refusal_before_the_handler_says_so", "test_a_refused_call_is_repeated_elsewhere")
class LosesRefusals(Mucp):
    """Whoever is refused is told that his call has run."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.happened = "yes"
            return error


@mutant("test_a_server_that_dies", "test_stopping_cancels_what_is_left")
class DeniesWhatMayHaveRun(Mucp):
    """A call that was cut off is said surely not to have run."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except SocketClosed as error:
                error.happened = "no"
                raise


@mutant("test_a_node_that_is_not_there", "test_a_server_that_died_stays_dead")
class DoubtsRefusedConnections(Mucp):
    """A call that reached nobody is said perhaps to have run."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except BackendUnavailable as error:
                error.happened = "maybe"
                raise


@mutant("test_the_connection_survives_errors")
class RepeatsErrors(Mucp):
    """The error of one call is also the answer to the next."""

    class Client(Asking):
        last: MicroError | None = None

        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            last, self.last = self.last, None
            if last is not None and last.code == 409:
                raise last
            try:
                return await super().calling(node, request)
            except MicroError as error:
                self.last = error
                raise


# -- requests ------------------------------------------------------------------------------------


@mutant(BODIES)
class CarriesTexts(Mucp):
    """Bodies are taken for texts."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            return replace(request, body=request.body.decode(errors="replace").encode())


@mutant(BODIES, "test_empty_unary")
class AnswersNull(Mucp):
    """An empty reply arrives as null."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            reply = await super().calling(node, request)
            return replace(reply, body=reply.body or b"null")


@mutant(BODIES, "test_large_unary")
class CutsBodies(Mucp):
    """What is over 64 KiB in a request is lost."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            return replace(request, body=request.body[:65536])


@mutant("test_a_request_arrives_as_it_was_sent")
class HidesCallers(Mucp):
    """A handler is not told who calls."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            return await super().answer(replace(request, peer=""), stream)


@mutant("test_a_reply_says_what_it_is")
class RepliesInKind(Mucp):
    """A reply has the content type of its request, whatever the handler says."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            response = await super().answer(request, stream)
            return replace(response, content_type=request.content_type)


@mutant("test_metadata_arrives", "test_custom_metadata", "test_a_stream_says_what_it_is_for")
class DropsMetadata(Mucp):
    """Metadata is not sent."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            return replace(request, header={})


@mutant("test_metadata_does_not_leak_between_calls")
class LeaksMetadata(Mucp):
    """What one call said is said of all that follow."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            self.said = {**getattr(self, "said", {}), **request.header}
            return replace(request, header=self.said)


@mutant("test_request_metadata_is_not_echoed")
class EchoesMetadata(Mucp):
    """A reply has the metadata of its request."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            reply = await super().calling(node, request)
            return replace(reply, header={**reply.header, **request.header})


@mutant("test_a_reply_carries_metadata")
class ClaimsReplyMetadata(Mucp):
    """It says that replies carry metadata, and they do not."""

    features = RpcFeatures(reply_metadata=True)


@mutant("test_a_header_cannot_be_injected")
class MendsHeaders(Mucp):
    """A line break in metadata becomes a blank."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            header = {n: " ".join(v.replace("\0", " ").split()) for n, v in request.header.items()}
            return replace(request, header=header) if header != request.header else request


@mutant("test_a_request_too_large", "test_a_message_too_large")
class ShrugsAtSize(Mucp):
    """What is too large is an error like any other."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except MessageTooLarge as error:
                raise InternalError(str(error)) from error

    class Stream(Talking):
        async def send(self, body: bytes) -> None:
            with suppress(MessageTooLarge):
                await super().send(body)


@mutant("test_a_reply_too_large")
class HidesLargeReplies(Mucp):
    """A reply that is too large looks like a server that has gone."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            response = await super().answer(request, stream)
            if len(response.body) > 1 << 22:
                raise Unavailable("gone")
            return response


# -- time ----------------------------------------------------------------------------------------


@mutant("test_a_deadline_travels", "test_a_stream_says_what_it_is_for")
class KeepsDeadlines(Mucp):
    """Deadlines are not sent."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            return replace(request, deadline=None)


@mutant("test_what_is_left_travels", "test_a_nested_call_has_what_is_left")
class GivesTime(Mucp):
    """Nobody is given less than ten seconds."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            if request.deadline is None:
                return request
            least = asyncio.get_running_loop().time() + 10
            return replace(request, deadline=max(least, request.deadline))


@mutant("test_a_repeated_call_has_what_is_left")
class StartsTimeAnew(Mucp):
    """A second attempt is given as much time as the first was."""

    class Client(Asking):
        given: ClassVar[dict[float, float]] = {}

        def spoilt(self, request: RpcRequest) -> RpcRequest:
            if request.deadline is None:
                return request
            now = asyncio.get_running_loop().time()
            left = self.given.setdefault(request.deadline, request.deadline - now)
            return replace(request, deadline=now + left) if request.attempt > 1 else request


@mutant("test_the_number_of_the_attempt_travels", "test_a_stream_says_what_it_is_for")
class CountsNoAttempts(Mucp):
    """Every attempt is the first."""

    class Client(Asking):
        def spoilt(self, request: RpcRequest) -> RpcRequest:
            return replace(request, attempt=1)


@mutant("test_an_endless_call_needs_no_deadline")
class KnowsBetter(Mucp):
    """Every call has a deadline of a quarter of an hour."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            async with asyncio.timeout(900):
                return await super().calling(node, request)


# -- leaving -------------------------------------------------------------------------------------


@mutant("test_a_caller_that_gives_up")
class KeepsCalling(Mucp):
    """A call that was cancelled goes on unseen."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            return await asyncio.shield(asyncio.ensure_future(super().calling(node, request)))


@mutant("test_a_caller_that_gives_up_harms_no_other")
class GivesUpAltogether(Mucp):
    """With one call that is cancelled, all of its client are."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except asyncio.CancelledError:
                leave_all(self._transport)
                raise


@mutant("test_a_caller_that_dies", "test_a_caller_that_leaves", "test_a_caller_that_gives_up")
class WorksForNobody(Mucp):
    """Handlers go on when their callers have gone."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.tasks: set[asyncio.Task[RpcResponse]] = getattr(self, "tasks", set())
            task = asyncio.ensure_future(super().answer(request, stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return await asyncio.shield(task)

        async def stop(self, grace: float) -> None:
            await super().stop(grace)
            for task in getattr(self, "tasks", ()):
                task.cancel()


@mutant("test_a_server_that_comes_back", "test_an_idle_connection_that_ended")
class BearsGrudges(Mucp):
    """A node that was lost once is not dialled again."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            idle = self._pool._idle.get(node.address, [])
            self.lost = getattr(self, "lost", False) or any(one.closed for one, _ in idle)
            if self.lost:
                raise BackendUnavailable("lost before", address=node.address)
            return await super().calling(node, request)


@mutant("test_an_idle_connection_that_ended")
class TakesDeadConnections(Mucp):
    """Idle connections are used without a look whether they are alive."""

    class Client(Asking):
        def __init__(self, *, transport: Transport) -> None:
            super().__init__(transport=transport)
            self._pool.take = self._take  # type: ignore[method-assign]

        async def _take(self, address: str) -> Socket:
            idle = self._pool._idle.get(address)
            return idle.pop()[0] if idle else await self._pool.dial(address)


# -- many ----------------------------------------------------------------------------------------


@mutant("test_hundreds_at_once")
class MixesUpReplies(Mucp):
    """With more than a hundred calls in flight, one gets the reply to another."""

    class Client(Asking):
        last = b""

        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            crowded = self.flying > 100
            reply = await super().calling(node, request)
            last, self.last = self.last, reply.body
            return replace(reply, body=last) if crowded else reply


@mutant("test_a_slow_call_holds_up_nobody", "test_hundreds_at_once")
class CallsInTurn(Mucp):
    """A call waits until the one before it is answered."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            self.turn: asyncio.Lock = getattr(self, "turn", None) or asyncio.Lock()
            async with self.turn:
                return await super().calling(node, request)


@mutant("test_a_call_runs_once", "test_what_may_have_run_is_not_repeated")
class TriesAgain(Mucp):
    """A handler that failed is run once more."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            try:
                return await super().answer(request, stream)
            except MicroError:
                return await super().answer(request, stream)


@mutant("test_a_server_has_many_clients")
class KnowsFewClients(Mucp):
    """From the eleventh connection on, clients are turned away."""

    class Server(Answering):
        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            if len(self._connections) > 10:
                raise Unavailable("ten clients are enough", happened="no")
            return await super().answer(request, stream)


@mutant("test_a_client_has_many_servers")
class StaysWithOneNode(Mucp):
    """All calls of a service go to the node of the first."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            self.first: dict[str, Node] = getattr(self, "first", {})
            return await super().calling(self.first.setdefault(request.service, node), request)


@mutant("test_rpc_soak")
class FailsNowAndThen(Mucp):
    """One in eighty calls fails."""

    class Server(Answering):
        count = 0

        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.count += 1
            if self.count % 80 == 0:
                raise InternalError("hiccup")
            return await super().answer(request, stream)


# -- streams -------------------------------------------------------------------------------------


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


# -- servers -------------------------------------------------------------------------------------


@mutant("test_constructing_does_nothing")
class StartsEarly(Mucp):
    """A server has a task of its own from its construction on."""

    class Server(Answering):
        def __init__(self, *, transport: Transport) -> None:
            super().__init__(transport=transport)
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(1e9))

        async def stop(self, grace: float) -> None:
            self.task.cancel()
            await super().stop(grace)


@mutant("test_a_server_tells_its_address")
class TellsTheWrongAddress(Mucp):
    """Every fourth server tells an address where it is not."""

    count = 0

    def make_server(self, transport: Transport) -> RpcServer:
        self.count += 1
        server = super().make_server(transport)
        if self.count % 4 == 0:
            server.name = "lost"  # type: ignore[misc]
        return server

    class Server(Answering):
        async def start(self, address: str, dispatch: Dispatch) -> str:
            return await super().start(address, dispatch) + "0" * (self.name == "lost")


@mutant("test_an_address_that_is_taken")
class SharesAddresses(Mucp):
    """Starting where another server listens looks like success."""

    class Server(Answering):
        async def start(self, address: str, dispatch: Dispatch) -> str:
            try:
                return await super().start(address, dispatch)
            except BackendUnavailable:
                return address


@mutant("test_draining_answers_as_before")
class DrainsAtOnce(Mucp):
    """A draining server refuses requests from the first moment on."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            self.real = _refusing
            await super().drain(delay)


@mutant("test_draining_asks_clients_to_leave")
class AsksNobodyToLeave(Mucp):
    """A draining server does not tell its clients."""

    class Server(Answering):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, False if name == "draining" else value)


@mutant("test_draining_is_bounded")
class DrainsForEver(Mucp):
    """Draining lasts as long as a client is connected."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            await super().drain(1e6)


@mutant("test_draining_asks_clients_to_leave", "test_closing_is_noticed")
class DrainsInFull(Mucp):
    """Draining takes all of its delay, whoever is connected."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            self.draining = True
            await asyncio.sleep(delay)


@mutant("test_draining_may_be_cut_short")
class DrainsRegardless(Mucp):
    """A drain that was cancelled goes on."""

    class Server(Answering):
        async def drain(self, delay: float) -> None:
            await asyncio.shield(super().drain(delay))

        async def stop(self, grace: float) -> None:
            await super().stop(grace)


@mutant("test_stopping_finishes_what_runs")
class StopsAtOnce(Mucp):
    """Stopping cuts off what runs, whatever its grace."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            await super().stop(0.0)


@mutant("test_stopping_cancels_what_is_left")
class StopsHalfway(Mucp):
    """Stopping only makes new clients impossible."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            listener, self._listener = self._listener, None
            await super().stop(grace)
            self._listener = listener if grace else None
            if not grace and listener is not None:
                await listener.close()


@mutant("test_a_stopping_server_runs_nothing_new")
class StopsLate(Mucp):
    """A stopping server runs what comes until its grace is over."""

    class Server(Answering):
        def __setattr__(self, name: str, value: Any) -> None:
            if name != "dispatch" or value == self.answer:
                super().__setattr__(name, value)


@mutant("test_stopping_twice_is_like_once")
class StopsTwice(Mucp):
    """The third stop is an error."""

    class Server(Answering):
        stops = 0

        async def stop(self, grace: float) -> None:
            self.stops += 1
            if self.stops > 2:
                raise RuntimeError("stopped before")
            await super().stop(grace)


@mutant("test_stopping_does_not_wait_for_nothing")
class TakesItsTime(Mucp):
    """Stopping takes all of its grace."""

    class Server(Answering):
        async def stop(self, grace: float) -> None:
            await asyncio.sleep(grace)
            await super().stop(0.0)


@mutant("test_a_stubborn_handler_does_not_hold_up_a_stop")
class WaitsForHandlers(Mucp):
    """Stopping waits until every handler has ended."""

    class Server(Answering):
        active = 0

        async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            self.active += 1
            try:
                return await super().answer(request, stream)
            finally:
                self.active -= 1

        async def stop(self, grace: float) -> None:
            await super().stop(grace)
            while self.active:
                await asyncio.sleep(0.1)


# -- clients -------------------------------------------------------------------------------------


@mutant("test_closing_twice_is_like_once")
class ClosesTwice(Mucp):
    """The third close is an error."""

    class Client(Asking):
        closes = 0

        async def close(self) -> None:
            self.closes += 1
            if self.closes > 2:
                raise RuntimeError("closed before")
            await super().close()


@mutant("test_a_caller_that_dies")
class WaitsForReplies(Mucp):
    """Closing waits until every call is answered."""

    class Client(Asking):
        async def close(self) -> None:
            while self.flying:
                await asyncio.sleep(0.1)
            await super().close()


@mutant("test_a_closed_client_refuses")
class WorksOn(Mucp):
    """A client that was closed opens again by itself."""

    class Client(Asking):
        async def close(self) -> None:
            await super().close()
            self._pool._closed = False


@mutant("test_closing_is_noticed")
class ClosesNothing(Mucp):
    """Closing a client leaves its idle connections."""

    class Client(Asking):
        async def close(self) -> None:
            idle, self._pool._idle = self._pool._idle, {}
            await super().close()
            self.kept = idle


@mutant("test_forgetting_drops_idle_connections", "test_a_withdrawn_node_is_disconnected")
class ForgetsNothing(Mucp):
    """A node that was withdrawn stays connected."""

    class Client(Asking):
        def forget(self, address: str) -> None:
            pass


@mutant("test_forgetting_harms_no_call")
class ForgetsTooMuch(Mucp):
    """Forgetting a node cuts off its calls."""

    class Client(Asking):
        def forget(self, address: str) -> None:
            leave_all(self._transport)


# -- on top --------------------------------------------------------------------------------------


@mutant("test_a_plain_exception_says_nothing")
class TellsAll(Mucp):
    """The text of an exception travels."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            try:
                return await super().dispatch(request, stream)
            except InternalError as error:
                raise InternalError(repr(error.__cause__), id=error.id) from error


@mutant("test_unimplemented_service")
class AnswersForOthers(Mucp):
    """A server answers whatever service was asked for."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            return await super().dispatch(replace(request, service=self.name), stream)


@mutant("test_unimplemented_method")
class KnowsEveryEndpoint(Mucp):
    """An endpoint that is not there is a bad request."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            if request.endpoint not in self._bound:
                raise BadRequest(f"what is {request.endpoint}?", happened="no")
            return await super().dispatch(request, stream)


class Choosing(Client):
    """A client whose options a mutant may spoil."""

    async def call(self, service: str, endpoint: str, *values: Any, **options: Any) -> Any:
        return await super().call(service, endpoint, *values, **self.chosen(options))

    def chosen(self, options: dict[str, Any]) -> Any:
        return options


@mutant("test_metadata_cannot_break_the_request")
class CleansMetadata(Mucp):
    """Metadata that cannot be sent is left out."""

    class caller(Choosing):  # noqa: N801
        def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
            kept: dict[str, str] = {}
            for name, value in (metadata or {}).items():
                with suppress(MicroError):
                    kept.update(checked_header({name: value}))
            return super()._metadata(kept)


@mutant("test_metadata_does_not_steer_the_protocol")
class SendsAnyMetadata(Mucp):
    """Metadata may have the names of the protocol."""

    class caller(Choosing):  # noqa: N801
        def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
            return super()._metadata(metadata) | checked_header(metadata or {})


@mutant("test_a_nested_call_has_what_is_left")
class ForgetsWhoAsked(Mucp):
    """A handler's calls know nothing of the call that it handles."""

    class caller(Choosing):  # noqa: N801
        async def call(self, *values: Any, **options: Any) -> Any:
            with detached():
                return await super().call(*values, **options)


@mutant("test_a_default_deadline")
class WaitsForEver(Mucp):
    """A call has no deadline by default."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"timeout": None, **options}


@mutant("test_timeout_on_sleeping_server", "test_a_call_may_wait_for_its_service")
class BlamesTheNode(Mucp):
    """A passed deadline is 503."""

    class caller(Choosing):  # noqa: N801
        async def call(self, *values: Any, **options: Unpack[CallOptions]) -> Any:
            try:
                return await super().call(*values, **options)
            except DeadlineExceeded as error:
                raise Unavailable("too late") from error


@mutant("test_what_may_have_run_is_not_repeated")
class RepeatsAnything(Mucp):
    """A call that failed with 503 is made again."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"retries": 1, **options}


@mutant("test_an_idempotent_call_is_repeated")
class RepeatsNothingThatRan(Mucp):
    """An idempotent call is not made again either."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"retries": 0, **options}


@mutant("test_a_node_that_is_not_there_is_passed_over")
class TriesOneNode(Mucp):
    """A call that reached nobody is not made elsewhere."""

    class caller(Choosing):  # noqa: N801
        async def open(self, *parts: Any) -> None:
            await super().open(*parts)
            self._attempts._again = lambda *_: None  # type: ignore[method-assign]


@mutant("test_a_failing_node_is_left_alone")
class Forgives(Mucp):
    """A node is called however often it has failed."""

    class caller(Choosing):  # noqa: N801
        async def open(self, *parts: Any) -> None:
            await super().open(*parts)
            self._attempts.ejection.failed = lambda *_: None  # type: ignore[method-assign]


@mutant("test_a_call_may_wait_for_its_service")
class WaitsForNobody(Mucp):
    """A call does not wait for a service to appear."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "wait": False}


@mutant("test_a_call_may_ask_for_a_version")
class IgnoresVersions(Mucp):
    """A call goes to nodes of any version."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "version": None}


@mutant("test_a_call_may_ask_for_labels")
class IgnoresLabels(Mucp):
    """A call goes to nodes of any labels."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "labels": None}


@mutant("test_calls_go_on_while_the_registry_is_away")
class AsksEachTime(Mucp):
    """Every call asks the registry first."""

    class caller(Choosing):  # noqa: N801
        async def call(self, service: str, *values: Any, **options: Any) -> Any:
            await self._opened().registry.get_service(service)
            return await super().call(service, *values, **options)


def leave_all(transport: Transport) -> None:
    assert isinstance(transport, MemoryTransport)
    for one in list(transport._opened):
        if isinstance(one, MemorySocket):
            one.leave()


def _appending(sent: list[bytes]) -> Any:
    async def send(body: bytes) -> None:
        sent.append(body)

    return send


async def _refusing(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
    raise Draining("leaving")
