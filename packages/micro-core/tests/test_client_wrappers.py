"""Code around calls, streams, publishes and attempts, on the client's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from in_loops import in_loop, until
from network import Network

from micro_core import InvalidName, NotFound, Stream, Unavailable, current, endpoint
from micro_core.client.base import RpcRequest, RpcResponse
from micro_core.wrapper.base import Next, WrappedRequest


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")


@dataclass
class Ask:
    text: str


class Handler:
    def __init__(self) -> None:
        self.runs = 0
        self.streaming = 0

    async def echo(self, request: Ask) -> Ask:
        metadata = current().metadata
        return Ask(f"{request.text} {metadata.get('tag', '-')}")

    @endpoint(idempotent=True)
    async def flaky(self, request: Ask) -> Ask:
        self.runs += 1
        if self.runs % 2:
            raise Unavailable("down")
        return request

    async def repeat(self, request: Ask) -> AsyncIterator[Ask]:
        self.streaming += 1
        try:
            for _ in range(3):
                yield Ask(f"{request.text} {current().metadata.get('tag', '-')}")
            await asyncio.sleep(30.0)
        finally:
            self.streaming -= 1


@in_loop
async def test_a_call_goes_through_all_and_the_first_is_the_outermost() -> None:
    order: list[str] = []

    def named(name: str) -> Any:
        async def wrapper(request: WrappedRequest, call_next: Next) -> Any:
            order.append(f"{name} {request.kind} {request.service} {request.name}")
            request.value = Ask(f"{request.value.text}{name}")
            request.header["Tag"] = request.header.get("Tag", "") + name
            reply = await call_next(request)
            order.append(f"{name} {reply.text}")
            return Ask(f"{reply.text}{name}")

        return wrapper

    async with Network() as net:
        await net.service("s", Handler())
        client = await net.client(wrappers=[named("a"), named("b")])
        assert await client.call("s", "Handler.Echo", Ask("x"), Ask) == Ask("xab abba")
    assert order == [
        "a call s Handler.Echo",
        "b call s Handler.Echo",
        "b xab ab",
        "a xab abb",
    ]


@in_loop
async def test_a_wrapper_may_answer_refuse_and_repeat() -> None:
    async def judge(request: WrappedRequest, call_next: Next) -> Any:
        match request.value.text:
            case "known":
                return Ask("from the wrapper")
            case "refused":
                raise NotFound("not through here")
            case "odd":
                request.header["X-Bad"] = "two\r\nlines"
            case _:
                await call_next(request)
        return await call_next(request)

    async with Network() as net:
        handler = Handler()
        await net.service("s", handler)
        client = await net.client(wrappers=[judge])
        assert await client.call("s", "Handler.Echo", Ask("known"), Ask) == Ask("from the wrapper")
        with pytest.raises(NotFound, match="not through here"):
            await client.call("s", "Handler.Echo", Ask("refused"), Ask)
        with pytest.raises(InvalidName, match="X-Bad"):
            await client.call("s", "Handler.Echo", Ask("odd"), Ask)
        assert await client.call("s", "Handler.Echo", Ask("twice"), Ask) == Ask("twice -")


@in_loop
async def test_a_stream_is_the_response_and_an_error_after_it_closes_it() -> None:
    seen: list[Any] = []
    fail = False

    async def wrapper(request: WrappedRequest, call_next: Next) -> Any:
        request.value = Ask("changed")
        request.header["tag"] = "t"
        response = await call_next(request)
        seen.append((request.stream, type(response)))
        if fail:
            raise NotFound("on second thoughts")
        return response

    async with Network() as net:
        handler = Handler()
        await net.service("s", handler)
        client = await net.client(wrappers=[wrapper])
        async with client.stream("s", "Handler.Repeat", Ask("x"), response=Ask) as stream:
            assert await stream.recv() == Ask("changed t")
        await until(lambda: not handler.streaming)
        fail = True
        with pytest.raises(NotFound, match="second"):
            async with client.stream("s", "Handler.Repeat", Ask("x"), response=Ask):
                raise AssertionError
        await until(lambda: not handler.streaming)
    assert seen == [(True, Stream), (True, Stream)]


@in_loop
async def test_a_publish_goes_through_them() -> None:
    async def wrapper(request: WrappedRequest, call_next: Next) -> Any:
        assert (request.kind, request.name) == ("publish", "news")
        request.header["tag"] = "t"
        request.value = Ask(request.value.text.upper())
        return await call_next(request)

    async with Network() as net:
        client = await net.client(wrappers=[wrapper])
        assert client._parts is not None
        events: asyncio.Queue[Any] = asyncio.Queue()
        async with client._parts.broker as broker:
            subscription = await broker.subscribe("news", events.put)
            await client.publish("news", Ask("hi"))
            message = (await events.get()).message
            await subscription.unsubscribe()
    assert (message.body, message.header["Tag"]) == (b'{"text":"HI"}', "t")


@in_loop
async def test_each_attempt_goes_through_the_wrappers_of_attempts() -> None:
    seen: list[Any] = []

    async def attempt(request: WrappedRequest, call_next: Next) -> Any:
        sent: RpcRequest = request.value
        assert "tag" not in request.header  # a header of the attempt before is gone
        request.header["tag"] = str(sent.attempt)
        seen.append((request.kind, request.name, sent.attempt, sent.peer))
        response = await call_next(request)
        assert isinstance(response, RpcResponse)
        return response

    async with Network() as net:
        service = await net.service("s", Handler())
        client = await net.client(attempt_wrappers=[attempt])
        assert await client.call("s", "Handler.Flaky", Ask("x"), Ask) == Ask("x")
        assert await client.call("s", "Handler.Echo", Ask("x"), Ask) == Ask("x 1")
        assert service.node is not None
        address = service.node.address
    assert seen == [
        ("attempt", "Handler.Flaky", 1, address),
        ("attempt", "Handler.Flaky", 2, address),
        ("attempt", "Handler.Echo", 1, address),
    ]
