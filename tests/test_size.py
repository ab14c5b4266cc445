"""How large the core is: a bound, because small is one of its promises."""

from __future__ import annotations

import ast
import statistics
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "packages/micro-core"
SOURCE = PACKAGE / "src/micro_core"
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
WIRE = {"registry.wire", "broker.envelope"}  # plugins of others use these as well
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    name: str  # below micro_core, with dots
    code: int  # lines that are not blank, comment or docstring
    functions: tuple[int, ...]  # the lines of each, from def to end
    imports: frozenset[str]


def modules() -> dict[str, Module]:
    return {module.name: module for module in map(measured, sorted(SOURCE.rglob("*.py")))}


def measured(path: Path) -> Module:
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    tree = ast.parse(path.read_text())
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in LAYOUT]
    lines = {line for token in tokens[1:] for line in range(token.start[0], token.end[0] + 1)}
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return Module(
        name,
        len(lines - docstring_lines(tree)),
        tuple((node.end_lineno or 0) - node.lineno + 1 for node in functions),
        frozenset(imported(tree, name)),
    )


def docstring_lines(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            lines.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def imported(tree: ast.AST, name: str) -> Iterator[str]:
    """Modules of the package that one imports: relative imports are the only ones in it."""
    folder = name.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = folder[: len(folder) - node.level]
            base = [*above, *(node.module or "").split(".")]
            found = ".".join(filter(None, base))
            yield found
            yield from (f"{found}.{alias.name}".lstrip(".") for alias in node.names)


def built_in(found: dict[str, Module]) -> set[str]:
    """The modules of built-in plugins: entry points, and what nothing else imports."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    values = [v for group in project["entry-points"].values() for v in group.values()]
    plugins = {value.partition(":")[0].removeprefix("micro_core.") for value in values}
    plugins &= found.keys()
    candidates = found.keys() - WIRE
    users: dict[str, set[str]] = defaultdict(set)
    for module in found.values():
        for name in module.imports & found.keys():
            users[name].add(module.name)
    while more := {n for n in candidates if users[n] and users[n] <= plugins} - plugins:
        plugins |= more
    return plugins


def test_the_core_stays_small(record_property: pytest.RecordProperty) -> None:
    """Lines of code without the built-in plugins and the test kit, which are counted apart."""
    found = modules()
    kit = {name for name in found if name.partition(".")[0] == "testing"}
    plugins = built_in({name: found[name] for name in found.keys() - kit})
    core = found.keys() - plugins - kit
    sizes = {
        "core": sum(found[name].code for name in core),
        "built-in plugins": sum(found[name].code for name in plugins),
        "test kit": sum(found[name].code for name in kit),
    }
    lengths = sorted(length for module in found.values() for length in module.functions)
    median, ninth = statistics.median(lengths), lengths[len(lengths) * 9 // 10]
    print(f"lines of code: {sizes}; of {len(lengths)} functions median {median}, p90 {ninth}")
    print("built-in plugins:", ", ".join(sorted(plugins)))
    for name, size in sizes.items():
        record_property(f"lines of code: {name}", size)
    assert sizes["core"] < 5000
    assert median <= 10
    assert ninth <= 36
