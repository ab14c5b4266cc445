"""Markdown from a ``conformance.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from .report import Verdict

Plugins = Mapping[str, Mapping[str, Any]]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def summary(plugins: Plugins) -> str:
    """One row a plugin: how many promises got which verdict."""
    head = ["plugin", "of", "server", *VERDICTS]
    rows = [
        [name, entry["origin"], entry["backend"] or "none needed", *_counts(entry)]
        for name, entry in plugins.items()
    ]
    return _table(head, rows)


def details(plugins: Plugins) -> str:
    """For each plugin what is to be said beside ``kept``: the notes and the figures."""
    return "\n\n".join(_detail(name, entry) for name, entry in plugins.items())


def promises(plugins: Plugins) -> str:
    """One row a promise, one column a plugin, kind by kind."""
    kinds = sorted({name.partition(":")[0] for name in plugins})
    return "\n\n".join(_promises_of(kind, plugins) for kind in kinds)


def _counts(entry: Mapping[str, Any]) -> list[str]:
    found = Counter(result["verdict"] for result in entry["results"])
    return [f"{found[verdict] or ''}" for verdict in VERDICTS]


def _detail(name: str, entry: Mapping[str, Any]) -> str:
    rows = [[r["sentence"], r["verdict"], _said(r)] for r in entry["results"] if _speaks(r)]
    about = f"**{name}**, {entry['origin']}, Python {entry['python']}"
    return f"{about}\n\n{_table(['promise', 'verdict', 'said'], rows)}"


def _speaks(result: Mapping[str, Any]) -> bool:
    return bool(result["verdict"] != "kept" or result["figures"])


def _said(result: Mapping[str, Any]) -> str:
    figures = (f"{name}: {value}" for name, value in result["figures"].items())
    return "; ".join(filter(None, [result["note"], *figures]))


def _promises_of(kind: str, plugins: Plugins) -> str:
    own = {name: entry for name, entry in plugins.items() if name.partition(":")[0] == kind}
    verdicts = {
        name: {r["sentence"]: r["verdict"] for r in entry["results"]} for name, entry in own.items()
    }
    sentences = sorted({sentence for found in verdicts.values() for sentence in found})
    rows = [[each, *(found.get(each, "") for found in verdicts.values())] for each in sentences]
    return _table([kind, *(name.partition(":")[2] for name in own)], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in [head, ["---"] * len(head), *rows]:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
