"""Large values compared."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

_SHOWN = 20


def same(found: Any, wanted: Sequence[Any], what: str = "the body") -> None:
    """Fails with the lengths and with the place where they part.

    Pytest's own explanation of ``==`` takes quadratic time over a MiB where ``CI`` is set.
    """
    if found == wanted:
        return
    kinds = type(found).__name__, type(wanted).__name__
    if kinds[0] != kinds[1]:
        raise AssertionError(f"{what} is now of type {kinds[0]} instead of {kinds[1]}")
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(found, wanted, strict=False))
    at = sum(1 for _ in pairs)
    raise AssertionError(
        f"{what} has changed: {len(found)} long instead of {len(wanted)}; from place {at} on it is"
        f" {found[at : at + _SHOWN]!r} instead of {wanted[at : at + _SHOWN]!r}"
    )
