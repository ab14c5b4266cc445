"""``python -m micro_conformance table conformance.json``: Markdown from a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .table import details, promises, summary

FORMS = {"summary": summary, "details": details, "promises": promises}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="micro_conformance", description=__doc__)
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser("table", help="a Markdown table of a conformance.json")
    table.add_argument("file", type=Path, help="what --micro-report has written")
    table.add_argument("--form", choices=FORMS, default="summary", help="summary by default")
    given = parser.parse_args(argv)
    try:
        plugins = json.loads(given.file.read_text())["plugins"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{given.file} is no conformance.json: {error}")
    sys.stdout.write(FORMS[given.form](plugins) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
