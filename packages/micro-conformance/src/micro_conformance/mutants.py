"""The suite's own test: plugins with one fault each, and which promises notice.

A mutant wraps the memory plugin of its kind and breaks one thing. It names the promises it is
for. A promise that no mutant breaks is unproved: nobody has seen it fail.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from micro_core import Component
from micro_core.plugin import Plugin

from . import leaks
from .backend import Backend
from .promise import Promise, promises_of
from .suite import Suite

C = TypeVar("C", bound=type[Plugin])
Matrix = Mapping[str, frozenset[str]]  # by mutant: the promises that failed


@dataclass(frozen=True, slots=True)
class Mutant:
    """``real``: only the promises that need real time are tried on it, which takes a while."""

    plugin: type[Plugin]
    promises: frozenset[str]
    real: bool = False

    @property
    def name(self) -> str:
        return self.plugin.__name__

    @property
    def fault(self) -> str:
        """The one thing that is broken, in a sentence: the docstring of the class."""
        return " ".join((self.plugin.__doc__ or "").split())


MUTANTS: dict[str, list[Mutant]] = {}


def mutant(*promises: str, real: bool = False) -> Callable[[C], C]:
    """Make a faulty plugin one of the mutants of its kind, which must fail ``promises``."""

    def add(plugin: C) -> C:
        MUTANTS.setdefault(plugin.kind, []).append(Mutant(plugin, frozenset(promises), real))
        return plugin

    return add


def failed(suite: type[Suite[Any]], plugin: type[Plugin], *, real: bool = False) -> frozenset[str]:
    """The promises that ``plugin`` breaks; those that could not be tried count as kept.

    One with a class attribute ``backend`` stands for a plugin with a server: a new one of these is
    its ``server`` for each promise, and only those that break their server are tried.
    """
    backend: type[Backend] | None = getattr(plugin, "backend", None)

    class Tried(suite):  # type: ignore[misc, valid-type]
        jumping = True

        def make(self, address: str) -> Any:
            return plugin(address) if issubclass(plugin, Component) else plugin()

    trying = Tried()
    with _quiet():
        return frozenset(
            one.name
            for one in promises_of(suite)
            if one.breaks is (backend is not None)
            and (one.real or not real)
            and _fails(trying, one, _served(plugin, backend))
        )


def _served(plugin: Any, backend: type[Backend] | None) -> Backend | None:
    server = None if backend is None else backend()
    if server is not None:
        plugin.server = server
    return server


@contextmanager
def _quiet() -> Iterator[None]:
    """What faulty plugins leave behind is not worth a word, and is gone before others are tried."""
    logging.disable(logging.CRITICAL)
    patience, leaks.PATIENCE = leaks.PATIENCE, 0.2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        leaks.PATIENCE = patience
        logging.disable(logging.NOTSET)


def _fails(suite: Suite[Any], promise: Promise, backend: Backend | None) -> bool:
    try:
        suite._judge(promise, backend, {})
    except pytest.skip.Exception:
        return False
    except (Exception, pytest.fail.Exception):
        return True
    return False


def matrix(suite: type[Suite[Any]], mutants: Iterable[Mutant]) -> Matrix:
    gc.freeze()  # what is there by now need not be looked through after each mutant
    try:
        return {one.name: failed(suite, one.plugin, real=one.real) for one in mutants}
    finally:
        gc.unfreeze()


def unproved(suite: type[Suite[Any]], found: Matrix) -> list[str]:
    """The promises that no mutant breaks, and that could be tried on one."""
    killed = frozenset[str]().union(*found.values())
    return [one.name for one in promises_of(suite) if not one.breaks and one.name not in killed]


def table(suite: type[Suite[Any]], found: Matrix) -> str:
    """One line a promise, with the mutants that it fails."""
    lines = [f"{len(found)} mutants, {len(promises_of(suite))} promises"]
    for one in promises_of(suite):
        by = [name for name, promises in found.items() if one.name in promises]
        lines.append(f"  {one.name}: {', '.join(by) or 'UNPROVED'}")
    return "\n".join(lines)
