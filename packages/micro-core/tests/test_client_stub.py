"""Stubs: an interface that both sides import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from in_loops import in_loop, until
from network import Network

from micro_core import Client, NotFound, current, endpoint, options
from micro_core.client.stub import plans_of_interface


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")


@dataclass
class Number:
    value: int


class MathApi(Protocol):
    async def next_one(self, request: Number) -> Number: ...
    @endpoint(name="GetURL")
    async def get_url(self, request: Number) -> dict[str, Any]: ...
    def count(self, request: Number) -> AsyncGenerator[Number, None]: ...
    async def total(self, numbers: AsyncIterator[Number]) -> Number: ...
    def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]: ...


class Math:
    """Implements MathApi, and keeps an account."""

    def __init__(self) -> None:
        self.open = 0

    async def next_one(self, request: Number) -> Number:
        return Number(request.value + 1)

    @endpoint(name="GetURL")
    async def get_url(self, request: Number) -> dict[str, Any]:
        call = current()
        return {"remaining": call.remaining(), "metadata": dict(call.metadata)}

    async def count(self, request: Number) -> AsyncIterator[Number]:
        self.open += 1
        try:
            for value in range(request.value):
                yield Number(value)
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def total(self, numbers: AsyncIterator[Number]) -> Number:
        total = 0
        async for number in numbers:
            total += number.value
            if number.value < 0:
                raise NotFound("no such number")
        return Number(total)

    async def double(self, numbers: AsyncIterator[Number]) -> AsyncIterator[Number]:
        async for number in numbers:
            yield Number(2 * number.value)


async def numbers(*values: int) -> AsyncIterator[Number]:
    for value in values:
        yield Number(value)


async def start(net: Network) -> tuple[Math, Client]:
    handler = Math()
    await net.service("m", handler)
    return handler, await net.client()


@in_loop
async def test_every_shape_of_method() -> None:
    async with Network() as net:
        _, client = await start(net)
        math = client.stub("m", MathApi)
        assert await math.next_one(Number(1)) == Number(2)
        assert [n.value async for n in math.count(Number(3))] == [0, 1, 2]
        assert await math.total(numbers(1, 2, 3)) == Number(6)
        assert await math.total(numbers()) == Number(0)
        assert [n.value async for n in math.double(numbers(1, 2))] == [2, 4]


@in_loop
async def test_the_handlers_own_class_is_an_interface_too_and_a_name_overrules() -> None:
    async with Network() as net:
        _, client = await start(net)
        assert await client.stub("m", Math).next_one(Number(1)) == Number(2)
        with pytest.raises(NotFound, match=r"Other\.NextOne"):
            await client.stub("m", MathApi, name="Other").next_one(Number(1))


@in_loop
async def test_options_of_a_stub_and_around_one_of_its_calls() -> None:
    async with Network() as net:
        _, client = await start(net)
        math = client.stub("m", MathApi, timeout=1.0, metadata={"tenant": "7"})
        told = await math.get_url(Number(1))
        assert told["metadata"] == {"Tenant": "7"}
        assert told["remaining"] <= 1.0
        with options(timeout=3.0, metadata={"X-More": "y"}):
            told = await math.get_url(Number(1))
        assert told["metadata"] == {"Tenant": "7", "X-More": "y"}
        assert 1.0 < told["remaining"] <= 3.0


@in_loop
async def test_leaving_a_stream_early_cancels_its_handler() -> None:
    async with Network() as net:
        handler, client = await start(net)
        async with aclosing(client.stub("m", MathApi).count(Number(10**9))) as counted:
            async for number in counted:
                assert number.value == 0
                assert handler.open == 1
                break
        await until(lambda: handler.open == 0)


@in_loop
async def test_an_error_of_either_side_ends_both() -> None:
    async with Network() as net:
        _, client = await start(net)
        math = client.stub("m", MathApi)
        ended = asyncio.Event()

        async def endless() -> AsyncIterator[Number]:
            try:
                yield Number(-1)
                while True:
                    yield Number(0)
                    await asyncio.sleep(0)
            finally:
                ended.set()

        with pytest.raises(NotFound, match="no such number"):
            await math.total(endless())
        async with asyncio.timeout(5.0):
            await ended.wait()

        async def broken() -> AsyncIterator[Number]:
            yield Number(1)
            raise ZeroDivisionError("the caller's own")

        with pytest.raises(ZeroDivisionError):
            await math.total(broken())
        with pytest.raises(ZeroDivisionError):
            async for _ in math.double(broken()):
                pass


def test_plans_are_made_once_and_name_what_cannot_be_called() -> None:
    assert plans_of_interface(MathApi, None) is plans_of_interface(MathApi, None)
    named = {plan.name for plan in plans_of_interface(MathApi, None).values()}
    assert named == {"Math.NextOne", "Math.GetURL", "Math.Count", "Math.Total", "Math.Double"}

    class Sync(Protocol):
        def hello(self, request: Number) -> Number: ...

    class Awaited(Protocol):
        async def count(self, request: Number) -> AsyncIterator[Number]: ...

    class Empty(Protocol):
        value: int

    class Two(Protocol):
        async def hello(self, one: Number, two: Number) -> Number: ...

    class Bare(Protocol):
        async def hello(self, request) -> Number: ...  # type: ignore[no-untyped-def]

    client = Client()
    for interface, text in (
        (Sync, r"Sync\.hello: write it with 'async def'"),
        (Awaited, r"Awaited\.count: write it without 'async'"),
        (Empty, "Empty has no methods"),
        (Two, r"Two\.hello: .*exactly one"),
        (Bare, r"Bare\.hello: annotate 'request'"),
    ):
        with pytest.raises(TypeError, match=text):
            client.stub("m", interface)


def test_the_type_is_the_name_without_api() -> None:
    class Api(Protocol):
        async def go(self, request: Number) -> Number: ...

    class ApiOf(Protocol):
        async def go(self, request: Number) -> Number: ...

    assert plans_of_interface(Api, None)["go"].name == "Api.Go"
    assert plans_of_interface(ApiOf, None)["go"].name == "ApiOf.Go"
    assert plans_of_interface(Api, "Say")["go"].name == "Say.Go"
