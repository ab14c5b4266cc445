"""The menu. Everything runs in the workspace environment that hatch makes from pyproject.toml."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["test"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
HATCH = [sys.executable, "-m", "hatch"]
# two processes, as most tests wait most of the time; a module stays in one
SIDE_BY_SIDE = ("--numprocesses=2", "--dist=loadfile")
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


def backends() -> dict[str, str]:
    """What backends/up wrote about the servers that it started, if it did."""
    file = ROOT / ".backends.env"
    if not file.exists():
        return {}
    pairs = (line.partition("=") for line in file.read_text().splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}


def hatch(session: nox.Session, *command: str, env: str = "default") -> None:
    """Run in the workspace environment; the first run makes it, the next take seconds."""
    variables = {**backends(), "HATCH_DATA_DIR": str(ROOT / ".venv" / "hatch")}
    variables.update({k: v for k, v in os.environ.items() if k.startswith("MICRO_")})
    # pyenv's shims answer only for the version that is switched on
    pyenv = sorted(map(str, Path.home().glob(".pyenv/versions/3.1[123].*/bin")), reverse=True)
    variables["PATH"] = os.pathsep.join([os.environ["PATH"], *pyenv])
    # UV_PYTHON would send the installs of hatch into another environment
    session.run(*HATCH, "-e", env, "run", *command, env={**variables, "UV_PYTHON": None})


@nox.session
def demo(session: nox.Session) -> None:
    """Greeter, caller and mailer in three processes; flags after -- choose the plugins."""
    hatch(session, "python", "examples/greeter/demo.py", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """Lint, types, tests. After --: --require-backends for the second tier, or pytest's own."""
    lint(session)
    types(session)
    hatch(session, "pytest", "-m", "not full", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Everything, long runs included, on every real server and every Python."""
    hatch(session, "pytest", "--require-backends", *session.posargs)
    compat(session)


@nox.session
def compat(session: nox.Session) -> None:
    """The core and the suite on the other Pythons that are supported and found here."""
    for version in ("3.12", "3.13"):
        paths = ("packages/micro-core", "packages/micro-conformance")
        hatch(session, "pytest", "-m", "not full", *paths, env=f"compat.py{version}")


@nox.session
def conformance(session: nox.Session) -> None:
    """The suite on installed plugins: nox -s conformance -- registry:consul [pytest's own]."""
    plugins = [one for one in session.posargs if one.partition(":")[0].isalpha() and ":" in one]
    if not plugins:
        session.error("say which plugin, as KIND:NAME: nox -s conformance -- registry:consul")
    chosen = [f"--micro-plugin={one}" for one in plugins]
    others = [one for one in session.posargs if one not in plugins]
    report = "--micro-report=conformance.json"
    hatch(session, "pytest", "--pyargs", "micro_conformance", report, *chosen, *others)


@nox.session
def docs(session: nox.Session) -> None:
    """conformance.json from the real servers, and the tables made from it."""
    suites = sorted(
        str(path.relative_to(ROOT)) for path in ROOT.glob("packages/*/tests/*conformance*.py")
    )
    report = ("-m", "not full", "--require-backends", "--micro-report=conformance.json")
    hatch(session, "pytest", *report, *SIDE_BY_SIDE, *suites)
    hatch(session, "python", "docs/tables.py")


@nox.session
def lint(session: nox.Session) -> None:
    hatch(session, "ruff", "check", ".")
    hatch(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy strict and pyright strict; package by package, as test modules share names."""
    for package in PACKAGES:
        hatch(session, "mypy", f"packages/{package}/src")
    hatch(session, "mypy", "examples/greeter", "examples/tour.py")
    hatch(session, "mypy", "benchmarks")
    hatch(session, "pyright")


@nox.session
def build(session: nox.Session) -> None:
    """Every wheel and sdist into dist/."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run(*HATCH, "build", "--all", env={"UV_PYTHON": None})


@nox.session
def bench(session: nox.Session) -> None:
    """Calls per second beside the floors and the peers, interleaved in one run."""
    hatch(session, "python", "benchmarks/rpc.py", *session.posargs, env="bench")
