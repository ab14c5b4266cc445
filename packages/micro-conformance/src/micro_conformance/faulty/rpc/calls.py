"""Requests, replies and their time that go wrong."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from micro_core import (
    InternalError,
    MessageTooLarge,
    MicroError,
    Node,
    Unavailable,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream

from ...mutants import mutant
from ...rpc.pair import RpcFeatures
from .base import Answering, Asking, Mucp, Talking

BODIES = "test_any_body_travels_both_ways"


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
