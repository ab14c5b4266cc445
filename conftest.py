"""What all tests share: the option that forbids skipping, and where real servers are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backends",
        action="store_true",
        help="fail where a real server cannot be had, instead of skipping",
    )


def missing(config: pytest.Config, why: str) -> NoReturn:
    if config.getoption("--require-backends"):
        pytest.fail(why)
    pytest.skip(why)


def setting(name: str) -> str:
    """From the environment, else from what backends/up wrote."""
    if value := os.environ.get(name):
        return value
    file = ROOT / ".backends.env"
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split("=", 1) for line in lines if "=" in line).get(name, "")


@pytest.fixture(scope="session")
def server_address(pytestconfig: pytest.Config) -> Callable[[str], str]:
    """``server_address("redis")`` is the ``host:port`` of a server that no test breaks."""

    def find(name: str) -> str:
        variable = f"MICRO_TEST_{name.upper()}"
        address = setting(variable)
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
    files = setting("MICRO_TEST_COMPOSE")
    if not files:
        why = "no docker compose: run backends/up, or set MICRO_TEST_COMPOSE=file:file"
        missing(pytestconfig, why)
    return files.split(":")
