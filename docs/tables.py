"""The tables of docs/conformance.md and of README.md, made from conformance.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

from micro_conformance.table import Plugins, details, promises, summary

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "conformance.json"
PAGE = ROOT / "docs/conformance.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- made from conformance.json: begin -->\n", "<!-- end -->\n"
INTRODUCTION = """\
# What each plugin promises and keeps

Made from [conformance.json](../conformance.json) by `nox -s docs`, on the real servers.

- kept: tried, and true.
- unsupported: an ability that the plugin does not declare and refuses with `NotSupported`.
- unclaimed: a guarantee that the plugin does not give; what happened this time is told.
- deviates: not kept, for a reason that the plugin's author gives.
- not run: there is no server to break, no other process, or the codec does not carry such values.
"""


def plugins() -> Plugins:
    found: Plugins = json.loads(REPORT.read_text())["plugins"]
    return found


def page(found: Plugins) -> str:
    parts = [
        INTRODUCTION,
        summary(found),
        "## By promise",
        promises(found),
        "## What is to be said",
        details(found),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def filled(readme: str, found: Plugins) -> str:
    """The README with the summary between its two marks."""
    marks = re.escape(BEGIN), re.escape(END)
    return re.sub(
        f"{marks[0]}.*?{marks[1]}", lambda _: f"{BEGIN}{summary(found)}\n{END}", readme, flags=re.S
    )


if __name__ == "__main__":
    PAGE.write_text(page(plugins()))
    README.write_text(filled(README.read_text(), plugins()))
