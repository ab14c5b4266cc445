"""The tables of the documentation are those of conformance.json, and that is about what is here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from micro_conformance.promise import promises_of
from micro_conformance.suites import SUITES

ROOT = Path(__file__).parent.parent
REMEDY = "run nox -s docs"


def tables() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_readme_have_the_tables_of_the_report() -> None:
    made = tables()
    found = made.plugins()
    page_is_current = made.page(found) == made.PAGE.read_text()
    assert page_is_current, REMEDY
    readme = made.README.read_text()
    assert made.BEGIN in readme
    readme_is_current = made.filled(readme, found) == readme
    assert readme_is_current, REMEDY


def test_the_report_is_about_the_promises_of_today() -> None:
    for name, entry in tables().plugins().items():
        told = {(result["promise"], result["sentence"]) for result in entry["results"]}
        suite = SUITES[name.partition(":")[0]]
        known = {(one.name, one.sentence) for one in promises_of(suite)}
        assert told == known, f"{name}: {REMEDY}; {sorted(told ^ known)[:4]}"


def test_the_report_has_nothing_broken() -> None:
    broken = [
        (name, result["promise"])
        for name, entry in tables().plugins().items()
        for result in entry["results"]
        if result["verdict"] == "broken"
    ]
    assert broken == []
