"""Every mutant fails the promises it is for, and nearly every promise is failed by a mutant."""

from __future__ import annotations

import importlib

import pytest

from micro_conformance.mutants import MUTANTS, failed, matrix, table, unproved
from micro_conformance.promise import promises_of
from micro_conformance.suites import SUITES

LEAST = {
    "registry": 40,
    "broker": 45,
    "transport": 28,
    "codec": 25,
    "rpc": 35,
    "selector": 15,
    "store": 15,
}


@pytest.mark.timeout(600)  # about a minute a kind on an idle machine
@pytest.mark.parametrize("kind", SUITES)
def test_the_kill_matrix(kind: str, record_property: pytest.RecordProperty) -> None:
    importlib.import_module(f"micro_conformance.faulty.{kind}")
    suite, mutants = SUITES[kind], MUTANTS[kind]
    promises = promises_of(suite)
    found = matrix(suite, mutants)
    print(f"{kind}: {table(suite, found)}")
    left = unproved(suite, found)
    record_property("unproved", left)
    for one in mutants:
        missed = one.promises - found[one.name]
        assert not missed, f"{one.name} ({one.fault}) is not noticed by {sorted(missed)}"
        blunt = len(found[one.name]) > len(promises) / 3
        assert not blunt, f"{one.name} fails {len(found[one.name])} of {len(promises)}: too blunt"
    assert len(promises) >= LEAST[kind]
    tried = [one for one in promises if not one.breaks]
    assert len(left) <= len(tried) / 10, f"unproved: {left}"


def test_what_breaks_servers_is_proved_for_registries() -> None:
    """On a server that lives in memory, with a plugin that has no fault and some that have."""
    from micro_conformance.faulty.registry import Served

    suite = SUITES["registry"]
    assert failed(suite, Served) == frozenset()
    served = [one for one in MUTANTS["registry"] if issubclass(one.plugin, Served)]
    killed = frozenset[str]().union(*matrix(suite, served).values())
    assert killed == {one.name for one in promises_of(suite) if one.breaks}
