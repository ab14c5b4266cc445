"""Durations as texts, and command lines of any kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core.errors import OptionError, SettingsError
from micro_core.flags import read_flags
from micro_core.options import Duration, reader_for, seconds
from micro_core.settings import Settings


def text_of(value: float) -> str:
    reader = reader_for(Duration)
    assert reader is not None
    return reader.show(value)


@given(st.integers(0, 10**12))
def test_every_duration_is_read_back_as_it_was_shown(microseconds: int) -> None:
    value = microseconds / 1_000_000
    assert seconds(text_of(value)) == value


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_units_add_up(hours: int, minutes: int, rest: int, milli: int) -> None:
    whole = hours * 3600 + minutes * 60 + rest
    assert seconds(f"{hours}h{minutes}m{rest}s") == whole
    assert seconds(f"{minutes}m{rest}s{milli}ms") == minutes * 60 + rest + milli / 1000
    assert seconds(f"{milli}us") == milli / 1_000_000
    assert seconds(f" {whole} ") == whole


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (90.0, "90s"), (0.25, "0.25s"), (3600, "3600s"), (1.5, "1.5s"), (1e-5, "0.00001s")],
)
def test_durations_are_short(value: float, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    "text", ["", " ", "s", "5 s", "-5s", "+5", "5x", "1m30", "1e3", "inf", "nan", "٣s", "5S"]
)  # fmt: skip
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


def test_a_duration_has_an_end() -> None:
    with pytest.raises(ValueError, match="too long"):
        seconds("9" * 400 + "h")


_WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["--", "-h", "--help", "--no-help", "--grace", "--grace=1s", "--no-grace=", "-"]
    ),
)


@given(st.lists(_WORDS, max_size=6))
def test_any_command_line_is_read_or_refused(argv: list[str]) -> None:
    settings = Settings.read(argv, {})
    try:
        settings.check()
    except SettingsError as error:
        assert isinstance(error, OptionError)
        return
    assert {flag.partition("=")[0].replace("--no-", "--") for flag in argv if flag[:2] == "--"} <= {
        "--help", "--grace"
    }  # fmt: skip


_NAMES = st.from_regex(r"(?!no[-_])[a-z]+([-_][a-z]+)?", fullmatch=True)


@given(st.dictionaries(_NAMES, st.text(), max_size=5), st.sets(st.integers(0, 4)), st.text())
def test_every_flag_is_read_as_it_was_given(
    values: dict[str, str], apart: set[int], stray: str
) -> None:
    argv: list[str] = []
    for number, (name, text) in enumerate(values.items()):
        is_flag = text == "-h" or text.startswith("--")
        argv += [f"--{name}", text] if number in apart and not is_flag else [f"--{name}={text}"]
    read, strays = read_flags([*argv, "--grace=", f"x{stray}"])
    texts = {name.replace("-", "_"): text for name, text in values.items()} | {"grace": ""}
    assert {name: one.text for name, one in read.items()} == texts
    assert strays == [(f"x{stray}", "grace")]
