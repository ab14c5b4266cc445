"""The test classes of ``--micro-plugin``. Pytest collects them from here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from micro_core import SettingsError
from micro_core.plugin import Plugin
from micro_core.plugins import load

from .backend import AddressBackend
from .suite import Suite
from .suites import NoSuite, suite_of

classes: dict[str, type[Suite[Any]]] = {}


def choose(names: Iterable[str], address: str) -> None:
    """Replace the classes of this module. Raises pytest.UsageError, which says what is wrong."""
    for name in classes:
        del globals()[name]
    classes.clear()
    for name in names:
        one = _chosen(name, address)
        classes[one.__name__] = one
    globals().update(classes)


def _chosen(choice: str, address: str) -> type[Suite[Any]]:
    kind, _, name = choice.partition(":")
    try:
        suite, plugin = suite_of(kind), load(kind, name)
        if address:
            AddressBackend(address)
    except (NoSuite, SettingsError, ValueError) as error:
        raise pytest.UsageError(f"--micro-plugin {choice}: {error}") from error
    return suite_for(suite, plugin, address)


def suite_for(suite: type[Suite[Any]], plugin: type[Plugin], address: str) -> type[Suite[Any]]:
    """A test class that tries ``plugin``.

    A plugin whose default address has a port needs a server.
    """
    default = str(getattr(plugin, "default_address", ""))
    port = re.fullmatch(r"[^/]+:([0-9]+)", default)

    def make(self: Suite[Any], address: str) -> Plugin:
        made: Plugin = self.configured(plugin, address)
        return made

    body = {
        "make": make,
        "server": plugin.name if address or port else "",
        "address": address,
        "port": int(port[1]) if port else 0,
        "__module__": __name__,
        "__doc__": f"The promises of {plugin.kind} {plugin.name}.",
    }
    words = re.findall(r"\w+", f"{plugin.kind} {plugin.name}")
    return type("Test" + "".join(map(str.title, words)), (suite,), body)
