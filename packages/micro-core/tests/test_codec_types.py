"""Every sort of type is handled alike: in a handler, in a call, and in a subscriber."""

from __future__ import annotations

import asyncio
import enum
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypedDict

import msgspec
import protobuf_messages as pb
import pydantic
import pytest
from in_loops import in_loop

from micro_core import BadRequest, Client, CodecError, Service, UnsupportedMediaType
from micro_core.codec.bytes import BytesCodec
from micro_core.codec.json import JsonCodec
from micro_core.codec.protobuf import ProtobufCodec
from micro_core.codec.set import CodecSet
from micro_core.message import Message


@dataclass
class Item:
    name: str
    price: float


@dataclass
class Order:
    id: int
    items: list[Item] = field(default_factory=list)


class StructItem(msgspec.Struct):
    name: str
    price: float


class StructOrder(msgspec.Struct):
    id: int
    items: list[StructItem] = []


class TypedItem(TypedDict):
    name: str
    price: float


class TypedOrder(TypedDict):
    id: int
    items: list[TypedItem]


class ModelItem(pydantic.BaseModel):
    name: str
    price: float


class ModelOrder(pydantic.BaseModel):
    id: int
    items: list[ModelItem] = []


MODELS: dict[str, tuple[Any, Any]] = {
    "dataclass": (Order, Item),
    "struct": (StructOrder, StructItem),
    "typeddict": (TypedOrder, TypedItem),
    "pydantic": (ModelOrder, ModelItem),
    "protobuf": (pb.Order, pb.Item),
}
every = pytest.mark.parametrize("sort", MODELS)
strict = pytest.mark.parametrize("sort", [sort for sort in MODELS if sort != "protobuf"])
codecs = CodecSet([BytesCodec(), ProtobufCodec()], JsonCodec())


def an_order(sort: str) -> Any:
    order, item = MODELS[sort]
    return order(id=7, items=[item(name="a", price=1.5), item(name="ü", price=-0.0)])


@every
def test_a_value_round_trips_as_json(sort: str) -> None:
    value, type_ = an_order(sort), MODELS[sort][0]
    body = codecs.encode("application/json", value)
    assert codecs.decode("application/json", type_, body) == value
    plain = codecs.decode("application/json", Any, body)
    assert plain["items"][0] == {"name": "a", "price": 1.5}


@every
def test_unknown_fields_are_ignored(sort: str) -> None:
    body = b'{"id":7,"new":{"x":[1]},"items":[{"name":"a","price":1,"more":null}]}'
    read = codecs.decode("application/json", MODELS[sort][0], body)
    item = read["items"][0] if sort == "typeddict" else read.items[0]
    assert (item["price"] if sort == "typeddict" else item.price) == 1


@strict
def test_a_wrong_field_is_named_by_its_path(sort: str) -> None:
    good = '{"name":"a","price":1}'
    for last in ('{"name":"a","price":"x"}', '{"name":"a"}'):
        body = f'{{"id":1,"items":[{good},{good},{last}]}}'.encode()
        with pytest.raises(CodecError) as caught:
            codecs.decode("application/json", MODELS[sort][0], body)
        assert str(caught.value).endswith(" at $.items[2].price")
        assert caught.value.code == 400


def test_a_wrong_field_of_a_protobuf_message_is_named() -> None:
    with pytest.raises(CodecError, match="price"):
        codecs.decode("application/json", pb.Order, b'{"items":[{"price":"x"}]}')


@strict
def test_a_model_within_a_dataclass_has_one_path(sort: str) -> None:
    type_ = dict[str, list[MODELS[sort][0]]]  # type: ignore[misc]
    with pytest.raises(CodecError, match=r" at \$\[\.\.\.\]\[0\]\.items\[0\]\.name$"):
        codecs.decode("application/json", type_, b'{"k":[{"id":1,"items":[{"price":1}]}]}')


@every
def test_an_optional_model_may_be_null(sort: str) -> None:
    read = codecs.reader(MODELS[sort][0] | None)
    assert read("application/json", b"null") is None
    assert read("application/json", codecs.encode("application/json", an_order(sort)))


def test_object_is_any_value_and_other_classes_are_refused() -> None:
    assert codecs.decode("application/json", object, b'{"a":[1]}') == {"a": [1]}
    with pytest.raises(CodecError, match="Canary.* is no type that JSON carries"):
        codecs.decode("application/json", Canary, b"{}")
    with pytest.raises(CodecError, match="Canary is no type that JSON carries"):
        codecs.encode("application/json", [Canary()])


@every
def test_models_within_plain_values_encode(sort: str) -> None:
    body = codecs.encode("application/json", {"orders": [an_order(sort)], "none": None})
    read = codecs.decode("application/json", dict[str, Any], body)
    assert read["orders"][0]["items"][1]["name"] == "ü"


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Rich:
    at: datetime
    day: date
    took: timedelta
    id: uuid.UUID
    price: Decimal
    colour: Colour
    raw: bytes
    either: int | str | None
    inner: Item | None = None
    kind: Literal["a", "b"] = "a"
    table: dict[int, tuple[int, str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)


class RichModel(pydantic.BaseModel):
    at: datetime
    id: uuid.UUID
    price: Decimal
    colour: Colour
    either: int | ModelItem | ModelOrder
    same_name: int = pydantic.Field(alias="sameName")
    model_config = pydantic.ConfigDict(strict=True)


AT = datetime(2020, 2, 29, 12, 30, 1, 250, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        Rich(
            AT,
            AT.date(),
            timedelta(days=2, microseconds=1),
            uuid.UUID(int=5),
            Decimal("1.10"),
            Colour.RED,
            b"\xff\0",
            None,
            Item("a", 1e300),
            "b",
            {3: (4, "five")},
            {"x", "y"},
        ),
        RichModel(
            at=AT,
            id=uuid.UUID(int=5),
            price=Decimal("1.10"),
            colour=Colour.RED,
            either=ModelOrder(id=3),
            sameName=4,
        ),
    ],
)
def test_rich_fields_round_trip(value: Any) -> None:
    body = codecs.encode("application/json", value)
    assert codecs.decode("application/json", type(value), body) == value


# -- through services ----------------------------------------------------------------------------


class Everything:
    async def dataclass(self, order: Order) -> Order:
        return order

    async def struct(self, order: StructOrder) -> StructOrder:
        return order

    async def typeddict(self, order: TypedOrder) -> TypedOrder:
        return order

    async def pydantic(self, order: ModelOrder) -> ModelOrder:
        return order

    async def protobuf(self, order: pb.Order) -> pb.Order:
        return order

    async def plain(self, value: Any) -> Any:
        return value

    async def number(self, value: int) -> int:
        return value

    async def raw(self, value: bytes) -> bytes:
        return value

    async def nothing(self, value: None) -> None:
        return None

    def wrong_reply(self, value: Any) -> Any:
        return {"id": "x"}


@asynccontextmanager
async def running(service: Service | None = None) -> AsyncIterator[tuple[Service, Client]]:
    async with AsyncExitStack() as stack:
        if service is None:
            service = Service("s", registry="memory", transport="memory", broker="memory")
        service.handle(Everything())
        await stack.enter_async_context(service)
        client = Client(registry="memory", transport="memory", broker="memory")
        yield service, await stack.enter_async_context(client)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")


@every
def test_a_call_and_a_subscriber_carry_every_sort(sort: str) -> None:
    type_ = MODELS[sort][0]

    async def body() -> None:
        service = Service("s", registry="memory", transport="memory", broker="memory")
        got: asyncio.Queue[Any] = asyncio.Queue()

        async def on_order(order: Any) -> None:
            got.put_nowait(order)

        on_order.__annotations__["order"] = type_
        service.subscribe("orders")(on_order)
        async with running(service) as (_, client):
            value = an_order(sort)
            endpoint = f"Everything.{sort.capitalize()}"
            assert await client.call("s", endpoint, value, type_) == value
            as_json = {"content_type": "application/json"}
            assert await client.call("s", endpoint, value, type_, **as_json) == value
            await client.publish("orders", value)
            assert await got.get() == value

    in_loop(body)()


@in_loop
async def test_plain_values_bytes_and_nothing() -> None:
    async with running() as (_, client):
        for value in (None, True, 1.5, "x", [1, {"a": None}], {"k": 2**70}):
            assert await client.call("s", "Everything.Plain", value) == value
        assert await client.call("s", "Everything.Number", 3, int) == 3
        assert await client.call("s", "Everything.Raw", b"\xff\0", bytes) == b"\xff\0"
        await client.call("s", "Everything.Nothing", None)
        await client.call("s", "Everything.Nothing", b"")
        await client.call("s", "Everything.Nothing", pb.Item())


@in_loop
async def test_a_bad_request_is_400_and_a_bad_reply_is_the_clients() -> None:
    async with running() as (_, client):
        order = {"id": 1, "items": [{"name": "a", "price": "x"}]}
        with pytest.raises(BadRequest, match=r"\$\.items\[0\]\.price") as refused:
            await client.call("s", "Everything.Dataclass", order)
        assert (refused.value.code, refused.value.happened) == (400, "no")
        with pytest.raises(CodecError, match=r"\$\.id"):
            await client.call("s", "Everything.WrongReply", 1, Order)
        with pytest.raises(BadRequest, match=r"application/protobuf cannot carry .*Order"):
            await client.call("s", "Everything.Dataclass", pb.Order(id=1))


@in_loop
async def test_the_content_type_follows_the_value_and_the_answer_the_request() -> None:
    seen: list[tuple[str, str]] = []
    service = Service("s", registry="memory", transport="memory", broker="memory")
    dispatch = service.server.dispatch

    async def spy(request: Any, stream: Any) -> Any:
        response = await dispatch(request, stream)
        seen.append((request.content_type, response.content_type))
        return response

    service.server.dispatch = spy  # type: ignore[method-assign]
    async with running(service) as (_, client):
        await client.call("s", "Everything.Protobuf", pb.Order(id=1), pb.Order)
        await client.call("s", "Everything.Raw", b"x", bytes)
        await client.call("s", "Everything.Dataclass", Order(1), Order)
    assert seen == [
        ("application/protobuf", "application/protobuf"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/json", "application/json"),
    ]


class Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.canary_has_run = True",)


@pytest.mark.parametrize(
    "content_type",
    ["application/python-pickle", "application/x-python-serialize", "application/pickle"],
)
def test_a_pickle_is_never_run(content_type: str) -> None:
    import pickle

    canary = pickle.dumps(Canary())

    async def body() -> None:
        service = Service("s", registry="memory", transport="memory", broker="memory")
        ran = asyncio.Event()

        async def on_event(value: Any) -> None:
            ran.set()

        on_event.__annotations__["value"] = Any
        service.subscribe("t")(on_event)
        dead: asyncio.Queue[Message] = asyncio.Queue()

        async def on_dead(event: Any) -> None:
            dead.put_nowait(event.message)

        async with running(service) as (_, client):
            parts = client._parts
            assert parts is not None
            parts.codecs._by_type[content_type] = BytesCodec()  # this side sends it
            for endpoint in ("Everything.Plain", "Everything.Dataclass"):
                with pytest.raises(UnsupportedMediaType) as caught:
                    await client.call("s", endpoint, canary, content_type=content_type)
                assert caught.value.code == 415
            await parts.broker.acquire(client)
            subscription = await parts.broker.subscribe("t.dead", on_dead)
            await client.publish("t", canary, content_type=content_type)
            assert (await dead.get()).header["Micro-Attempts"] == "1"
            await subscription.unsubscribe()
            assert not ran.is_set()

    in_loop(body)()
    assert not hasattr(sys, "canary_has_run")
    pickle.loads(canary)
    assert sys.canary_has_run  # the canary can sing
    del sys.canary_has_run


def test_a_request_that_nothing_carries_is_an_error_that_names_the_endpoint() -> None:
    async def odd(request: Item | Order) -> None: ...

    async def body() -> None:
        service = Service("s", registry="memory", transport="memory", broker="memory")
        service.endpoint("Odd.One")(odd)
        with pytest.raises(TypeError, match=r"Odd\.One: .*more than one dataclass"):
            async with service:
                pass

    in_loop(body)()


def test_neither_pydantic_nor_protobuf_is_imported_for_who_has_none() -> None:
    code = """
import asyncio, sys
from dataclasses import dataclass
from micro_core import Client, Service
@dataclass
class A: x: int
async def a(request: A) -> A: return request
async def main():
    service = Service("s", registry="memory", transport="memory", broker="memory")
    service.endpoint("A.A")(a)
    async with service:
        assert await service.client.call("s", "A.A", A(1), A) == A(1)
asyncio.run(main())
print(*sorted({"pydantic", "google.protobuf.message", "google.protobuf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
