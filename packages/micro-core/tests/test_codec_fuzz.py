"""Codecs, header names and names of services, against whatever Hypothesis thinks of."""

from __future__ import annotations

import json as stdlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import protobuf_messages as pb
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micro_core import CodecError, InvalidName, UnsupportedMediaType
from micro_core.codec.bytes import BytesCodec
from micro_core.codec.json import JsonCodec
from micro_core.codec.protobuf import ProtobufCodec
from micro_core.codec.set import CodecSet
from micro_core.message import canonical, checked_header
from micro_core.registry.records import check_name

Test = Callable[..., None]


def quick_and_full(quick: int, full: int) -> Callable[[Test], Any]:
    """Parametrize by the number of examples; the test runs ``examples(number)(given(...))``."""
    numbers = [quick, pytest.param(full, marks=[pytest.mark.full, pytest.mark.timeout(1800)])]
    return pytest.mark.parametrize("number", numbers)


def run(number: int, test: Test, *strategies: st.SearchStrategy[Any]) -> None:
    limits = settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    limits(given(*strategies)(test))()


@dataclass
class Item:
    name: str
    price: float = 0.0
    at: datetime | None = None
    id: UUID | None = None
    more: dict[str, list[int]] = field(default_factory=dict)


class Struct(msgspec.Struct):
    name: str
    price: Decimal = Decimal(0)
    took: timedelta | None = None
    day: date | None = None
    raw: bytes = b""
    within: list[Item] = []


class Typed(TypedDict, total=False):
    name: str
    either: int | str | None
    items: tuple[Item, ...]


class Model(pydantic.BaseModel):
    name: str
    price: float = 0.0
    at: datetime | None = None
    within: list[Model] = []
    either: int | str | None = None


JSON, PROTOBUF, BYTES = JsonCodec(), ProtobufCodec(), BytesCodec()
TYPES: list[Any] = [Any, None, int, str, float, bytes, dict[str, int], list[Any], datetime, Decimal]
TYPES += [Item, Struct, Typed, Model, pb.Order, pb.Strict, Model | None, list[pb.Item]]
DECODERS = {
    "json": [JSON.decoder(type_) for type_ in TYPES],
    "protobuf": [PROTOBUF.decoder(type_) for type_ in (Any, type(None), pb.Order, pb.Strict)],
    "bytes": [BYTES.decoder(type_) for type_ in (Any, bytes, type(None))],
}
CODECS = {"json": JSON, "protobuf": PROTOBUF, "bytes": BYTES}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.sampled_from(["name", "price", "at", "id", "within", "items", "first", "raw", "either"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | texts, inner, max_size=4),
    max_leaves=8,
)
documents = plain.map(lambda value: stdlib.dumps(value).encode())
"""With NaN, infinities and halves of surrogate pairs, as Python's own json writes them."""


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(documents))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(body)


wire = st.builds(
    lambda parts: b"".join(bytes([tag]) + body for tag, body in parts),
    st.lists(st.tuples(st.integers(0, 63), st.binary(max_size=10)), max_size=6),
)
INPUT = {
    "json": st.binary(max_size=40) | documents | damaged(),
    "protobuf": st.binary(max_size=40) | wire,
    "bytes": st.binary(),
}


@quick_and_full(10_000, 100_000)
@pytest.mark.parametrize("codec", CODECS)
def test_any_bytes_are_a_value_or_a_codec_error(codec: str, number: int) -> None:
    outcomes = {"value": 0, "error": 0}

    def read(decode: Any, body: bytes) -> None:
        try:
            value = decode(body)
        except CodecError as error:
            assert str(error)
            outcomes["error"] += 1
        else:
            outcomes["value"] += 1
            CODECS[codec].encode(value)  # and what was read can be written

    run(number, read, st.sampled_from(DECODERS[codec]), INPUT[codec])
    assert outcomes["value"] > 100
    assert codec == "bytes" or outcomes["error"] > 100


@quick_and_full(200, 20_000)
def test_any_value_encodes_or_is_a_codec_error(number: int) -> None:
    odd = st.recursive(
        plain | st.binary(max_size=3) | st.complex_numbers() | st.just(object()) | st.decimals(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain.filter(_hashable), inner),
        max_leaves=6,
    )

    def write(value: object) -> None:
        for codec in CODECS.values():
            try:
                body = codec.encode(value)
            except CodecError:
                continue
            codec.decoder(Any)(body)

    run(number, write, odd)


def _hashable(value: object) -> bool:
    return not isinstance(value, list | dict)


finite = st.floats(allow_nan=False, allow_infinity=False)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=st.just(UTC) | zones).filter(lambda at: 1 < at.year < 9999)
items = st.builds(
    Item,
    name=texts,
    price=finite,
    at=st.none() | times,
    id=st.none() | st.uuids(),
    more=st.dictionaries(texts, st.lists(st.integers(), max_size=2), max_size=2),
)
typed = st.one_of(
    items,
    st.builds(
        Struct,
        name=texts,
        price=st.decimals(allow_nan=False, allow_infinity=False),
        took=st.none() | st.timedeltas(timedelta(-1000), timedelta(1000)),
        day=st.none() | st.dates(),
        raw=st.binary(max_size=8),
        within=st.lists(items, max_size=2),
    ),
    st.builds(
        Model,
        name=texts,
        price=finite,
        at=st.none() | times,
        within=st.lists(st.builds(Model, name=texts, either=st.none() | st.integers() | texts)),
    ),
    st.builds(
        pb.Order,
        id=st.integers(-(2**63), 2**63 - 1),
        items=st.lists(st.builds(pb.Item, name=texts, price=st.floats(allow_nan=False))),
        raw=st.binary(),
    ),
)


@quick_and_full(1000, 20_000)
def test_typed_values_round_trip_exactly(number: int) -> None:
    def trip(value: Any) -> None:
        assert JSON.decoder(type(value))(JSON.encode(value)) == value
        if isinstance(value, pb.Order):
            assert PROTOBUF.decoder(pb.Order)(PROTOBUF.encode(value)) == value

    run(number, trip, typed)


@quick_and_full(300, 10_000)
def test_a_content_type_is_known_or_415(number: int) -> None:
    codecs = CodecSet([PROTOBUF, BYTES], JSON)
    read = codecs.reader(bytes)

    def ask(content_type: str) -> None:
        try:
            read(content_type, b'"YQ=="')
        except UnsupportedMediaType as error:
            assert (error.code, error.happened) == (415, "no")
        except CodecError:
            assert content_type.split(";")[0].strip().lower() == "application/protobuf"

    known = st.sampled_from(
        ["application/json", "APPLICATION/PROTOBUF", "application/octet-stream"]
    )
    near = st.builds(lambda a, b, c: a + b + c, st.text(max_size=2), known, st.text(max_size=5))
    run(number, ask, st.text() | known | near)


# -- names ---------------------------------------------------------------------------------------

near_names = st.text("aZ-_09 :\r\n\0é\x7f", max_size=12) | st.text(max_size=12)


@quick_and_full(500, 10_000)
def test_a_header_passes_whole_or_is_refused(number: int) -> None:
    def check(header: dict[str, str]) -> None:
        try:
            checked = checked_header(header)
        except InvalidName:
            return
        for name, value in header.items():
            assert name.isascii()
            assert name.isprintable()
            assert not set(name) & set(" :\r\n\0")
            assert not set(value) & set("\r\n\0")
            assert canonical(name) in checked
        assert checked_header(checked) == checked
        assert set(checked.values()) <= set(header.values())

    run(number, check, st.dictionaries(near_names, near_names, max_size=3))


@quick_and_full(500, 10_000)
def test_a_canonical_name_stays_and_is_the_same_name(number: int) -> None:
    def check(name: str) -> None:
        once = canonical(name)
        assert canonical(once) == once
        assert once.lower() == name.lower()
        assert canonical(name.upper()) == canonical(name.lower()) == once

    run(number, check, st.text("abcXYZ019-_.!~", max_size=20))


@quick_and_full(500, 10_000)
def test_a_name_is_kept_or_is_invalid(number: int) -> None:
    def check(name: str) -> None:
        try:
            assert check_name(name) == name
        except InvalidName as error:
            assert error.code == 400
            assert "\n" not in str(error)
            str(error).encode()
        else:
            assert name == name.strip()
            assert 0 < len(name.encode()) <= 255
            assert not set(name) & set("\r\n\0\t\x7f\u2028")

    run(number, check, near_names | st.text(min_size=80, max_size=300))
