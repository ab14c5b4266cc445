"""The pytest plugin: servers for suites, plugins chosen on the command line, the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from .backend import AddressBackend, Backend
from .suite import REPORT, Suite


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("micro", "conformance of Go Micro plugins")
    group.addoption(
        "--micro-report", metavar="FILE", help="write the verdicts to FILE, a conformance.json"
    )


@pytest.fixture(scope="class")
def micro_backend(request: pytest.FixtureRequest) -> Backend | None:
    """The server of a suite: ``MICRO_TEST_<SERVER>``, an address. Override it for one to break."""
    suite = cast(object, request.cls)  # pyright: ignore[reportUnknownMemberType]
    if not (isinstance(suite, type) and issubclass(suite, Suite) and suite.server):
        return None
    variable = f"MICRO_TEST_{suite.server.upper()}"
    address = os.environ.get(variable)
    if not address:
        pytest.skip(f"no {suite.server}: set {variable}=host:port")
    return AddressBackend(address)


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--micro-report")
    report = session.config.stash.get(REPORT, None)
    if path and report is not None:
        report.write(Path(path))
