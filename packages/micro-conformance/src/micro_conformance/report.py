"""Verdicts, and the ``conformance.json`` that they become."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["kept", "broken", "deviates", "unsupported", "unclaimed", "not run"]
"""
unsupported: an ability the plugin does not declare, and refuses with NotSupported as it must.
unclaimed: a guarantee the plugin does not give; the figures say what happened this time.
not run: the server could not be broken, or could not be had; ``note`` says why.
"""


@dataclass(slots=True)
class Result:
    promise: str
    sentence: str
    verdict: Verdict
    seconds: float = 0.0
    note: str = ""
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Report:
    """All results of a run, by ``kind:name`` of the plugin."""

    plugins: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, plugin: str, origin: str, backend: str, result: Result) -> None:
        """``origin`` is a distribution and its version, ``backend`` a server and its version."""
        head = {"origin": origin, "backend": backend, "python": platform.python_version()}
        entry = self.plugins.setdefault(plugin, {**head, "results": []})
        entry["backend"] = max(entry["backend"], backend, key=len)  # not each knows the version
        entry["results"].append(asdict(result))

    def counts(self) -> Iterator[tuple[str, str]]:
        """The name of each plugin, and how many promises got which verdict, in words."""
        for name, entry in sorted(self.plugins.items()):
            found = Counter(result["verdict"] for result in entry["results"])
            yield name, ", ".join(f"{number} {verdict}" for verdict, number in found.most_common())

    def write(self, path: Path) -> None:
        """Replaces the plugins of this run in ``path`` and keeps the others."""
        before: dict[str, dict[str, Any]] = {}
        if path.exists():
            before = json.loads(path.read_text())["plugins"]
        for entry in self.plugins.values():
            entry["results"].sort(key=itemgetter("promise"))
        merged = dict(sorted((before | self.plugins).items()))
        text = json.dumps({"suite": _version("micro-conformance"), "plugins": merged}, indent=1)
        path.write_text(text + "\n")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
