"""The life of a process that runs services: signals, hooks, lines, several services in one."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from places import PICKY, Place, said

from micro_core import Node


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- its life --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_service_says_one_line_at_start_and_one_at_stop(
    place: Place, number: signal.Signals
) -> None:
    with place.start_service() as service:
        line = service.line(" started as ")
        (info,) = place.record("chooser")
        node = info.nodes[0]
        assert f"chooser 1.0.0 started as {node.id} at {node.address}: registry local" in line
        assert re.search(r"transport http \(micro-core 0\.[\d.]+\)", line)
        assert place.ask("chooser") == {"greeting": "Hello John"}
        service.send(number)
        assert service.wait() == 0
        assert len(service.lines) == 2, service.lines
        assert service.lines[1].endswith(" chooser stopped")
    assert place.record("chooser") == []


def test_logs_can_be_json(place: Place) -> None:
    with place.start_service("--log_format=json") as service:
        service.line(" started as ")
        assert service.stop() == 0
        records = [json.loads(line) for line in service.lines]
    assert [record["level"] for record in records] == ["info", "info"]
    assert records[1]["message"] == "chooser stopped"


STUCK: dict[str, tuple[str, str]] = {
    "a hook": (
        "",
        """
@service.before_stop
async def wait() -> None:
    print("STOPPING", flush=True)
    await asyncio.sleep(60)
""",
    ),
    "a handler": (
        "Stuck.Sleep",
        """
@service.endpoint("Stuck.Sleep")
async def sleep(request: dict[str, str]) -> dict[str, str]:
    print("HANDLING", flush=True)
    await asyncio.sleep(60)
    return request
""",
    ),
    "a handler's thread": (
        "Stuck.Sleep",
        """
@service.endpoint("Stuck.Sleep")
def sleep(request: dict[str, str]) -> dict[str, str]:
    print("HANDLING", flush=True)
    time.sleep(60)
    return request
""",
    ),
    "a thread of asyncio": (
        "Stuck.Sleep",
        """
@service.endpoint("Stuck.Sleep")
async def sleep(request: dict[str, str]) -> dict[str, str]:
    print("HANDLING", flush=True)
    await asyncio.to_thread(time.sleep, 60)
    return request
""",
    ),
}


@pytest.mark.parametrize("what", STUCK)
def test_a_second_signal_ends_it_at_once(place: Place, what: str) -> None:
    endpoint, code = STUCK[what]
    call = f"""
@service.after_start
def begin() -> None:
    global caller
    if {endpoint!r}:
        caller = asyncio.create_task(service.client.call("stuck", {endpoint!r}, {{}}, timeout=None))
"""
    script = (
        "import asyncio\nimport time\nfrom micro_core import Service\n\n"
        f'service = Service("stuck")\n{code}\n{call}\n'
        "@service.before_stop\ndef told() -> None:\n    print('STOPPING', flush=True)\n\n"
        "service.run()\n"
    )
    with place.start(place.write("stuck.py", script), "--drain_delay=0s", "--grace=60s") as service:
        service.line(" started as ")
        if endpoint:
            service.line("HANDLING")
        service.send()
        service.line("STOPPING")
        service.send()
        assert service.wait(8.0) == 128 + signal.SIGTERM, service.lines
        assert "Traceback" not in "\n".join(service.lines), service.lines


def test_a_signal_ends_a_start_that_takes_too_long(place: Place) -> None:
    script = """
import asyncio
from micro_core import Service

service = Service("slow")

@service.before_start
async def wait() -> None:
    print("WAITING", flush=True)
    await asyncio.sleep(60)

service.run()
"""
    with place.start(place.write("slow.py", script)) as service:
        service.line("WAITING")
        assert service.stop(8.0) == 0
        assert service.lines == ["WAITING"]


@pytest.mark.parametrize("when", ["before_start", "after_start"])
def test_a_hook_that_fails_is_a_bug_with_its_traceback(place: Place, when: str) -> None:
    script = f"""
from micro_core import Service

service = Service("failing")

@service.{when}
def fail() -> None:
    raise RuntimeError("the database is empty")

service.run()
"""
    result = place.run(place.write("failing.py", script))
    assert result.code == 1
    assert "Traceback (most recent call last):" in result.err
    assert result.err.rstrip().endswith("RuntimeError: the database is empty")
    assert "started as" not in result.err
    assert place.record("failing") == []


def test_a_hook_that_fails_at_the_stop_is_told_and_stops_nothing(place: Place) -> None:
    script = """
from micro_core import Service

service = Service("failing")

@service.before_stop
def fail() -> None:
    raise RuntimeError("the database is empty")

service.run()
"""
    with place.start(place.write("failing.py", script)) as service:
        service.line(" started as ")
        assert service.stop() == 0
        assert "RuntimeError: the database is empty" in service.lines
        assert service.lines[-1].endswith(" failing stopped")
    assert place.record("failing") == []


# -- two in one process ----------------------------------------------------------------------

TWO = """
from micro_core import Service, run

one = Service("one", version="1.0.0", metadata={"of": "one"})
two = Service("two", version="2.0.0", address="127.0.0.1:0")


@one.endpoint("Say.Who")
async def who(request: dict[str, str]) -> dict[str, str]:
    return {"name": "one"}


@two.endpoint("Say.Who")
async def who_else(request: dict[str, str]) -> dict[str, str]:
    return {"name": "two"}


if __name__ == "__main__":
    run(one, two)
"""


def test_two_services_are_two(place: Place) -> None:
    with place.start(place.write("two.py", TWO)) as process:
        process.line("two 2.0.0 started as ")
        process.line("one 1.0.0 started as ")
        nodes: list[Node] = [*place.record("one")[0].nodes, *place.record("two")[0].nodes]
        assert len({node.address for node in nodes}) == 2
        assert [node.metadata.get("of") for node in nodes] == ["one", None]
        assert place.ask("one", "Say.Who") == {"name": "one"}
        assert place.ask("two", "Say.Who") == {"name": "two"}
        assert process.stop() == 0
        assert len(process.lines) == 4, process.lines
    assert place.record("one") == place.record("two") == []


@pytest.mark.parametrize("option", ["name", "id", "version", "address", "advertise", "metadata"])
def test_two_services_refuse_what_is_for_one(place: Place, option: str) -> None:
    source, flags, variables = f"--server_{option}", [f"--server_{option}=x:1"], dict[str, str]()
    if option in ("address", "id"):
        source = f"MICRO_SERVER_{option.upper()}"
        flags, variables = [], {source: "x:1"}
    result = place.run(place.write("two.py", TWO), *flags, **variables)
    assert result.code == 2, result
    assert result.on_one_screen()
    assert "Traceback" not in result.err
    assert said(result, f"{source} is for one service, and this process runs several"), result


def test_what_only_the_second_service_takes_is_no_unknown_flag(place: Place) -> None:
    place.install("picky-dist", PICKY, "registry picky = Picky")
    script = TWO.replace('Service("two",', 'Service("two", registry="picky",')
    assert script != TWO
    with place.start(place.write("two.py", script), "--registry_wait=2") as process:
        process.line("two 2.0.0 started as ")
        assert process.stop() == 0


# -- a handler that cannot be one ------------------------------------------------------------


def test_a_handler_without_types_is_a_bug_that_names_it(place: Place) -> None:
    script = """
from micro_core import Service

class Say:
    async def hello(self, request):
        return request

service = Service("untyped")
service.handle(Say())
service.run()
"""
    result = place.run(place.write("untyped.py", script))
    assert result.code == 1
    assert re.search(r"^TypeError: .*Say\.hello", result.err, re.MULTILINE), result
