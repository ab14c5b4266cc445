"""What all tests share: where real servers are."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from micro_conformance.plugin import missing

ROOT = Path(__file__).parent


def read_backends() -> None:
    """What backends/up wrote becomes part of the environment, where that does not say otherwise."""
    file = ROOT / ".backends.env"
    for line in file.read_text().splitlines() if file.exists() else []:
        name, _, value = line.partition("=")
        if value:
            os.environ.setdefault(name, value)


read_backends()


@pytest.fixture(scope="session")
def server_address(pytestconfig: pytest.Config) -> Callable[[str], str]:
    """``server_address("redis")`` is the ``host:port`` of a server that no test breaks."""

    def find(name: str) -> str:
        variable = f"MICRO_TEST_{name.upper()}"
        address = os.environ.get(variable)
        if not address:
            missing(pytestconfig, f"no {name}: run backends/up, or set {variable}=host:port")
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            missing(pytestconfig, f"{name} at {address} does not answer: {error}")
        return address

    return find


@pytest.fixture(scope="session")
def consul_address(server_address: Callable[[str], str]) -> str:
    """A Consul agent that no test breaks."""
    return server_address("consul")


@pytest.fixture(scope="session")
def compose_files(pytestconfig: pytest.Config) -> list[str]:
    """The compose files of servers that a test may break."""
    files = os.environ.get("MICRO_TEST_COMPOSE")
    if not files:
        why = "no docker compose: run backends/up, or set MICRO_TEST_COMPOSE=file:file"
        missing(pytestconfig, why)
    return files.split(":")


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[str, float, float], None]:
    """``record(name, figure, limit)`` notes a figure, and fails over its limit."""

    def note(name: str, figure: float, limit: float) -> None:
        sys.stdout.write(f"\n{name}: {figure:.2f} (limit {limit:.2f})")
        record_property(name, round(figure, 3))
        assert figure <= limit, f"{name}: {figure:.2f}, over the limit of {limit:.2f}"

    return note
