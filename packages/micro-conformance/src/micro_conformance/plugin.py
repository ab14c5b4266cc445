"""The pytest plugin: servers for suites, plugins chosen on the command line, the report."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from . import chosen
from .backend import AddressBackend, Backend, ComposeBackend
from .promise import Promise
from .report import Report, Result
from .suite import RESULT, Suite

VERSION = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("micro", "conformance of Go Micro plugins")
    group.addoption(
        "--micro-report", metavar="FILE", help="write the verdicts to FILE, a conformance.json"
    )
    group.addoption(
        "--micro-plugin",
        metavar="KIND:NAME",
        action="append",
        default=[],
        help="try this installed plugin; its options come from MICRO_<KIND>_<OPTION>",
    )
    group.addoption(
        "--micro-address", metavar="ADDRESS", default="", help="of the server that it needs"
    )
    group.addoption(
        "--require-backends",
        action="store_true",
        help="fail where a real server cannot be had, instead of skipping",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Reporter(config), "micro-reporter")


# -- plugins chosen on the command line ------------------------------------------------------


def pytest_collection(session: pytest.Session) -> None:
    option = cast(Callable[[str], Any], session.config.getoption)
    chosen.choose(option("--micro-plugin"), option("--micro-address"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """The module of chosen plugins, whatever names the project's tests have."""
    if file_path != Path(chosen.__file__) or not chosen.classes:
        return None
    if any(fnmatch(file_path.name, pattern) for pattern in parent.config.getini("python_files")):
        return None  # pytest collects it itself
    make = cast(Callable[..., pytest.Module], pytest.Module.from_parent)  # pyright: ignore[reportUnknownMemberType]
    return make(parent, path=file_path)


# -- servers ---------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def micro_backend(request: pytest.FixtureRequest) -> Iterator[Backend | None]:
    """The server of a suite: the one at its address, else one of its own.

    ``None`` where the suite needs none. A project's fixture of this name replaces it.
    """
    suite = _suite(request)
    if suite is None or not suite.server:
        yield None
        return
    variable = f"MICRO_TEST_{re.sub(r'[^A-Z0-9]', '_', suite.server.upper())}"
    address = suite.address or os.environ.get(variable)
    backend = AddressBackend(address) if address else request.getfixturevalue("micro_started")
    if backend is None:
        missing(request.config, f"no {suite.server}: set {variable}=host:port; {_how(suite)}")
    request.node.stash[VERSION] = asyncio.run(_version(suite, backend.address))
    yield backend


@pytest.fixture(scope="class")
def micro_own_backend(request: pytest.FixtureRequest) -> Iterator[Backend | None]:
    """The server that a promise may break."""
    suite = _suite(request)
    if suite is None or not suite.server:
        yield None
        return
    backend = request.getfixturevalue("micro_started")
    if backend is None:
        given = request.getfixturevalue("micro_backend")
        backend = given if given.can_break else None
    if backend is None:
        missing(request.config, f"{suite.server} cannot be broken from here: {_how(suite)}")
    yield backend


@pytest.fixture(scope="class")
def micro_started(request: pytest.FixtureRequest) -> Iterator[Backend | None]:
    """The server that the suite has for itself, running for as long as its class is tried."""
    suite = _suite(request)
    own = suite.own() if suite else None
    if own is None or (isinstance(own, ComposeBackend) and not shutil.which("docker")):
        yield None
        return
    with _running(own):
        yield own


def missing(config: pytest.Config, why: str) -> NoReturn:
    """A server cannot be had: a skip, or a failure with ``--require-backends``."""
    if config.getoption("--require-backends"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _suite(request: pytest.FixtureRequest) -> Suite[Any] | None:
    return _made(request.cls)  # pyright: ignore[reportUnknownMemberType]


def _made(cls: Any) -> Suite[Any] | None:
    fits = isinstance(cls, type) and issubclass(cls, Suite)
    return cast(Suite[Any], cls()) if fits else None


def _how(suite: Suite[Any]) -> str:
    if not shutil.which("docker"):
        return "docker, which could start one, is not installed"
    files = "MICRO_TEST_COMPOSE=file:file names compose files with that service"
    return f"docker can start one where {files} and {type(suite).__name__}.port its port"


async def _version(suite: Suite[Any], address: str) -> str:
    try:
        async with (
            asyncio.timeout(5),
            cast(AbstractAsyncContextManager[Any], suite.make(address)) as plugin,
        ):
            return await suite.backend_version(plugin)
    except Exception:
        return ""  # the promises will tell


def _running(backend: Backend) -> AbstractContextManager[object]:
    return backend.composed() if isinstance(backend, ComposeBackend) else _entered(backend)


@contextmanager
def _entered(backend: Backend) -> Iterator[None]:
    asyncio.run(backend.__aenter__())
    try:
        yield
    finally:
        asyncio.run(backend.__aexit__(None, None, None))


# -- the report ------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """An attribute of the report reaches the process that writes it, with xdist too."""
    report = yield
    if (result := _result(item, report)) is not None:
        suite = cast(Suite[Any], item.cls())  # type: ignore[attr-defined]
        name, origin = suite.identity()
        version = item.parent.stash.get(VERSION, "") if item.parent else ""
        backend = f"{suite.server} {version}".strip()
        report.micro = [name, origin, backend, asdict(result)]  # type: ignore[attr-defined]
    return report


def _result(item: pytest.Item, report: pytest.TestReport) -> Result | None:
    promise = getattr(getattr(item, "function", None), "promise", None)
    if not isinstance(promise, Promise):
        return None
    if report.when == "setup" and not report.passed:
        note = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return Result(
            promise.name, promise.sentence, "not run", note=note.removeprefix("Skipped: ")
        )
    return item.stash.get(RESULT, None) if report.when == "call" else None


class Reporter:
    """Collects what the tests reported, and writes it once."""

    def __init__(self, config: pytest.Config) -> None:
        self._path: str | None = config.getoption("--micro-report")
        self._writes = self._path is not None and not hasattr(config, "workerinput")
        self._report = Report()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (noted := getattr(report, "micro", None)) is not None:
            name, origin, backend, result = noted
            self._report.add(name, origin, backend, Result(**result))

    def pytest_sessionfinish(self) -> None:
        if self._writes and self._path and self._report.plugins:
            self._report.write(Path(self._path))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, counts in self._report.counts():
            terminalreporter.write_line(f"conformance of {name}: {counts}")
