"""The suite of each kind. A new suite is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .broker import BrokerSuite
from .codec import CodecSuite
from .registry import RegistrySuite
from .rpc import RpcSuite
from .selector import SelectorSuite
from .store import StoreSuite
from .suite import Suite
from .transport import TransportSuite

SUITES: Mapping[str, type[Suite[Any]]] = {
    "broker": cast(Any, BrokerSuite),
    "codec": cast(Any, CodecSuite),
    "registry": cast(Any, RegistrySuite),
    "rpc": cast(Any, RpcSuite),
    "selector": cast(Any, SelectorSuite),
    "store": cast(Any, StoreSuite),
    "transport": cast(Any, TransportSuite),
}


class NoSuite(Exception):
    """A kind of plugin that no suite is written for."""


def suite_of(kind: str) -> type[Suite[Any]]:
    """Raises NoSuite, which names the kinds that have one."""
    if kind == "client":
        return SUITES["rpc"]  # which tries the server of the same name with it
    if kind not in SUITES:
        raise NoSuite(f"no suite for kind {kind!r}: there are {', '.join(sorted(SUITES))}")
    return SUITES[kind]
