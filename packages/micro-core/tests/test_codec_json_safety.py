"""JSON from strangers: a value or a CodecError, in bounded time and memory."""

from __future__ import annotations

import json as stdlib
import math
import time
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from micro_core import CodecError
from micro_core.codec.json import JsonCodec

json = JsonCodec()
MIB = 2**20


@dataclass
class Person:
    name: str
    age: float = 0
    tags: list[str] = field(default_factory=list)
    more: Any = None


class Struct(msgspec.Struct):
    price: float
    note: str | None = None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "around",
    [
        lambda number: number,
        lambda number: [None, {"a": (number,)}],
        lambda number: {number, 1.0},
        lambda number: Person("x", number),
        lambda number: Person("x", more={"k": number}),
        lambda number: Struct(number),
        lambda number: {"big": 2**70, "x": number},
    ],
)
def test_what_json_has_no_number_for_does_not_encode(number: float, around: Any) -> None:
    with pytest.raises(CodecError, match="not JSON compliant"):
        json.encode(around(number))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"big": 2**70, "none": None},
        Struct(1.5),
        [None, b"\xcb\x7f\xf0\xcb\xff\xf8", "null", 1.7976931348623157e308],
        {"raw": msgspec.Raw(b'{"a":null}'), "none": None},
        {1.5: None},
    ],
)
def test_null_itself_encodes(value: object) -> None:
    assert stdlib.loads(json.encode(value)) is not value or value is None


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1,NaN]", "1e400", "-1e999"])
@pytest.mark.parametrize("type_", [Any, float, list[float], Person])
def test_numbers_that_json_has_not_do_not_decode(text: str, type_: Any) -> None:
    with pytest.raises(CodecError):
        json.decoder(type_)(text.encode())


@pytest.mark.parametrize("text", ['"NaN"', '"inf"', "true", "null"])
def test_a_float_is_a_number(text: str) -> None:
    with pytest.raises(CodecError):
        json.decoder(float)(text.encode())


def test_of_two_equal_keys_the_last_one_counts() -> None:
    """As in Go and in Python's own json: what a service reads is what its peers meant."""
    body = b'{"name":"first","name":"last"}'
    assert json.decoder(Any)(body) == {"name": "last"}
    assert json.decoder(Person)(body) == Person("last")


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\udc00\ud800"', r'"\ud800A"', r'{"\ud83d":1}'])
def test_half_a_surrogate_pair_does_not_decode(text: str) -> None:
    with pytest.raises(CodecError):
        json.decoder(Any)(text.encode())
    with pytest.raises(CodecError):
        json.encode(stdlib.loads(text))


def test_a_whole_surrogate_pair_decodes() -> None:
    assert json.decoder(Any)(rb'"\ud83d\ude00"') == "\U0001f600"


BOMBS = {
    "lists": b"[" * MIB,
    "objects": b'{"a":' * MIB,
    "closed lists": b"[" * MIB + b"]" * MIB,
    "digits": b"9" * MIB,
    "digits in a field": b'{"name":"a","age":' + b"9" * MIB + b"}",
    "fraction": b"0." + b"9" * MIB + b"e" + b"9" * 100,
    "exponent": b"1e" + b"9" * MIB,
    "half a text": b'"' + b"\\u0041" * MIB,
    "blanks": b" " * MIB,
    "keys": b"{" + b",".join(b'"%d":[' % n for n in range(MIB // 8)),
    "wrong items": b'{"name":"a","tags":[' + b"1," * MIB + b"1]}",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("type_", [Any, Person])
def test_a_bomb_is_refused_and_costs_no_more_than_a_message_of_its_size(
    bomb: str, type_: Any
) -> None:
    decode, body = json.decoder(type_), BOMBS[bomb]
    honest = stdlib.dumps({"name": "a", "tags": ["abcdefghij"] * (len(body) // 13)}).encode()
    begin = time.process_time()
    json.decoder(Any)(honest)
    middle = time.process_time()
    tracemalloc.start()
    try:
        if bomb == "wrong items" and type_ is Any:
            decode(body)
        else:
            with pytest.raises(CodecError):
                decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    spent = time.process_time() - middle
    assert spent < 50 * (middle - begin) + 0.05  # nothing grows with the square of the size
    assert peak < 30 * len(body)


def test_many_small_values_cost_a_bounded_multiple_of_their_bytes() -> None:
    """A list of lists is the worst: two bytes and a comma are an object of 56."""
    for body in (b"[" + b"[]," * (MIB // 3) + b"1]", b"[" + b"{}," * (MIB // 3) + b"1]"):
        tracemalloc.start()
        try:
            json.decoder(Any)(body)
            assert tracemalloc.get_traced_memory()[1] < 30 * len(body)
        finally:
            tracemalloc.stop()


def test_the_depth_that_decodes_is_refused_with_a_reason_beyond() -> None:
    with pytest.raises(CodecError, match="recursion"):
        json.decoder(Any)(b"[" * 100_000 + b"]" * 100_000)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError, match="recursion"):
        json.encode(deep)


def test_an_error_shows_nothing_of_a_long_value() -> None:
    with pytest.raises(CodecError) as caught:
        json.decoder(Person)(b'{"name":[' + b'"secret",' * 10_000 + b'""]}')
    assert len(str(caught.value)) < 200
    assert "secret" not in str(caught.value)
