"""Addresses for plugins that need no server, some of which take theirs for a path."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path


def scratch(name: str) -> str:
    """A path below a directory that is gone when the process ends."""
    return str(Path(_directory().name) / name)


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="micro-", ignore_cleanup_errors=True)
