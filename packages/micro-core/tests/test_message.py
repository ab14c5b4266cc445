"""Header names, and what may not be in a header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core import InvalidName, message
from micro_core.message import canonical, checked_header


@pytest.mark.parametrize(
    ("name", "expected"),
    [("micro-id", "Micro-Id"), ("MICRO-ID", "Micro-Id"), ("requestID", "Requestid"), ("x", "X")],
)
def test_names_are_written_as_go_writes_them(name: str, expected: str) -> None:
    assert canonical(name) == expected
    assert canonical(canonical(name)) == expected


def test_names_that_peers_make_up_do_not_pile_up() -> None:
    for number in range(10_000):
        canonical(f"x-{number}")
    canonical("x" * 10_000)
    assert len(message._CANONICAL) <= message._KEPT
    assert max(map(len, message._CANONICAL)) <= message._KEPT_LENGTH


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_header_passes_whole_or_is_refused(name: str, value: str) -> None:
    try:
        checked = checked_header({name: value})
    except InvalidName:
        odd = not name or not name.isascii() or not name.isprintable() or set(name) & set(" :")
        assert odd or set(value) & set("\r\n\0")
    else:
        assert checked == {canonical(name): value}
        assert not set(value) & set("\r\n\0")


def test_a_name_that_was_seen_says_nothing_of_its_next_value() -> None:
    header = {"Seen-Before": "one"}
    first = checked_header(header)
    second = checked_header(header)
    assert first == second == header
    assert first is not header
    assert second is not header
    with pytest.raises(InvalidName, match="line break"):
        checked_header({"Seen-Before": "one\r\nInjected: two"})
