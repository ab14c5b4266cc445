"""The codecs of the core round-trip, and refuse with CodecError and nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core import CodecError, UnsupportedMediaType
from micro_core.codec.bytes import BytesCodec
from micro_core.codec.json import JsonCodec
from micro_core.codec.set import CodecSet


@dataclass
class Person:
    name: str
    age: int = 0
    tags: list[str] = field(default_factory=list)


class Struct(msgspec.Struct):
    name: str
    age: int = 0
    tags: list[str] = []


class Typed(TypedDict):
    name: str
    age: int
    tags: list[str]


json = JsonCodec()
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(values)
def test_plain_values_round_trip_and_infinity_does_not(value: object) -> None:
    if _has_infinity(value):
        with pytest.raises(CodecError, match="not JSON compliant"):
            json.encode(value)
    else:
        assert json.decoder(Any)(json.encode(value)) == value


def _has_infinity(value: object) -> bool:
    if isinstance(value, float):
        return math.isinf(value)
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | dict) and any(_has_infinity(item) for item in items)  # type: ignore[union-attr]


@pytest.mark.parametrize("type_", [Person, Struct, Typed])
@given(texts, st.integers(0, 150), st.lists(texts))
def test_typed_values_round_trip(type_: Callable[..., Any], name: str, age: int, tags: Any) -> None:
    value = type_(name=name, age=age, tags=tags)
    assert json.decoder(type_)(json.encode(value)) == value


def test_unknown_fields_are_ignored() -> None:
    assert json.decoder(Person)(b'{"name":"a","new":{"x":[1]}}') == Person("a")


def test_a_missing_field_is_named_by_its_path() -> None:
    @dataclass
    class Team:
        people: list[Person]

    with pytest.raises(CodecError, match=r"name.*\$\.people\[1\]"):
        json.decoder(Team)(b'{"people":[{"name":"a"},{"age":3}]}')


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name":1}',
        b"[]",
        b"NaN",
        b'{"name":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"name":"a","age":1e999}',
        b'{"name":"a","age":' + b"9" * 5000 + b"}",
        b"null",
        b"",
        b"\x80\x04\x95",
    ],
)
def test_bad_json_is_a_codec_error(body: bytes) -> None:
    with pytest.raises(CodecError):
        json.decoder(Person)(body)


@pytest.mark.parametrize("value", [object(), {1, object()}, b"\xff".decode("latin1") and object])
def test_what_does_not_encode_is_a_codec_error(value: object) -> None:
    with pytest.raises(CodecError):
        json.encode(value)


def test_a_recursive_value_is_a_codec_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError):
        json.encode(loop)


@given(st.binary())
def test_bytes_pass_as_they_are(body: bytes) -> None:
    codec = BytesCodec()
    assert codec.decoder(bytes)(codec.encode(body)) == body


def test_bytes_refuse_everything_else() -> None:
    with pytest.raises(CodecError, match="int"):
        BytesCodec().encode(3)
    with pytest.raises(TypeError):
        BytesCodec().decoder(int)


def codecs() -> CodecSet:
    return CodecSet([BytesCodec()], json)


def test_a_content_type_matches_without_case_and_parameters() -> None:
    assert codecs().decode("Application/JSON; charset=utf-8", Person, b'{"name":"a"}') == Person(
        "a"
    )


def test_an_unknown_content_type_says_what_there_is() -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json") as caught:
        codecs().decode("application/x-python-pickle", Any, b"\x80\x04N.")
    assert caught.value.code == 415


def test_a_type_the_codec_cannot_carry_is_a_codec_error() -> None:
    with pytest.raises(CodecError, match="octet-stream"):
        codecs().decode("application/octet-stream", Person, b"")


def test_hostile_content_types_leave_nothing_behind() -> None:
    reader = codecs().reader(Any)
    for number in range(1000):
        assert reader(f"application/json; n={number}", b"1") == 1
    built = inspect.getclosurevars(reader).nonlocals["built"]
    assert set(built) == {"application/json", "application/octet-stream"}
