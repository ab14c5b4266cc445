"""What codecs are tried with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from .canary import Canary


@dataclass
class Person:
    name: str
    age: int = 0
    tags: list[str] = field(default_factory=list[str])


@dataclass
class OlderPerson:
    """How a peer that is not up to date reads a Person."""

    name: str


@dataclass
class Team:
    name: str
    people: list[Person]
    lead: Person | None = None
    scores: dict[str, float] = field(default_factory=dict[str, float])


class Film(TypedDict):
    title: str
    year: int


ANN, BOB = Person("Ann", 30, ["a", "b"]), Person("Жанна 👋")

VALUES: Sequence[tuple[Any, Any]] = (
    (Any, None),
    (Any, True),
    (Any, False),
    (Any, 0),
    (Any, -(2**53)),
    (Any, 0.1),
    (Any, -1.5e300),
    (Any, ""),
    (Any, 'text with "quotes", \\ and \u2028\0'),
    (Any, []),
    (Any, [1, "two", None, [3.5, {}], {"four": [True]}]),
    (Any, {"": 0, "Жанна": "👋", "a b": {"c": [{"d": None}]}}),
    (bool, True),
    (int, 2**53),
    (float, 2.5),
    (str, "Жанна 你好 👋🏽"),
    (list[int], [3, 1, 2]),
    (dict[str, float], {"a": 0.5}),
    (int | None, None),
    (Person, ANN),
    (Person, BOB),
    (list[Person], [ANN, BOB]),
    (Team, Team("x", [ANN, BOB], BOB, {"Ann": 1.5})),
    (Film, {"title": "M", "year": 1931}),
)
TRANSLATED: Sequence[tuple[Any, Any, Any]] = (
    (ANN, OlderPerson, OlderPerson("Ann")),
    ({"name": "Ann", "more": {"deep": [1, {"deeper": None}]}, "": 0}, Person, Person("Ann")),
    ({"name": "x", "people": [{"name": "Ann", "new": 1}]}, Team, Team("x", [Person("Ann")])),
)
MISSING: Sequence[tuple[Any, Any, Sequence[str]]] = (
    ({"age": 3}, Person, ("name",)),
    ({"name": "x", "people": [{"name": "Ann"}, {"age": 3}]}, Team, ("people", "1", "name")),
)
MISTYPED: Sequence[tuple[Any, Any, Sequence[str]]] = (
    ({"name": 7}, Person, ("name",)),
    ({"name": "x", "people": [{"name": "Ann", "tags": ["a", 5]}]}, Team, ("people", "tags", "1")),
    ({"name": "x", "people": [], "scores": {"Ann": "many"}}, Team, ("scores",)),
)

STRANGE: Sequence[Any] = (
    object(),
    len,
    asyncio,
    Canary(),
    threading.Lock(),
    iter([1]),
    [object()],
    {"key": object()},
)

NO_JSON = (
    b"{", b"[", b'"', b"}", b"]", b"[1,]", b"[,1]", b"[1 2]", b'{"a":1,}', b"{a:1}", b"{'a':1}",
    b'{"a" 1}', b'{"a":}', b"{1:2}", b"nul", b"None", b"True", b"undefined", b"NaN", b"Infinity",
    b"-Infinity", b"+1", b"01", b"-", b"1.", b".5", b"1e", b"0x10", b"1_000", b"1e400", b"1 2",
    b'"a" "b"', b"{}x", b"[1]]", b'"\x01"', b'"a\nb"', b'"\\x41"', b'"\\u12"', b'"\\ud800"',
    b'"\\udc00\\ud800"', b"// no\n1", b"/* no */ 1", b"\xff", b'"\xff"', b'"\xed\xa0\x80"',
    b'"\xc0\xaf"', b"\xfe\xff\x001", b"1\x00", b"\x001",
)  # fmt: skip
JSON: Sequence[tuple[bytes, Any]] = (
    (b" \t\r\n1 \n", 1),
    (b"-0", 0),
    (b"1E2", 100.0),
    (b"1e-2", 0.01),
    (rb'"\u0041\n\t\"\\\/\b\f\r"', 'A\n\t"\\/\b\f\r'),
    (rb'"\ud83d\ude00"', "\U0001f600"),
    (rb'"\u0000"', "\0"),
    (b'[ 1 , { "a" : [ ] } ]', [1, {"a": []}]),
    (b'{"a":null,"b":false}', {"a": None, "b": False}),
)
