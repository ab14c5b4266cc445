"""Values with named fields, and peers that are not of one mind about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from micro_core import Codec, CodecError

from ..promise import promise
from ..suite import Suite
from .corpus import OlderPerson
from .lab import CodecLab


class Records(Suite[Codec]):
    @promise()
    async def test_unknown_fields_are_ignored(self, lab: CodecLab) -> None:
        """What a newer peer has added is ignored, and the rest is read."""
        codec = lab.make()
        for value, type_, wanted in _given(self, "translated"):
            back = codec.decoder(type_)(codec.encode(value))
            assert lab.same(back, wanted), f"{value!r} as {type_} is read as {back!r}"

    @promise()
    async def test_a_missing_field_is_named(self, lab: CodecLab) -> None:
        """A required field that is missing is a CodecError that names it and the path to it."""
        _are_named(lab.make(), _given(self, "missing"))

    @promise()
    async def test_a_wrong_field_is_named(self, lab: CodecLab) -> None:
        """A field of another type is a CodecError that names it and the path to it."""
        _are_named(lab.make(), _given(self, "mistyped"))

    @promise()
    async def test_of_equal_keys_one_counts(self, lab: CodecLab) -> None:
        """Of equal keys in JSON the last counts, for every type, or the body is a CodecError."""
        codec = lab.only_json()
        body = b'{"name":"first","name":"last"}'
        for type_, wanted in ((Any, {"name": "last"}), (OlderPerson, OlderPerson("last"))):
            try:
                back = codec.decoder(type_)(body)
            except CodecError:
                continue
            assert back == wanted, f"{back!r} for {type_}"


def _given(suite: Any, name: str) -> Sequence[Any]:
    given: Sequence[Any] = getattr(suite, name)
    if not given:
        pytest.skip(f"the suite names none: {name} is empty")
    return given


def _are_named(codec: Codec, given: Sequence[Any]) -> None:
    for value, type_, words in given:
        body = value if isinstance(value, bytes) else codec.encode(value)
        try:
            back = codec.decoder(type_)(body)
        except CodecError as error:
            lost = [word for word in words if word not in str(error)]
            assert not lost, f"{str(error)!r} does not name {lost}"
        else:
            raise AssertionError(f"{value!r} passed for {type_} as {back!r}")
