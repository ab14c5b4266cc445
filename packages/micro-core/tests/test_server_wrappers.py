"""Wrappers around handlers, streams and subscribers of a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from in_loops import in_loop

from micro_core import Client, InternalError, Service, Unauthorized, current
from micro_core.broker.subscription import Event
from micro_core.broker.typed import subscriber_plan
from micro_core.codec.json import JsonCodec
from micro_core.codec.set import CodecSet
from micro_core.context import Metadata
from micro_core.server.server import Server
from micro_core.wrapper.base import Next, WrappedRequest


@dataclass
class Number:
    value: int


class Handler:
    async def double(self, number: Number) -> Number:
        return Number(2 * number.value)

    async def fail(self, number: Number) -> Number:
        raise Unauthorized("handler says no")

    def blocking(self, number: Number) -> dict[str, str]:
        return dict(current().metadata)

    async def metadata(self, number: Number) -> dict[str, str]:
        return dict(current().metadata)

    async def count(self, number: Number) -> AsyncIterator[Number]:
        for value in range(number.value):
            yield Number(value)

    async def total(self, numbers: AsyncIterator[Number]) -> Number:
        return Number(sum([number.value async for number in numbers]))

    async def negate(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]:
        async for number in numbers:
            yield Number(-number.value)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")


@asynccontextmanager
async def running(*wrappers: Any, service: Service | None = None) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        service = service or Service("s", registry="memory", transport="memory", broker="memory")
        service.server.wrappers = wrappers
        service.handle(Handler())
        await stack.enter_async_context(service)
        client = Client(registry="memory", transport="memory", broker="memory")
        yield await stack.enter_async_context(client)


def noting(notes: list[str], name: str) -> Any:
    async def wrapper(request: WrappedRequest, call_next: Next) -> Any:
        notes.append(f"{name} before")
        try:
            return await call_next(request)
        finally:
            notes.append(f"{name} after")

    return wrapper


@in_loop
async def test_the_first_wrapper_is_the_outermost_and_sees_typed_values() -> None:
    notes: list[str] = []
    seen: list[Any] = []

    async def look(request: WrappedRequest, call_next: Next) -> Any:
        reply = await call_next(request)
        seen.append((request.kind, request.service, request.name, request.value, request.stream))
        seen.append(reply)
        return reply

    async with running(noting(notes, "a"), noting(notes, "b"), look) as client:
        assert await client.call("s", "Handler.Double", Number(3), Number) == Number(6)
    assert notes == ["a before", "b before", "b after", "a after"]
    assert seen == [("handler", "s", "Handler.Double", Number(3), False), Number(6)]


@in_loop
async def test_a_wrapper_may_replace_the_request_and_the_reply_or_answer_itself() -> None:
    async def change(request: WrappedRequest, call_next: Next) -> Any:
        if request.value.value == 0:
            return Number(42)
        reply = await call_next(replace(request, value=Number(request.value.value + 1)))
        return Number(reply.value + 100)

    async with running(change) as client:
        assert await client.call("s", "Handler.Double", Number(3), Number) == Number(108)
        assert await client.call("s", "Handler.Double", Number(0), Number) == Number(42)


@pytest.mark.parametrize("endpoint", ["Handler.Metadata", "Handler.Blocking"])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_wrapper_puts_into_the_header_is_metadata(endpoint: str, in_place: bool) -> None:
    async def user(request: WrappedRequest, call_next: Next) -> Any:
        assert request.header == {"Tenant": "t", "Gone": "1"}
        if in_place:
            request.header["x-user"] = "john"
            del request.header["Gone"]
            return await call_next(request)
        header = {"Tenant": "t", "x-user": "john"}
        return await call_next(
            WrappedRequest("handler", request.service, request.name, request.value, header)
        )

    async def body() -> None:
        async with running(user) as client:
            metadata = {"tenant": "t", "gone": "1"}
            reply = await client.call("s", endpoint, Number(1), metadata=metadata)
        assert reply == {"Tenant": "t", "X-User": "john"}

    in_loop(body)()


@in_loop
async def test_a_wrappers_error_is_like_the_handlers() -> None:
    caught: list[str] = []

    async def guard(request: WrappedRequest, call_next: Next) -> Any:
        if request.value.value == 1:
            raise Unauthorized("wrapper says no", id="guard")
        if request.value.value == 2:
            raise ValueError("secret")
        try:
            return await call_next(request)
        except Unauthorized as error:
            caught.append(str(error))
            raise

    async with running(guard) as client:
        with pytest.raises(Unauthorized, match="wrapper says no") as error:
            await client.call("s", "Handler.Double", Number(1))
        assert error.value.id == "guard"
        with pytest.raises(InternalError) as internal:
            await client.call("s", "Handler.Double", Number(2))
        assert "secret" not in str(internal.value)
        with pytest.raises(Unauthorized, match="handler says no"):
            await client.call("s", "Handler.Fail", Number(3))
    assert caught == ["handler says no"]


@in_loop
async def test_a_wrapper_surrounds_the_whole_of_a_stream() -> None:
    notes: list[Any] = []

    async def around(request: WrappedRequest, call_next: Next) -> Any:
        assert request.stream
        notes.append(request.name)
        if request.name != "Handler.Count":  # the value is the iterator of requests
            request.value = (Number(n.value + 1) async for n in request.value)
        notes.append(await call_next(request))

    async with running(around) as client:
        async with client.stream("s", "Handler.Count", Number(3), response=Number) as stream:
            assert [n.value async for n in stream] == [0, 1, 2]
        for endpoint, expected in (("Handler.Total", [5]), ("Handler.Negate", [-2, -3])):
            async with client.stream("s", endpoint, response=Number) as stream:
                await stream.send(Number(1))
                await stream.send(Number(2))
                await stream.end()
                assert [n.value async for n in stream] == expected
    assert notes == ["Handler.Count", None, "Handler.Total", None, "Handler.Negate", None]


@in_loop
async def test_a_wrapper_may_refuse_a_stream() -> None:
    async def guard(request: WrappedRequest, call_next: Next) -> Any:
        raise Unauthorized("no streams")

    async with running(guard) as client:
        with pytest.raises(Unauthorized, match="no streams"):
            async with client.stream("s", "Handler.Count", Number(3), response=Number) as stream:
                await anext(stream)


@in_loop
async def test_concurrent_calls_do_not_share_what_a_wrapper_changes() -> None:
    async def user(request: WrappedRequest, call_next: Next) -> Any:
        request.header["User"] = str(request.value.value)
        await asyncio.sleep(0)
        return await call_next(request)

    async with running(user) as client:
        calls = [client.call("s", "Handler.Metadata", Number(n)) for n in range(20)]
        assert await asyncio.gather(*calls) == [{"User": str(n)} for n in range(20)]


def test_without_wrappers_the_handler_itself_is_called() -> None:
    handler = Handler()
    server = Server("s")
    server.handle(handler)
    server.codecs = CodecSet([], JsonCodec())
    assert server._bound["Handler.Double"].invoke == handler.double


def test_an_endpoint_added_late_is_bound_too() -> None:
    server = Server("s")
    server.codecs = CodecSet([], JsonCodec())
    server.handle(Handler())
    assert set(server._bound) == set(server._endpoints)


# -- subscribers ---------------------------------------------------------------------------------


@in_loop
async def test_a_wrapper_surrounds_subscribers() -> None:
    service = Service("s", registry="memory", transport="memory", broker="memory")
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def on_number(number: Number, event: Event) -> None:
        got.put_nowait((number, event.topic, dict(current().metadata)))

    on_number.__annotations__.update(number=Number, event=Event)
    service.subscribe("numbers")(on_number)
    seen: list[Any] = []

    async def change(request: WrappedRequest, call_next: Next) -> Any:
        seen.append((request.kind, request.service, request.name, request.value))
        request.header["user"] = "john"
        request.value = Number(request.value.value + 1)
        return await call_next(request)

    plan = subscriber_plan(on_number)
    codecs = CodecSet([], JsonCodec())
    async with running(service=service) as client:
        broker = client._parts.broker  # type: ignore[union-attr]
        await broker.acquire(client)
        subscription = await broker.subscribe("numbers", plan.bind("s", codecs, [change]))
        await client.publish("numbers", Number(3), metadata={"tenant": "t"})
        both = [await got.get(), await got.get()]
        await subscription.unsubscribe()
    assert (Number(3), "numbers", {"Tenant": "t"}) in both
    assert (Number(4), "numbers", {"Tenant": "t", "User": "john"}) in both
    assert seen == [("subscriber", "s", "numbers", Number(3))]


def test_a_message_that_nothing_carries_names_the_subscriber() -> None:
    async def on_odd(message: Any) -> None: ...

    on_odd.__annotations__["message"] = Number | Metadata | set[Event]
    with pytest.raises(TypeError, match="on_odd"):
        subscriber_plan(on_odd).bind("s", CodecSet([], JsonCodec()))
