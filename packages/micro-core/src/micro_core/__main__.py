"""``python -m micro_core``: the installed plugins as a table; none of them is imported."""

from __future__ import annotations

import sys
from collections import Counter

from . import plugins


def table() -> str:
    found = plugins.installed()
    claims = Counter((one.kind, one.name) for one in found)
    rows = [("KIND", "NAME", "DISTRIBUTION", "CLASS", "")]
    for one in found:
        note = f"needs {one.misfit}" if one.misfit else ""
        if one.dist == plugins.CORE and (lacks := plugins.lacking(one.kind, one.name)):
            note = f"not available: {plugins.pip_line(lacks)}"
        if claims[one.kind, one.name] > 1:
            note = f"conflict: say {one.dist}:{one.name}"
        rows.append((one.kind, one.name, one.origin, one.value, note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
