"""What comes back of what was encoded."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from micro_core import Codec

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import REFUSED, CodecLab, passed, try_many

INTEGERS = [sign * (2**bits + more) for bits in (31, 32, 53, 63, 64, 70, 1000)
            for more in (-1, 0, 1) for sign in (1, -1)]  # fmt: skip
HALVES = ("\ud800", "a\udc00b", "\udc00\ud800", {"\ud83d": 1}, ["\udfff"])


class Values(Suite[Codec]):
    @promise()
    async def test_values_come_back(self, lab: CodecLab) -> None:
        """Every value that a codec carries comes back equal and of the same type."""
        codec = lab.make()
        for type_, value in lab.values:
            back = codec.decoder(type_)(codec.encode(value))
            assert lab.same(back, value), f"{value!r} as {type_} came back as {back!r}"

    @promise()
    async def test_a_body_is_bytes(self, lab: CodecLab) -> None:
        """What a value encodes to is bytes, not a text, a bytearray or a view."""
        codec = lab.make()
        for _, value in lab.values:
            assert type(codec.encode(value)) is bytes

    @promise()
    async def test_encoding_is_the_same_every_time(self, lab: CodecLab) -> None:
        """A value encodes to the same bytes again and again, also in another codec object."""
        codec, other = lab.make(), lab.make()
        for _, value in lab.values:
            body = codec.encode(value)
            assert [codec.encode(value), other.encode(value)] == [body, body], repr(value)

    @promise()
    async def test_encoding_changes_nothing(self, lab: CodecLab) -> None:
        """A value that was encoded is as it was before."""
        codec = lab.make()
        for _, value in lab.values:
            before = copy.deepcopy(value)
            codec.encode(value)
            assert lab.same(value, before), f"{before!r} has become {value!r}"

    @promise()
    async def test_decoded_values_are_apart(self, lab: CodecLab) -> None:
        """Values that are decoded from one body share nothing that can be changed."""
        codec = lab.make()
        for type_, value in lab.values:
            decode, body = codec.decoder(type_), codec.encode(value)
            one, other = decode(body), decode(body)
            shared = _inner(one) & _inner(other)
            assert not shared, f"{value!r} decodes to the same object twice"

    @promise()
    async def test_nothing_is_carried(self, lab: CodecLab) -> None:
        """None encodes, and a body of it decodes as None where nothing is asked for."""
        codec = lab.make()
        assert codec.decoder(type(None))(codec.encode(None)) is None

    @promise()
    async def test_texts_and_bytes_are_exact(self, lab: CodecLab) -> None:
        """Any text, and any bytes, come back as they are from a codec that carries such."""
        from hypothesis import strategies

        codec = lab.make()
        kinds = [(str, strategies.text()), (bytes, strategies.binary())]
        for type_, strategy in kinds:
            if not lab.carries(type_):
                continue
            decode = codec.decoder(type_)

            def check(value: Any, decode: Any = decode) -> None:
                assert decode(codec.encode(value)) == value

            try_many(strategy, check)

    @promise()
    async def test_plain_values_are_exact(self, lab: CodecLab) -> None:
        """Any lists and dictionaries of texts, numbers, booleans and None come back exactly."""
        from hypothesis import strategies as s

        if not lab.plain():
            pytest.skip("it does not carry plain values")
        codec = lab.make()
        decode = codec.decoder(Any)
        numbers = s.integers(-(2**53), 2**53) | s.floats(allow_nan=False, allow_infinity=False)
        leaves = s.none() | s.booleans() | numbers | s.text()

        def check(value: Any) -> None:
            assert decode(codec.encode(value)) == value

        try_many(s.recursive(leaves, lambda v: s.lists(v) | s.dictionaries(s.text(), v)), check)

    @promise()
    async def test_integers_are_exact_or_refused(self, lab: CodecLab) -> None:
        """An integer of any size comes back as it is or is a CodecError, and is never rounded."""
        codec = lab.make()
        for type_ in (int, Any):
            for number in INTEGERS:
                back = passed(codec, type_, number)
                exact = type(back) is int and back == number
                assert exact or back is REFUSED, f"{number} as {type_} came back as {back!r}"

    @promise()
    async def test_floats_are_exact_or_refused(self, lab: CodecLab) -> None:
        """A float, NaN and infinities too, comes back to the last digit or is a CodecError."""
        from hypothesis import strategies

        codec = lab.make()
        type_ = float if lab.carries(float) else Any

        def check(number: float) -> None:
            for around in (number, [number]):
                back = passed(codec, type_ if around is number else Any, around)
                found: Any = back[0] if around is not number and back is not REFUSED else back
                exact = isinstance(found, int | float) and repr(float(found)) == repr(number)
                assert exact or found is REFUSED, f"{number!r} came back as {found!r}"

        for number in (float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1e22):
            check(number)
        try_many(strategies.floats(allow_nan=False), check)

    @promise()
    async def test_half_a_surrogate_is_whole_or_refused(self, lab: CodecLab) -> None:
        """A text that is not valid Unicode comes back as it is or is a CodecError."""
        codec = lab.make()
        for value in HALVES:
            for type_ in (str, Any):
                back = passed(codec, type_, value)
                assert back is REFUSED or back == value, f"{value!r} came back as {back!r}"

    @promise()
    async def test_a_mebibyte_is_carried(self, lab: CodecLab) -> None:
        """A text, bytes, and a list of a MiB come back whole, where they are carried."""
        codec = lab.make()
        large: list[tuple[Any, Any]] = [(str, "Ж" * (1 << 19)), (bytes, bytes(range(256)) * 4096)]
        if lab.carries(list[int]):
            large.append((list[int], [*range(1 << 17)]))
        for type_, value in large:
            if lab.carries(type_):
                same(codec.decoder(type_)(codec.encode(value)), value, "the value")


def _inner(value: Any) -> set[int]:
    """The ids of a value and of what it holds, as far as it can be changed."""
    if not hasattr(value, "__dict__") and type(value).__hash__ is not None:
        return set()
    held = getattr(value, "__dict__", value)
    parts: list[Any] = [*held.values()] if hasattr(held, "values") else [*held]
    return {id(value)}.union(*map(_inner, parts))
