"""What a user gave: flags of the command line and variables of the environment, as texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .errors import OptionError
from .options import Reader, shown

PREFIX = "MICRO_"
_KUBERNETES = r".*_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP).*)"


class Given(NamedTuple):
    """One text and where it came from: ``--registry_token``, ``MICRO_REGISTRY_TOKEN``.

    ``text`` is True for a flag without a value, and False for ``--no-name``.
    """

    source: str
    text: str | bool

    def __repr__(self) -> str:
        return f"Given({self.source!r})"

    def read(self, reader: Reader) -> Any:
        """The value. Raises OptionError, without the text where that may be a secret."""
        if isinstance(self.text, bool):
            if reader.switch:
                return self.text
            no = "" if self.text else "is not true or false: it has no 'no' form and "
            raise OptionError(f"{self.source} {no}needs a value: {reader.form}")
        try:
            return reader.read(self.text)
        except ValueError as error:
            secret = reader.hidden or (reader.reason and not {*"@?"}.isdisjoint(self.text))
            text = "the value" if secret else shown(self.text)
            why = f": {error}" if reader.reason else ""
            raise OptionError(f"{self.source}: {text} is not {reader.form}{why}") from (
                None if reader.hidden else error
            )


def read_flags(argv: Iterable[str]) -> tuple[dict[str, Given], list[tuple[str, str]]]:
    """``--name value``, ``--name=value``, ``--name`` and ``--no-name``, the last of each.

    ``-`` and ``_`` are one in names, which are kept with ``_``. The list is of what belongs to no
    flag, each with the flag before it.
    """
    given, stray, before = dict[str, Given](), list[tuple[str, str]](), ""
    rest = ["--help" if word == "-h" else word for word in argv][::-1]
    while rest:
        word = rest.pop()
        spelled, equals, value = word.partition("=")
        text: str | bool = value if equals else True
        if not _is_flag(word):
            stray.append((word, before))
            continue
        before = spelled[2:].replace("-", "_")
        if before.startswith("no_") and not equals:
            before, text = before[3:], False
        elif not equals and rest and not _is_flag(rest[-1]) and rest[-1] != "--":
            text = rest.pop()
        given[before] = Given(spelled, text)
    return given, stray


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def read_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """The ``MICRO_*`` variables. An empty one is as good as none, and so are Kubernetes' own."""
    return {
        name: Given(name, text)
        for name, text in environ.items()
        if name.startswith(PREFIX)
        and text
        and not (re.fullmatch(_KUBERNETES, name) or (name.endswith("_PORT") and "://" in text))
    }


def content(variable: Given) -> Given:
    """What the file that a variable names holds, without the white space around it."""
    from pathlib import Path

    source, file = variable.source, str(variable.text)
    try:
        return Given(source, Path(file).read_text("utf-8").strip())
    except OSError as error:
        what, cause = f"cannot be read: {error.strerror}", error
    except ValueError:  # its text would quote the content
        what, cause = "is not text in UTF-8", None
    raise OptionError(f"{source}: {shown(file, 200)} {what}") from cause


def variable_of(name: str) -> str:
    return PREFIX + name.upper()


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The name most like ``name``, ``""`` when none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(names), n=1, cutoff=cutoff)), "")
