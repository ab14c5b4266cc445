"""The examples run, and say what they should."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from scripts import Result, environment, finish

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, script: str, *flags: str, **variables: str) -> Result:
    return finish(
        [sys.executable, EXAMPLES / script, *flags], environment(folder, **variables), folder
    )


def test_the_tour_shows_everything(tmp_path: Path) -> None:
    lines = run(tmp_path, "tour.py").ended_well().out.splitlines()
    lines[4] = re.sub(r", [\d.]+ s left", ", N s left", lines[4])
    assert lines == [
        "about to start",
        "Hello John",
        "{'greeting': 'Hello Ann, from a thread'}",
        "Hello Bob",
        "404 no url for x of 7, N s left",
        "no service nowhere in the registry",
        "greetings: hi",
        "[0, 1, 2]",
        "6",
        "42",
        "stopped",
        "['greeter']",
        "create 10.0.0.7:9000",
        "b'body'",
    ]


def in_order(text: str, *parts: str) -> bool:
    """Whether the parts come one after the other."""
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


STORY = [
    "Starting the greeter and the mailer",
    "started as",
    "A caller in a third process finds the greeter by name.",
    "caller   called Say.Hello: Hello John",
    "caller   streamed Say.Count: [1, 2, 3]",
    "caller   published the greeting on topic 'greetings'",
    "Stopping both",
    "stopped",
    "All of it worked.",
]


def tells_the_story(result: Result, registry: str) -> None:
    out = result.ended_well().out
    assert result.err == ""
    assert in_order(out, *STORY), out
    assert len(re.findall("mailer   received the event: Hello John\n", out)) == 1, out
    assert in_order(out, STORY[0], "received the event", STORY[-3]), out
    for name in ("greeter", "mailer"):
        assert re.search(rf"{name} 1\.0\.0 started as .*: registry {registry} \(micro-", out), out
        assert f"{name} stopped" in out


def test_the_demo_needs_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "greeter/demo.py")
    tells_the_story(result, "local")
    assert "WARNING" not in result.out


def test_the_demo_runs_from_its_own_folder_and_by_variables(tmp_path: Path) -> None:
    result = run(tmp_path, "greeter/demo.py", MICRO_REGISTRY="local", MICRO_LOOP="asyncio")
    tells_the_story(result, "local")


@pytest.mark.parametrize("spelled", ["--registry=consul", "--registry consul"])
def test_the_demo_runs_on_consul(tmp_path: Path, consul_address: str, spelled: str) -> None:
    joint = spelled[len("--registry")]
    flags = [*spelled.split(), *f"--registry_address{joint}{consul_address}".split()]
    tells_the_story(run(tmp_path, "greeter/demo.py", *flags), "consul")


def test_the_demo_says_when_it_does_not_work(tmp_path: Path) -> None:
    result = run(tmp_path, "greeter/demo.py", "--registry=zebra")
    assert result.code == 1
    assert "no registry 'zebra' is installed" in result.out
    assert "It did not work" in result.out


def test_the_example_of_tests_passes(tmp_path: Path) -> None:
    file = str(EXAMPLES / "test_greeter.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    assert "4 passed" in finish(command, environment(tmp_path), tmp_path).ended_well().out
