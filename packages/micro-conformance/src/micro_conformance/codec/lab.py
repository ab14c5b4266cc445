"""Ways to use a codec."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from micro_core import Codec, CodecError

from ..lab import Lab

REFUSED = object()


class CodecLab(Lab[Codec]):
    @property
    def values(self) -> Sequence[tuple[Any, Any]]:
        """Copies: a codec may change what it is given."""
        given = cast("Sequence[tuple[Any, Any]]", self.suite.values)  # type: ignore[attr-defined]
        return [(type_, copy.deepcopy(value)) for type_, value in given]

    @property
    def types(self) -> list[Any]:
        """Every type that the codec says it carries, once."""
        found: list[Any] = []
        for type_, _ in self.values:
            if type_ not in found:
                found.append(type_)
        return found

    def carries(self, type_: Any) -> bool:
        return type_ in self.types

    def plain(self) -> bool:
        """Whether it carries plain values: lists and dictionaries of texts and numbers."""
        return any(type_ is Any and isinstance(value, dict) for type_, value in self.values)

    def same(self, one: Any, other: Any) -> bool:
        return bool(self.suite.same(one, other))  # type: ignore[attr-defined]

    def only_json(self) -> Codec:
        """The codec, if it is one of JSON; the others leave the test."""
        codec = self.make()
        if "application/json" not in codec.content_types:
            pytest.skip("it does not carry application/json")
        return codec


def passed(codec: Codec, type_: Any, value: Any) -> Any:
    """The value after it was encoded and decoded, or REFUSED if either was refused."""
    try:
        decode = codec.decoder(type_)
    except TypeError:
        return REFUSED
    try:
        return decode(codec.encode(value))
    except CodecError:
        return REFUSED


def survived(decode: Callable[[bytes], Any], body: bytes) -> bool:
    """Whether the body was decoded; False for a CodecError, and any other error passes."""
    try:
        decode(body)
    except CodecError:
        return False
    return True


def try_many(strategy: Any, check: Callable[[Any], None], examples: int = 25) -> None:
    """Have hypothesis look for an example that fails; the same ones every time."""
    from hypothesis import HealthCheck, Phase, given, settings

    quiet = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # making an example smaller may take minutes
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

    def example(tried: Any) -> None:
        check(tried)

    quiet(given(tried=strategy)(example))()
