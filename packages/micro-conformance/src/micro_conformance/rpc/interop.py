"""gRPC's interoperability tests, one to one, for each content type, through Client and Server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from micro_core import Client, DeadlineExceeded, MicroError, NotFound, ServiceNotFound
from micro_core.client.stream import Stream

from ..promise import promise
from ..suite import Suite
from .calls import ODD
from .lab import RpcLab
from .pair import Pair
from .wires import Interop, Wire, wire

LARGE = 300_000


@dataclass(slots=True)
class Station:
    """A client, and a service of one content type."""

    client: Client
    service: str
    handlers: Interop
    lab: RpcLab

    @property
    def _how(self) -> dict[str, Any]:
        return {"content_type": self.handlers.wire.content_type}

    async def call(self, method: str, text: str = "", **options: Any) -> str:
        one = self.handlers.wire
        request = one.make(text)
        calling = self.client.call(
            self.service, f"Interop.{method}", request, one.type, **self._how, **options
        )
        return one.text(await self.lab.soon(calling, f"{method} ends"))

    def stream(self, method: str, text: str | None = None, **options: Any) -> Stream[Any]:
        one = self.handlers.wire
        request = None if text is None else one.make(text)
        name = f"Interop.{method}"
        return self.client.stream(
            self.service, name, request, response=one.type, **self._how, **options
        )

    async def running(self, count: int) -> None:
        handlers = self.handlers
        await self.lab.eventually(lambda: handlers.running == count, f"{count} handlers run")

    async def send(self, stream: Stream[Any], text: str) -> None:
        await self.lab.soon(stream.send(self.handlers.wire.make(text)), "it is sent")

    async def recv(self, stream: Stream[Any]) -> str:
        return self.handlers.wire.text(await self.lab.soon(stream.recv(), "a message comes"))

    async def rest(self, stream: Stream[Any]) -> list[str]:
        async def read() -> list[str]:
            return [self.handlers.wire.text(item) async for item in stream]

        return await self.lab.soon(read(), "the stream ends")


class InteropTests(Suite[Pair]):
    """content_types: of those that the core's codecs carry. soak: calls of the soak test."""

    content_types: ClassVar[Sequence[str]] = (
        "application/json",
        "application/octet-stream",
        "application/protobuf",
    )
    soak: ClassVar[int] = 100

    def wire(self, content_type: str) -> Wire:
        """A type and values for a content type; override it for codecs of your own."""
        return wire(content_type)

    async def stations(self, lab: RpcLab) -> AsyncIterator[Station]:
        """One for each content type."""
        for content_type in self.content_types:
            handlers = Interop(self.wire(content_type))
            service = lab.name()
            await lab.service(service, handlers.endpoints())
            yield Station(await lab.caller(), service, handlers, lab)

    @promise()
    async def test_empty_unary(self, lab: RpcLab) -> None:
        """Interop: an empty request gets an empty reply."""
        async for one in self.stations(lab):
            assert await one.call("Echo") == ""

    @promise()
    async def test_large_unary(self, lab: RpcLab) -> None:
        """Interop: a request of 300,000 characters gets its reply."""
        async for one in self.stations(lab):
            assert await one.call("Echo", "x" * LARGE) == "x" * LARGE
            assert await one.call("Echo", ODD) == ODD

    @promise()
    async def test_client_streaming(self, lab: RpcLab) -> None:
        """Interop: a stream of requests gets one reply to them all."""
        async for one in self.stations(lab):
            async with one.stream("Join") as stream:
                for number in range(30):
                    await one.send(stream, str(number))
                await stream.end()
                assert await one.rest(stream) == [" ".join(map(str, range(30)))]

    @promise()
    async def test_server_streaming(self, lab: RpcLab) -> None:
        """Interop: one request gets a stream of replies, in order."""
        words = [f"word-{number}" for number in range(30)]
        async for one in self.stations(lab):
            async with one.stream("Split", " ".join(words)) as stream:
                assert await one.rest(stream) == words

    @promise()
    async def test_ping_pong(self, lab: RpcLab) -> None:
        """Interop: request and reply in turns on one stream, of sizes small and large."""
        async for one in self.stations(lab):
            async with one.stream("Talk") as stream:
                for size in (1, 31415, 9, 0, 2653, 58979):
                    await one.send(stream, "x" * size)
                    assert await one.recv(stream) == "x" * size
                await stream.end()
                assert await one.rest(stream) == []

    @promise()
    async def test_empty_stream(self, lab: RpcLab) -> None:
        """Interop: a stream with no message in either direction ends well."""
        async for one in self.stations(lab):
            async with one.stream("Talk") as stream:
                await stream.end()
                assert await one.rest(stream) == []

    @promise()
    async def test_cancel_after_begin(self, lab: RpcLab) -> None:
        """Interop: a stream left before anything was sent cancels its handler."""
        async for one in self.stations(lab):
            async with one.stream("Talk"):
                await one.running(1)
            await one.running(0)
            assert one.handlers.cancelled == 1

    @promise()
    async def test_cancel_after_first_response(self, lab: RpcLab) -> None:
        """Interop: a stream left after its first reply cancels its handler."""
        async for one in self.stations(lab):
            async with one.stream("Talk", "first") as stream:
                assert await one.recv(stream) == "first"
            await one.running(0)
            assert one.handlers.cancelled == 1

    @promise()
    async def test_timeout_on_sleeping_server(self, lab: RpcLab) -> None:
        """Interop: a deadline ends call and stream with 408, and the handlers with them."""
        async for one in self.stations(lab):
            error = await lab.fails(one.call("Wait", timeout=0.1), DeadlineExceeded, "408")
            assert error.code == 408
            with pytest.raises(DeadlineExceeded):
                async with one.stream("Talk", timeout=0.1) as stream:
                    await one.recv(stream)
            await one.running(0)
            assert await one.call("Echo", "next") == "next"

    @promise()
    async def test_status_code_and_message(self, lab: RpcLab) -> None:
        """Interop: a handler's code and text reach the caller, of calls and of streams."""
        async for one in self.stations(lab):
            error = await lab.fails(one.call("Fail", "test status message"), MicroError, "it fails")
            assert (error.code, error.detail) == (409, "test status message")
            assert (error.id, error.status) == ("interop", "Odd One")
            with pytest.raises(MicroError) as caught:
                await lab.soon(_failing_stream(one), "the stream fails")
            assert (caught.value.code, caught.value.detail) == (409, "in a stream")

    @promise()
    async def test_special_status_message(self, lab: RpcLab) -> None:
        """Interop: an error's text of blanks, line breaks and emoji reaches the caller."""
        async for one in self.stations(lab):
            error = await lab.fails(one.call("Fail", ODD), MicroError, "it fails")
            assert error.detail == ODD

    @promise()
    async def test_custom_metadata(self, lab: RpcLab) -> None:
        """Interop: metadata of calls and of streams reaches the handler, and nothing else does."""
        sent = {"X-Grpc-Test-Echo-Initial": "test_initial_metadata_value", "x-binary": "q83v"}
        async for one in self.stations(lab):
            told = await one.call("Tell", metadata=sent)
            assert told.split("\n") == [
                "X-Binary: q83v",
                "X-Grpc-Test-Echo-Initial: test_initial_metadata_value",
            ]
            assert await one.call("Tell") == ""

    @promise()
    async def test_unimplemented_method(self, lab: RpcLab) -> None:
        """Interop: an endpoint that a service does not have is 404, of calls and of streams."""
        async for one in self.stations(lab):
            error = await lab.fails(one.call("Nothing"), NotFound, "it fails")
            assert error.code == 404
            assert error.happened == "no"

            async def stream(one: Station = one) -> None:
                async with one.stream("Nothing") as opened:
                    await opened.recv()

            await lab.fails(stream(), NotFound, "the stream fails")

    @promise()
    async def test_unimplemented_service(self, lab: RpcLab) -> None:
        """Interop: a service that nobody has is 404, and so is a node that is another service."""
        async for one in self.stations(lab):
            one.service, own = lab.name("nobody"), one.service
            await lab.fails(one.call("Echo"), ServiceNotFound, "it fails")
            registry = await lab.registry()
            [info] = await registry.get_service(own)
            await registry.register(type(info)(one.service, info.version, info.nodes))
            wrong = await lab.caller()
            one.client = wrong
            await lab.fails(one.call("Echo"), NotFound, "the node says that it is another")
            assert not one.handlers.seen

    @promise()
    async def test_rpc_soak(self, lab: RpcLab) -> None:
        """Interop: a hundred calls and streams one after another, and none fails."""
        async for one in self.stations(lab):
            for number in range(self.soak):
                assert await one.call("Echo", str(number)) == str(number)
            for number in range(self.soak // 5):
                async with one.stream("Split", f"{number} a b") as stream:
                    assert await one.rest(stream) == [str(number), "a", "b"]
            assert one.handlers.seen == [str(number) for number in range(self.soak)]


async def _failing_stream(one: Station) -> None:
    async with one.stream("Crack", "in a stream") as stream:
        assert await one.recv(stream) == "in a stream"
        await stream.recv()
