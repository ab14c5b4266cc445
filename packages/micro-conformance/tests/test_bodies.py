"""A large body that has changed is told in a line, and at once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from micro_conformance.bodies import same

MIB = bytes(range(256)) * 4096


@pytest.mark.parametrize("value", [b"", b"a", "text", [1, 2], MIB])
def test_what_is_the_same_passes(value: Any) -> None:
    same(value, value[:])


@pytest.mark.parametrize(
    ("found", "wanted", "told"),
    [
        (b"abX", b"abcd", "3 long instead of 4; from place 2 on it is b'X' instead of b'cd'"),
        (b"ab", b"abcd", "from place 2 on it is b'' instead of b'cd'"),
        ([1, 3], [1, 2], r"from place 1 on it is \[3\] instead of \[2\]"),
        ("b", b"b", "of type str instead of bytes"),
        (None, b"b", "of type NoneType instead of bytes"),
    ],
)
def test_it_says_where_they_part(found: Any, wanted: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        same(found, wanted)


def test_a_mebibyte_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    text = MIB.decode(errors="replace").encode()
    begin = time.process_time()
    with pytest.raises(AssertionError) as caught:
        same(text, MIB)
    assert time.process_time() - begin < 5, "a quadratic comparison takes minutes"
    assert len(str(caught.value)) < 500
