"""What the registry shows of the types of an endpoint, as Go Micro writes it."""

from __future__ import annotations

import enum
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec
import protobuf_messages as pb
import pydantic
import pytest

from micro_core.registry.records import Value
from micro_core.registry.wire import endpoint_from_json, endpoint_to_json
from micro_core.server.endpoint import plan_of
from micro_core.server.schema import value_of


@dataclass
class Item:
    name: str
    price: float


@dataclass
class Order:
    id: int
    items: list[Item]
    first: Item | None = None


class StructOrder(msgspec.Struct, rename="camel"):
    order_id: int
    first: Item


class TypedOrder(TypedDict):
    id: int
    items: list[Item]
    first: Item


class ModelItem(pydantic.BaseModel):
    name: str
    price: float


class ModelOrder(pydantic.BaseModel):
    id: int
    items: list[ModelItem]
    first: ModelItem | None = None
    either: int | ModelItem | Item = 0
    named: str = pydantic.Field("", alias="other")


ITEM = [Value("name", "string"), Value("price", "float64")]


@pytest.mark.parametrize("type_", [Order, TypedOrder])
def test_fields_lists_and_nested_fields(type_: Any) -> None:
    value = value_of(type_)
    assert value is not None
    assert (value.name, value.type) == (type_.__name__, type_.__name__)
    assert sorted(value.values, key=lambda each: each.name) == [
        Value("first", "Item", ITEM),
        Value("id", "int64"),
        Value("items", "[]Item"),
    ]


def test_names_are_those_on_the_wire() -> None:
    assert value_of(StructOrder) == Value(
        "StructOrder", "StructOrder", [Value("orderId", "int64"), Value("first", "Item", ITEM)]
    )


def test_pydantic() -> None:
    assert value_of(ModelOrder) == Value(
        "ModelOrder",
        "ModelOrder",
        [
            Value("id", "int64"),
            Value("items", "[]ModelItem"),
            Value("first", "ModelItem", ITEM),
            Value("either", "any"),
            Value("other", "string"),
        ],
    )


def test_protobuf() -> None:
    assert value_of(pb.Order) == Value(
        "Order",
        "Order",
        [
            Value("id", "int64"),
            Value("items", "[]Item"),
            Value("note_text", "string"),
            Value("first", "Item", ITEM),
            Value("before", "Order"),
            Value("raw", "[]uint8"),
            Value("tags", "[]string"),
            Value("counts", "map[string]uint32"),
            Value("state", "State"),
        ],
    )


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (int, "int64"),
        (str, "string"),
        (bytes, "[]uint8"),
        (bool, "bool"),
        (Any, "any"),
        (list[Item], "[]Item"),
        (list[list[int]], "[][]int64"),
        (set[str], "[]string"),
        (tuple[int, ...], "[]int64"),
        (dict[str, Item], "map[string]Item"),
        (dict, "map[any]any"),
        (list, "[]any"),
        (int | None, "int64"),
        (int | str, "int64|string"),
        (datetime, "datetime"),
        (uuid.UUID, "uuid"),
        (Colour, "Colour"),
        (Literal["a"], "literal"),
        (Item | Order, "any"),
        (object, "object"),
    ],
)
def test_names_of_types(type_: Any, text: str) -> None:
    assert value_of(type_) == Value(text, text)


def test_no_message_is_no_value() -> None:
    assert value_of(None) is None
    assert value_of(type(None)) is None


@dataclass
class Tree:
    value: int
    left: Tree | None = None
    children: list[Tree] = field(default_factory=list)


@dataclass
class Deep4:
    x: int


@dataclass
class Deep3:
    deep: Deep4


@dataclass
class Deep2:
    deep: Deep3


@dataclass
class Deep1:
    deep: Deep2


def test_a_type_within_itself_is_cut() -> None:
    fields = [Value("value", "int64"), Value("left", "Tree"), Value("children", "[]Tree")]
    assert value_of(Tree) == Value("Tree", "Tree", fields)


def test_two_levels_of_fields_are_shown() -> None:
    assert value_of(Deep1) == Value(
        "Deep1", "Deep1", [Value("deep", "Deep2", [Value("deep", "Deep3")])]
    )


def test_a_stream_shows_its_messages_and_travels() -> None:
    async def talk(lines: AsyncIterator[Item]) -> AsyncIterator[pb.Item]:
        async for _ in lines:
            yield pb.Item()

    talk.__annotations__.update(
        {"lines": AsyncIterator[Item], "return": AsyncIterator[pb.Item]}  # type: ignore[valid-type]
    )
    record = plan_of(talk, "Say.Talk").record()
    assert record.metadata == {"stream": "true"}
    assert record.request == record.response == Value("Item", "Item", ITEM)
    assert endpoint_from_json(endpoint_to_json(record)) == record
