"""What a terminal shows: each failure on one screen, exit code 2, no traceback, no secret."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from micro_core import plugins
from micro_core.errors import BackendRefused, BackendUnavailable, OptionError, PluginNotFound
from micro_core.screen import HEIGHT, WIDTH, report, screen
from micro_core.settings import CORE, Settings

CANARY = "hunter2canary"

PROGRAM = """
import asyncio, os, sys
from micro_core import plugins
from micro_core.errors import BackendError, SettingsError
from micro_core.settings import Settings, report

plugins.ELSEWHERE["registry", "faraway"] = ("micro-registry-faraway", "one far away")

async def main(settings):
    registry = settings.choose("registry", None, "memory")
    settings.choose("selector", None, "random")
    settings.check()
    async with registry:
        print("started")

settings = Settings.read(sys.argv[1:], os.environ)
try:
    if settings.wants("help"):
        print(settings.help({"registry": "reach", "selector": "random"}, prog="program"))
    else:
        asyncio.run(main(settings))
except (SettingsError, BackendError) as error:
    sys.exit(report(error, traceback=settings.wants("traceback")))
"""

MODULE = '''
import asyncio
from micro_core.errors import BackendUnavailable
from micro_core.optiontypes import Duration
from micro_core.registry.base import Registry
from micro_core.security import Secret

class Half(Registry):
    name = "half"

class Reach(Registry):
    """Reaches for a server.

    token: what the server wants to see, which is told at such a length that it needs more than
        one line of help.
    wait: between tries.
    """
    name = "reach"
    default_address = "127.0.0.1:7000"
    def __init__(self, *addresses: str, token: Secret | str = "hunter2canary",
                 wait: Duration = 90.0) -> None:
        super().__init__(*addresses)
    async def _connect(self):
        host, port = self.addresses[0].rpartition("@")[2].removeprefix("x://").rsplit(":", 1)
        await asyncio.open_connection(host, int(port))
    async def _register(self, info, ttl): ...
    async def _deregister(self, info): ...
    async def _get_service(self, name): return []
    async def _list_services(self): return []
'''


def dist(root: Path, name: str, plugin: str, value: str, requires: str = "attrs") -> None:
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
    (info / "METADATA").write_text(text)
    (info / "entry_points.txt").write_text(f"[micro.registry]\n{plugin} = {value}\n")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dists")
    (root / "program.py").write_text(PROGRAM)
    (root / "reachable.py").write_text(MODULE)
    (root / "broken.py").write_text("import surely_missing_module")
    dist(root, "acme-reach", "reach", "reachable:Reach")
    dist(root, "acme-half", "half", "reachable:Half")
    dist(root, "acme-broken", "broken", "broken:X")
    dist(root, "acme-new", "new", "broken:X", "micro-core>=99")
    dist(root, "acme-one", "twice", "reachable:Reach")
    dist(root, "acme-two", "twice", "reachable:Half")
    return root


def run(path: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "program.py", *argv],
        cwd=path,
        env={"PYTHONPATH": str(path), "COLUMNS": "80", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# the error of each kind: its flags or variables, what its first line says, and the remedy
REACH = "--registry=reach"
ENV = {"MICRO_REGISTRY": "reach", "MICRO_REGISTRY_WAIT": "x"}
FAILURES = {
    "unknown": (["--registry=zzz"], {}, "no registry 'zzz'", "local (micro-core"),
    "near": (["--registry=reech"], {}, "no registry 'reech'", "Did you mean reach?"),
    "known": (["--registry=faraway"], {}, "no registry", "pip install --find-links dist micro-reg"),
    "conflict": (["--registry=twice"], {}, "2 distributions", "--registry acme-two:twice"),
    "import": (["--registry=broken"], {}, "cannot be imported", "--force-reinstall acme-broken"),
    "core": (["--registry=new"], {}, "needs micro-core>=99", "--upgrade micro-core acme-new"),
    "half": (["--registry=half"], {}, "does not implement _deregister, _get", "Installed: "),
    "option": ([REACH, "--registry_tokne=x"], {}, "unknown flag", "registry_token?"),
    "type": ([REACH, "--registry_wait=x"], {}, "_wait: 'x' is not a duration", "1m30s"),
    "variable": ([], ENV, "MICRO_REGISTRY_WAIT: 'x' is not a duration", "1m30s"),
    "address": ([REACH, "--registry_address=h:x"], {}, "is not an address", "such as 127"),
    "secret": (
        [REACH, f"--registry_address=x://u:{CANARY}@h:x"],
        {},
        "the value is not",
        "number 1 of 1",
    ),
    "stray": ([REACH, "--registry_token", "a", CANARY], {}, "a second value", "--help"),
    "core option": (["--grace=x"], {}, "--grace: 'x' is not", "a duration"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_choice_that_goes_wrong_ends_with_one_screen(path: Path, failure: str) -> None:
    argv, environ, first, remedy = FAILURES[failure]
    ran = run(path, *argv, **environ)
    assert (ran.returncode, ran.stdout) == (2, "")
    lines = ran.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert first in lines[0]
    assert remedy in " ".join(ran.stderr.split())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "Traceback" not in ran.stderr
    assert CANARY not in ran.stderr


def test_a_server_that_cannot_be_reached_is_named_with_its_flag(path: Path) -> None:
    address = f"127.0.0.1:{refused_port()}"
    ran = run(path, "--registry=reach", MICRO_REGISTRY_ADDRESS=f"x://u:{CANARY}@{address}")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"error: registry reach at x://***@{address}: connect: ")
    assert "set by --registry_address or MICRO_REGISTRY_ADDRESS" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert CANARY not in ran.stderr


def test_a_traceback_comes_when_it_is_asked_for(path: Path) -> None:
    for argv, environ in (
        (["--registry=broken", "--traceback"], {}),
        (["--registry=broken"], {"MICRO_TRACEBACK": "1"}),
    ):
        ran = run(path, *argv, **environ)
        assert ran.returncode == 2
        assert "Traceback (most recent call last)" in ran.stderr
        assert "ModuleNotFoundError: No module named 'surely_missing_module'" in ran.stderr
        assert "\nerror: registry broken of acme-broken 1.0" in ran.stderr


def test_a_good_choice_starts(path: Path) -> None:
    async def serve() -> subprocess.CompletedProcess[str]:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            return await asyncio.to_thread(
                run, path, "--registry", "reach", "--registry-address", f"{host}:{port}"
            )

    ran = asyncio.run(serve())
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "started\n", "")


# -- help --------------------------------------------------------------------------------------


def test_help_shows_every_flag_of_the_chosen_plugins(path: Path) -> None:
    ran = run(path, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    text = " ".join(ran.stdout.split())
    for option in CORE:
        assert f"--{option.name} " in text
    assert "[127.0.0.1:7000]" in text
    assert "a duration such as 250ms or 1m30s [10s]" in text
    assert "--registry_wait between tries; a duration such as 250ms or 1m30s [90s]" in text
    assert "at such a length that it needs more than one line of help; a secret --" in text
    assert "--registry_address is MICRO_REGISTRY_ADDRESS" in text
    assert re.search(r"--registry one of [^[]*reach, twice[^[]* \[reach\]", text)
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert CANARY not in text


def test_help_comes_for_another_choice_and_in_spite_of_a_wrong_one(path: Path) -> None:
    assert "--registry_wait" not in run(path, "--help", "--registry=memory").stdout
    ran = run(path, "--help", "--registry=half", "--registry_address=:x", "--qqq")
    assert ran.returncode == 0
    assert "does not implement" in ran.stdout
    assert "--selector_" not in ran.stdout
    assert "one of p2c, random, roundrobin [random]" in ran.stdout


# -- one error ---------------------------------------------------------------------------------


def test_a_screen_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(500):
        name = f"a-plugin-with-a-long-name-{number}"
        monkeypatch.setitem(plugins.BUILTIN, ("store", name), "x:X")
    plugins.refresh()
    with pytest.raises(PluginNotFound) as caught:
        plugins.load("store", "x" * 5000)
    plugins.refresh()
    assert "482 more" in str(caught.value)
    for error in (caught.value, OptionError("long\n" * 100), OptionError("x" * 9999)):
        lines = screen(error).splitlines()
        assert len(lines) <= HEIGHT
        assert max(map(len, lines)) <= WIDTH


def test_the_remedy_of_a_backend_names_what_is_asked_or_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = BackendUnavailable("no luck", plugin="nats", address="h:1")
    assert report(error, kind="broker") == 2
    assert "broker nats, address h:1: is its server up?" in capsys.readouterr().err
    refused = BackendRefused(f"transport nats at x://u:{CANARY}@h: no", plugin="nats")
    assert report(refused) == 2
    shown = capsys.readouterr().err
    assert "--transport_address or MICRO_TRANSPORT_ADDRESS" in shown
    assert CANARY not in shown
    assert screen(error) == "error: no luck\n"


def test_remedies_and_notes_are_below_the_error() -> None:
    error = OptionError("wrong\nmend it")
    error.add_note("asked by\nsomebody")
    assert screen(error) == "error: wrong\n  mend it\n  asked by\n  somebody\n"


def test_a_report_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(OptionError("wrong")) == 2
    assert capsys.readouterr().err == "error: wrong\n"


def test_reading_the_environment_of_this_process_never_fails() -> None:
    assert not Settings.read(None, os.environ).source("server_name")
