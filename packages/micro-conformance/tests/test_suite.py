"""Verdicts, leaks, timeouts and reports, in the project of somebody we do not know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HEAD = """
from __future__ import annotations

import asyncio
import os
import threading

from micro_conformance import AddressBackend, Backend, promise
from micro_conformance.suite import Suite
from micro_core import NotSupported
from micro_core.store.base import StoreFeatures
from micro_core.store.memory import MemoryStore


class Acme(MemoryStore):
    name = "acme"
    features = StoreFeatures(expiry=False)


class AcmeSuite(Suite[Acme]):
    kind = "store"

    def make(self, address: str) -> Acme:
        return Acme(address)

"""


@dataclass(frozen=True)
class Outcome:
    code: int
    text: str
    results: dict[str, dict[str, Any]]
    plugins: dict[str, Any]

    def verdict(self, name: str) -> str:
        return f"{self.results[name]['verdict']}: {self.results[name]['note']}"


class Stranger:
    """A folder with a test file and a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report = folder / "conformance.json"

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def pytest(self, *arguments: str, **environ: str) -> Outcome:
        own = ("MICRO_", "PYTEST_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        run = subprocess.run(
            [*command, "--micro-report", self.report.name],
            cwd=self.folder,
            env={**kept, **environ},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        read = json.loads(self.report.read_text()) if self.report.exists() else {"plugins": {}}
        every = [result for entry in read["plugins"].values() for result in entry["results"]]
        by_name = {result["promise"]: result for result in every}
        return Outcome(run.returncode, run.stdout + run.stderr, by_name, read["plugins"])

    def tries(self, body: str, *arguments: str, **environ: str) -> Outcome:
        """Run the promises that are the indented ``body`` of a test class."""
        self.write("test_acme.py", f"{HEAD}\nclass TestAcme(AcmeSuite):\n{body}")
        return self.pytest(*arguments, **environ)


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    made = Stranger(tmp_path)
    made.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
    return made


def test_verdicts(stranger: Stranger) -> None:
    found = stranger.tries('''
    deviations = {
        "test_gap": "acme has no such thing",
        "test_gap_raises": "acme has no such thing",
        "test_mended": "acme had no such thing",
    }

    @promise()
    async def test_kept(self, lab):
        """It is kept."""
        lab.figure("answer", 42)

    @promise()
    async def test_broken(self, lab):
        """It is broken."""
        assert await (await lab.new()).list() == ["x"], "has nothing"

    @promise()
    async def test_gap(self, lab):
        """It is not there."""
        assert False

    @promise()
    async def test_gap_raises(self, lab):
        """It should raise."""
        import pytest
        with pytest.raises(ValueError):
            pass

    @promise()
    async def test_mended(self, lab):
        """It is there after all."""

    @promise(ability="expiry")
    async def test_refused(self, lab):
        """It can expire."""
        raise NotSupported("acme cannot")

    @promise(ability="expiry")
    async def test_silent(self, lab):
        """It can expire, and it does."""

    @promise(guarantee="survives_restart")
    async def test_unclaimed(self, lab):
        """It survives."""
        lab.figure("kept", 0)
        assert False, "lost"

    @promise(guarantee="survives_restart")
    async def test_lucky(self, lab):
        """It survives this time."""

    @promise(breaks=True)
    async def test_no_server(self, lab):
        """It outlives its server."""
''')
    assert found.code == 1
    assert {name: found.verdict(name) for name in found.results} == {
        "test_kept": "kept: ",
        "test_broken": "broken: has nothing",
        "test_gap": "deviates: acme has no such thing",
        "test_gap_raises": "deviates: acme has no such thing",
        "test_mended": "broken: test_mended is kept after all: take it out of deviations "
        "(acme had no such thing)",
        "test_refused": "unsupported: acme cannot",
        "test_silent": "broken: features do not declare 'expiry', and using it did not raise "
        "NotSupported",
        "test_unclaimed": "unclaimed: not kept this time: lost",
        "test_lucky": "unclaimed: kept this time, and not promised",
        "test_no_server": "not run: it has no server",
    }
    assert found.results["test_kept"]["figures"] == {"answer": 42}
    assert found.results["test_kept"]["sentence"] == "It is kept."
    assert "3 failed, 6 passed, 1 skipped" in found.text
    assert "conformance of store:acme: " in found.text
    assert "assert await (await lab.new()).list() == " in found.text


def test_what_is_left_behind_is_named(stranger: Stranger) -> None:
    stranger.write(
        "conftest.py",
        "import micro_conformance.leaks\nmicro_conformance.leaks.PATIENCE = 0.1\n",
    )
    found = stranger.tries('''
    @promise()
    async def test_task(self, lab):
        """It leaves a task."""
        self.kept = asyncio.create_task(asyncio.sleep(60), name="left-over")

    @promise()
    async def test_thread(self, lab):
        """It leaves a thread."""
        lasting = threading.Event().wait
        threading.Thread(target=lasting, args=[20], name="lasting", daemon=True).start()

    @promise()
    async def test_descriptor(self, lab):
        """It leaves a descriptor."""
        type(self).pipe = os.pipe()

    @promise()
    async def test_tidy(self, lab):
        """It leaves nothing."""
        await lab.new()
''')
    assert found.code == 1
    assert "task left-over" in found.verdict("test_task")
    assert "thread lasting" in found.verdict("test_thread")
    assert "pipe:" in found.verdict("test_descriptor")
    assert found.verdict("test_tidy") == "kept: "


def test_a_promise_that_does_not_end_is_broken(stranger: Stranger) -> None:
    found = stranger.tries('''
    jumping = True

    @promise(timeout=0.2)
    async def test_endless(self, lab):
        """It ends."""
        await asyncio.Event().wait()

    @promise()
    async def test_late(self, lab):
        """It ends in half a minute."""
        await lab.eventually(lambda: False, "it is done", within=30)
''')
    assert found.verdict("test_endless") == "broken: not done within 0.2 s"
    assert found.verdict("test_late") == "broken: not within 30 s: it is done; last: False"


def test_reports_are_merged(stranger: Stranger) -> None:
    stranger.report.write_text(
        json.dumps({"suite": "0", "plugins": {"store:other": {"results": []}}})
    )
    kept = '''
    @promise()
    async def test_kept(self, lab):
        """It is kept."""
'''
    assert list(stranger.tries(kept).plugins) == ["store:acme", "store:other"]
    found = stranger.tries(f'    variant = "with salt"\n{kept}')
    assert list(found.plugins) == ["store:acme", "store:acme (with salt)", "store:other"]
    assert len(found.plugins["store:acme"]["results"]) == 1


def test_the_projects_names_of_tests_do_not_matter(stranger: Stranger) -> None:
    stranger.write(
        "pytest.ini",
        "[pytest]\npython_classes = *Check *Suite\npython_functions = check_*\n"
        "python_files = test_*.py\nasyncio_mode = auto\n",
    )
    found = stranger.tries('''
    @promise()
    async def test_kept(self, lab):
        """It is kept."""
''')
    assert (found.code, list(found.results)) == (0, ["test_kept"])


BREAKS = '''
    server = "acme"
    port = 1

    @promise(breaks=True)
    async def test_outlives(self, lab):
        """It outlives its server."""

    @promise()
    async def test_works(self, lab):
        """It works."""
'''


def test_without_a_server_the_reason_is_said(stranger: Stranger) -> None:
    found = stranger.tries(BREAKS)
    assert (found.code, "2 skipped" in found.text) == (0, True)
    assert "no acme: set MICRO_TEST_ACME=host:port" in found.verdict("test_works")
    assert found.verdict("test_outlives").startswith("not run: no acme")
    found = stranger.tries(BREAKS, "--require-backends")
    assert found.code == 1
    assert "2 errors" in found.text
    found = stranger.tries(BREAKS, MICRO_TEST_ACME="127.0.0.1:9")
    assert found.verdict("test_works") == "kept: "
    assert "acme cannot be broken from here" in found.verdict("test_outlives")


def test_a_server_of_the_class_is_mended_after_each_promise(stranger: Stranger) -> None:
    found = stranger.tries(
        '''
    server = "acme"

    def own(self):
        return Log()

    @promise(breaks=True)
    async def test_a(self, lab):
        """It breaks its server."""
        await lab.backend.kill()

    @promise(breaks=True)
    async def test_b(self, lab):
        """It finds another server."""
        assert lab.backend.done == ["enter", "kill", "mend"]
        assert False

    @promise(breaks=True)
    async def test_c(self, lab):
        """It finds an empty server."""
        assert lab.backend.done == ["enter", "kill", "mend", "wipe"]
        lab.backend.tell = True

    @promise()
    async def test_d(self, lab):
        """It uses the same server."""
        assert lab.address == "127.0.0.1:7"


class Log(AddressBackend):
    can_break = True

    def __init__(self):
        super().__init__("127.0.0.1:7")
        self.done = []

    async def __aenter__(self):
        self.done.append("enter")
        return self

    async def __aexit__(self, *error):
        print("left", self.done)

    async def kill(self):
        self.done.append("kill")

    async def wipe(self):
        self.done.append("wipe")

    async def mend(self):
        self.done.append("mend")
''',
        "-s",
        "-p",
        "no:randomly",
    )
    assert {name: one["verdict"] for name, one in found.results.items()} == {
        "test_a": "kept",
        "test_b": "broken",
        "test_c": "kept",
        "test_d": "kept",
    }
    assert "left ['enter', 'kill', 'mend', 'wipe', 'mend']" in found.text


def test_an_installed_plugin_is_tried_without_a_test_file(stranger: Stranger) -> None:
    found = stranger.pytest("--pyargs", "micro_conformance", "--micro-plugin", "store:memory")
    assert found.code == 0, found.text
    assert found.plugins["store:memory"]["origin"].startswith("micro-core ")
    assert len(found.results) >= 40
    found = stranger.pytest("--pyargs", "micro_conformance", "--micro-plugin", "codex:json")
    assert found.code == 4
    assert "no suite for kind 'codex': there are " in found.text
    found = stranger.pytest("--pyargs", "micro_conformance", "--micro-plugin", "store:memori")
    assert "Did you mean memory?" in found.text
    found = stranger.pytest(
        "--pyargs", "micro_conformance", "--micro-plugin", "store:memory", "--micro-address", "x"
    )
    assert "is host:port" in found.text


def test_a_report_becomes_a_table(stranger: Stranger) -> None:
    stranger.tries('''
    @promise()
    async def test_kept(self, lab):
        """It is kept | split."""
        lab.figure("seconds", 2)
''')

    def table(form: str) -> list[str]:
        command = [sys.executable, "-m", "micro_conformance", "table", "conformance.json"]
        output = subprocess.check_output([*command, "--form", form], text=True, cwd=stranger.folder)
        return output.splitlines()

    assert table("summary")[2] == "| store:acme | in code | none needed | 1 |  |  |  |  |  |"
    assert table("details")[-1] == "| It is kept \\| split. | kept | seconds: 2 |"
    assert table("promises")[-1] == "| It is kept \\| split. | kept |"
