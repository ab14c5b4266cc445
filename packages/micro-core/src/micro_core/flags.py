"""What a user gave: flags of the command line and variables of the environment, as texts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import OptionError
from .options import Reader, shown

PREFIX = "MICRO_"
_KUBERNETES = r".*_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP).*)"
log = logging.getLogger("micro.settings")


class Given(NamedTuple):
    """One text and where it came from: ``--registry_token``, ``MICRO_REGISTRY_TOKEN``.

    ``text`` is None for a flag without a value; ``negated`` is ``--no-name``.
    """

    source: str
    text: str | None
    negated: bool = False

    def __repr__(self) -> str:
        return f"Given({self.source!r})"

    def read(self, reader: Reader) -> Any:
        """The value. Raises OptionError, without the text where that is a secret."""
        if self.negated and (not reader.switch or self.text is not None):
            raise OptionError(f"{self.source}: only a flag that is true or false has a 'no' form")
        if self.text is None:
            return self._bare(reader)
        try:
            return reader.read(self.text)
        except ValueError as error:
            text = "the value" if reader.hidden else shown(self.text)
            cause = None if reader.hidden else error
            raise OptionError(f"{self.source}: {text} is not {reader.form}") from cause

    def _bare(self, reader: Reader) -> bool:
        if not reader.switch:
            raise OptionError(f"{self.source} needs a value: {reader.form}")
        return not self.negated


class Flags(NamedTuple):
    """``--name value``, ``--name=value``, ``--name`` and ``--no-name``, the last of each.

    ``-`` and ``_`` are one in names, which are kept with ``_``. ``stray`` is what belongs to no
    flag, each with the flag before it.
    """

    given: Mapping[str, Given] = {}
    stray: Sequence[tuple[str, str]] = ()

    @classmethod
    def read(cls, argv: Iterable[str]) -> Flags:
        given, stray, rest = dict[str, Given](), list[tuple[str, str]](), list(argv)[::-1]
        before = ""
        while rest:
            word = rest.pop()
            if not _is_flag(word):
                stray.append((word, before))
                continue
            before, one = _flag("--help" if word == "-h" else word, rest)
            given[before] = one
        return cls(given, stray)


def _is_flag(word: str) -> bool:
    return word == "-h" or (word.startswith("--") and len(word) > 2)


def _flag(word: str, rest: list[str]) -> tuple[str, Given]:
    spelled, equals, value = word.partition("=")
    name = spelled[2:].replace("-", "_")
    text = value if equals else None
    if name.startswith("no_"):
        return name[3:], Given(spelled, text, negated=True)
    if not equals and rest and not _is_flag(rest[-1]) and rest[-1] != "--":
        text = rest.pop()
    return name, Given(spelled, text)


class Environment:
    """The ``MICRO_*`` variables. An empty one is as good as none, and so are Kubernetes' own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._texts = {
            name: text
            for name, text in environ.items()
            if name.startswith(PREFIX) and text and not _from_kubernetes(name, text)
        }

    def get(self, name: str, *, path: bool = False, files: bool = True) -> Given | None:
        """The variable of option ``name``, or the content of the file that its ``_FILE`` names.

        ``path``: the option is a path itself; ``files``: there may be a file.
        """
        variable = variable_of(name)
        text = self._texts.get(variable)
        file = self._texts.get(f"{variable}_FILE") if files else None
        if file is None:
            return None if text is None else Given(variable, text)
        if path:
            raise OptionError(f"{variable}_FILE: a path is not kept in a file: set {variable}")
        if text is not None:
            raise OptionError(f"{variable} and {variable}_FILE are both set: unset one of them")
        return Given(f"{variable}_FILE", _content(f"{variable}_FILE", file))

    def unknown(self, names: Iterable[str]) -> list[str]:
        """The variables that belong to none of the options."""
        known = {variable_of(name) for name in names}
        return [v for v in self._texts if v not in known and v.removesuffix("_FILE") not in known]


def variable_of(name: str) -> str:
    return PREFIX + name.upper()


def _from_kubernetes(name: str, text: str) -> bool:
    return bool(re.fullmatch(_KUBERNETES, name)) or (name.endswith("_PORT") and "://" in text)


def _content(variable: str, file: str) -> str:
    from pathlib import Path

    try:
        return Path(file).read_text("utf-8").strip()
    except OSError as error:
        raise OptionError(
            f"{variable}: {shown(file, 200)} cannot be read: {error.strerror}"
        ) from error
    except ValueError:  # its text would quote the content
        raise OptionError(f"{variable}: {shown(file, 200)} is not text in UTF-8") from None


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The name most like ``name``, ``""`` when none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(names), n=1, cutoff=cutoff)), "")
