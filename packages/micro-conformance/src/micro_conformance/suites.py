"""The suite of each kind. A new suite is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .codec import CodecSuite
from .registry import RegistrySuite
from .selector import SelectorSuite
from .suite import Suite
from .transport import TransportSuite

SUITES: Mapping[str, type[Suite[Any]]] = {
    "codec": CodecSuite,  # type: ignore[type-abstract]
    "registry": RegistrySuite,  # type: ignore[type-abstract]
    "selector": SelectorSuite,  # type: ignore[type-abstract]
    "transport": TransportSuite,  # type: ignore[type-abstract]
}


class NoSuite(Exception):
    """A kind of plugin that no suite is written for."""


def suite_of(kind: str) -> type[Suite[Any]]:
    """Raises NoSuite, which names the kinds that have one."""
    if kind not in SUITES:
        raise NoSuite(f"no suite for kind {kind!r}: there are {', '.join(sorted(SUITES))}")
    return SUITES[kind]
