"""The greeter example, each part a process of its own, with NATS under all of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import environment, finish

DEMO = Path(__file__).parents[3] / "examples" / "greeter" / "demo.py"
SAID = (
    "caller   called Say.Hello: Hello John",
    "caller   streamed Say.Count: [1, 2, 3]",
    "mailer   received the event: Hello John",
    "All of it worked.",
)


@pytest.fixture
def nats(server_address: Any) -> str:
    pytest.importorskip("micro_transport_nats")
    return str(server_address("nats"))


@pytest.mark.parametrize("way", ["flags", "variables"])
def test_the_greeter_runs_on_nats(nats: str, tmp_path: Path, way: str) -> None:
    chosen = {"registry": "nats", "transport": "nats"}
    chosen |= {"registry_address": nats, "transport_address": nats}
    flags = [f"--{name}={value}" for name, value in chosen.items()]
    variables = {f"MICRO_{name.upper()}": value for name, value in chosen.items()}
    command = [sys.executable, DEMO, *(flags if way == "flags" else [])]
    environ = environment(tmp_path, **(variables if way == "variables" else {}))
    result = finish(command, environ, tmp_path, patience=60).ended_well()
    assert [line for line in SAID if line not in result.out] == [], result.out
    assert "registry nats" in result.out
    assert "transport nats" in result.out
    assert result.err == ""
