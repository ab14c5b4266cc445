"""The promises of codecs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from ..backend import Backend
from . import corpus
from .hostile import Hostile
from .lab import CodecLab
from .records import Records
from .shape import Shape
from .values import Values


class CodecSuite(Values, Records, Hostile, Shape):
    """Every promise of a codec. Subclass it, name the class ``Test…``, and write ``make``.

    ``make`` takes an address, as all suites' do; a codec has no use for it. What it is tried with
    by default suits a codec of plain values and dataclasses, as one of JSON; another says what it
    carries:

    values: types, and a value of each that comes back as it was.
    translated: a value, a type it is read as, and what is read: fields that are not known.
    missing, mistyped: a value, a type that it is not, and words that the error has to name, the
        path of what is missing or wrong.
    """

    kind: ClassVar[str] = "codec"
    values: ClassVar[Sequence[tuple[Any, Any]]] = corpus.VALUES
    translated: ClassVar[Sequence[tuple[Any, Any, Any]]] = corpus.TRANSLATED
    missing: ClassVar[Sequence[tuple[Any, Any, Sequence[str]]]] = corpus.MISSING
    mistyped: ClassVar[Sequence[tuple[Any, Any, Sequence[str]]]] = corpus.MISTYPED

    def same(self, one: Any, other: Any) -> bool:
        """Whether a value has come back; override it for types without ``==``."""
        return type(one) is type(other) and bool(one == other)

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> CodecLab:
        return CodecLab(self, backend, stack)
