"""The local registry among real processes, and a directory that nobody else can spoil."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_loops import in_loop

from micro_core.errors import BackendRefused, BackendUnavailable, MicroError
from micro_core.registry import local as module
from micro_core.registry.local import LIMIT, LocalRegistry
from micro_core.registry.records import Endpoint, Node, ServiceInfo
from micro_core.registry.wire import to_json

SERVICE = """
import asyncio, sys
from micro_core.registry.local import LocalRegistry
from micro_core.registry.records import Node, ServiceInfo

async def main():
    async with LocalRegistry(sys.argv[1]) as registry:
        info = ServiceInfo("greeter", "1", [Node(sys.argv[2], "127.0.0.1:1")])
        async with registry.keep(info, ttl=float(sys.argv[3])):
            await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def service(
    directory: Path, id: str = "other", ttl: float = 30.0
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(directory), id, str(ttl)], stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def info(*ids: str, version: str = "1", name: str = "greeter", port: int = 1) -> ServiceInfo:
    return ServiceInfo(name, version, [Node(id, f"{id}:{port}") for id in ids])


async def until_found(registry: LocalRegistry, *expected: str) -> float:
    """How many seconds it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with asyncio.timeout(15):
        while await found(registry) != sorted(expected):
            await asyncio.sleep(0.02)
    return loop.time() - begin


async def found(registry: LocalRegistry, name: str = "greeter") -> list[str]:
    return [node.id for info in await registry.get_service(name) for node in info.nodes]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def a_dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def forge(directory: Path, name: str, **how: object) -> Path:
    """A file as ``LocalRegistry`` writes it, of another process or another time."""
    pid = os.getpid()
    owner: dict[str, Any] = {"boot": module._boot(), "pid": pid, "start": module._started(pid)}
    owner |= {"ttl": 30.0, "time": time.monotonic(), **how}
    stamp = int(owner.pop("time") * 1e9)
    path = directory / module._file_name("greeter", name)
    path.write_text(f"{json.dumps(list(owner.values()))}\n{to_json(info(name))}\n")
    os.utime(path, ns=(stamp, stamp))
    return path


# -- processes -------------------------------------------------------------------------------


@in_loop
async def test_a_process_finds_another_and_a_killed_one_is_gone_at_once(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("mine"))
        with service(tmp_path) as process:
            await until_found(registry, "mine", "other")
            process.kill()
            await until_found(registry, "mine")  # not reaped yet: its parent has not waited
            assert process.returncode is None
            assert files(tmp_path) == ["greeter@mine.json"]
            assert await registry.list_services() == ["greeter"]


@in_loop
async def test_a_clean_end_removes_the_file_itself(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        with service(tmp_path) as process:
            await until_found(registry, "other")
            process.send_signal(signal.SIGINT)
            await asyncio.to_thread(process.wait)
            assert files(tmp_path) == []


@in_loop
async def test_a_frozen_process_is_gone_after_its_ttl_and_back_when_it_thaws(
    tmp_path: Path,
) -> None:
    ttl = 0.9
    async with LocalRegistry(str(tmp_path)) as registry:
        with service(tmp_path, ttl=ttl) as process:
            await until_found(registry, "other")
            process.send_signal(signal.SIGSTOP)
            assert await until_found(registry) < ttl + 1
            assert files(tmp_path) == []
            process.send_signal(signal.SIGCONT)
            assert await until_found(registry, "other") < ttl / 3 + 1
            await asyncio.sleep(ttl)
            assert await found(registry) == ["other"]


@in_loop
async def test_without_proc_a_process_that_is_gone_is_noticed_too(tmp_path: Path) -> None:
    with patch.object(module, "_PROC", False):
        async with LocalRegistry(str(tmp_path)) as registry:
            await registry.register(info("mine"))
            forge(tmp_path, "dead", pid=a_dead_process(), start=0)
            forge(tmp_path, "first", pid=1, start=0)  # another user's, mostly
            forge(tmp_path, "none", pid=1 << 80, start=0)
            assert await found(registry) == ["first", "mine"]


@pytest.mark.parametrize(
    "how",
    [
        {"boot": "before"},
        {"start": 1},
        {"time": 0.0, "ttl": 0.001},
        {"time": 1e9},
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 70},
        {"ttl": -1.0},
    ],
    ids=str,
)
@in_loop
async def test_a_stamp_that_is_not_of_a_living_owner_is_no_node(
    tmp_path: Path, how: dict[str, object]
) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        forge(tmp_path, "good")
        forge(tmp_path, "bad", **how)
        assert await found(registry) == ["good"]
        assert files(tmp_path) == ["greeter@good.json"]


@in_loop
async def test_a_watcher_sees_nodes_come_change_and_expire(tmp_path: Path) -> None:
    one, two = LocalRegistry(str(tmp_path)), LocalRegistry(str(tmp_path))
    async with one, two, two.watch("greeter") as watcher:
        for port, action in ((1, "create"), (2, "update")):
            await one.register(info("a", port=port), ttl=1.0)
            event = await anext(watcher)
            assert (event.action, event.service) == (action, info("a", port=port))
        assert (await anext(watcher)).action == "delete"


# -- files -----------------------------------------------------------------------------------


@in_loop
async def test_a_heartbeat_changes_the_stamp_and_nothing_else(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("a"))
        path = tmp_path / "greeter@a.json"
        before, content, listed = path.stat(), path.read_bytes(), tmp_path.stat().st_mtime_ns
        await asyncio.sleep(0.02)
        await registry.register(info("a"))
        assert path.stat().st_ino == before.st_ino
        assert path.stat().st_mtime_ns > before.st_mtime_ns
        assert path.read_bytes() == content
        assert tmp_path.stat().st_mtime_ns == listed
        changed = ServiceInfo("greeter", "1", info("a").nodes, [Endpoint("Say.Hello")])
        await registry.register(changed)
        assert path.stat().st_ino != before.st_ino
        assert await registry.get_service("greeter") == [changed]


@in_loop
async def test_an_idle_look_reads_neither_the_directory_nor_a_file(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("a", "b"))
        os.utime(tmp_path, (0, 0))  # not changed for long
        assert await found(registry) == ["a", "b"]
        with (
            patch.object(Path, "iterdir", side_effect=AssertionError("listed")),
            patch.object(LocalRegistry, "_read", side_effect=AssertionError("read")),
        ):
            assert await found(registry) == ["a", "b"]


@in_loop
async def test_in_a_directory_at_rest_nodes_expire_and_renewed_ones_do_not(
    tmp_path: Path,
) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("a", "b"), ttl=0.2)
        os.utime(tmp_path, (0, 0))
        assert await found(registry) == ["a", "b"]
        await registry.register(info("b"), ttl=60)
        await until_found(registry, "b")
        assert files(tmp_path) == ["greeter@b.json"]


@in_loop
async def test_a_change_within_the_tick_of_the_last_one_is_seen(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as one, LocalRegistry(str(tmp_path)) as two:
        await one.register(info("a"))
        changed = tmp_path.stat()
        assert await found(two) == ["a"]
        await one.register(info("b"))
        await one.register(info("a", port=2))
        os.utime(tmp_path, ns=(changed.st_atime_ns, changed.st_mtime_ns))
        assert await two.get_service("greeter") == [
            ServiceInfo("greeter", "1", [Node("a", "a:2"), Node("b", "b:1")])
        ]


@in_loop
async def test_the_last_to_register_an_id_has_it(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as one, LocalRegistry(str(tmp_path)) as two:
        await one.register(info("a", port=1))
        await two.register(info("a", port=2, version="2"))
        assert await one.get_service("greeter") == [info("a", port=2, version="2")]
        await one.register(info("a", port=1))
        assert await two.get_service("greeter") == [info("a", port=1)]
        await two.deregister(info("a"))
        assert await found(one) == []


@in_loop
async def test_a_node_renewed_while_a_reader_removes_it_stays(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as owner, LocalRegistry(str(tmp_path)) as reader:
        await owner.register(info("a"), ttl=0.01)
        await asyncio.sleep(0.02)
        look, renewed = reader._read, False

        def race(path: Path, *rest: object) -> object:
            nonlocal renewed
            entry = look(path, *rest)  # type: ignore[arg-type]
            if not renewed:  # the reader has seen an old stamp, and is about to remove
                renewed = True
                assert owner._renew(path.name, path.read_bytes())
            return entry

        with patch.object(reader, "_read", race):
            assert await found(reader) == ["a"]
        assert renewed
        assert files(tmp_path) == ["greeter@a.json"]


@in_loop
async def test_a_node_written_while_a_reader_has_taken_the_old_file_stays(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as owner, LocalRegistry(str(tmp_path)) as reader:
        await owner.register(info("a"), ttl=0.01)
        await asyncio.sleep(0.02)
        look = reader._read

        def race(path: Path, *rest: object) -> object:
            if path.suffix == ".tmp":  # it is taken, and its owner has a heartbeat
                assert not owner._renew("greeter@a.json", b"")
                owner._write("greeter@a.json", forge(tmp_path, "a").read_bytes())
            return look(path, *rest)  # type: ignore[arg-type]

        with patch.object(reader, "_read", race):
            await found(reader)
        assert await found(reader) == ["a"]
        assert files(tmp_path) == ["greeter@a.json"]


@in_loop
async def test_a_heartbeat_into_a_file_that_was_just_removed_writes_it_anew(
    tmp_path: Path,
) -> None:
    async with LocalRegistry(str(tmp_path)) as owner:
        await owner.register(info("a"))
        stamp = os.utime

        def removed_first(file: int, **how: Any) -> None:
            (tmp_path / "greeter@a.json").unlink(missing_ok=True)
            stamp(file, **how)

        with patch.object(os, "utime", removed_first):
            await owner.register(info("a"))
        assert await found(owner) == ["a"]


@in_loop
async def test_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "run"
    async with LocalRegistry(str(directory)) as registry:
        async with registry.keep(info("a"), ttl=0.3):
            (directory / "greeter@a.json").unlink()
            directory.rmdir()
            async with asyncio.timeout(10):
                while not directory.exists():
                    await asyncio.sleep(0.01)
            await until_found(registry, "a")
            (directory / "greeter@a.json").unlink()
            directory.rmdir()
            await until_found(registry, "a")  # and a reader is not in the way
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@in_loop
async def test_what_killed_writers_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / f"{a_dead_process()}-7f-1.tmp").touch()
    (tmp_path / f"{os.getpid()}-7f-1.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    async with LocalRegistry(str(tmp_path)):
        assert files(tmp_path) == [f"{os.getpid()}-7f-1.tmp", "notes.tmp"]


@in_loop
async def test_a_full_disk_is_an_error_and_leaves_the_record_that_was(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("a"))
        full = OSError(28, "No space left on device")
        with (
            patch.object(Path, "replace", side_effect=full),
            pytest.raises(BackendUnavailable, match="No space left"),
        ):
            await registry.register(info("a", port=2))
        assert files(tmp_path) == ["greeter@a.json"]
        assert await registry.get_service("greeter") == [info("a")]


# -- hostile contents ------------------------------------------------------------------------


@in_loop
async def test_garbage_is_skipped_and_hides_nothing(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        await registry.register(info("good"))
        good = (tmp_path / "greeter@good.json").read_bytes()
        owner, record = good.splitlines(keepends=True)
        for number, content in enumerate(
            [
                b"",
                b"{}",
                b"\xff" * 500,
                good[:-20],
                owner,
                record,
                owner + b"[]",
                owner + b'{"name":1}',
                owner + b"[" * 100_000 + b"\n",
                b"[" * 100_000,
                b"9" * 5000 + b"\n" + record,
                b"[1,2,3]\n" + record,
                b'["b",1e999,1e999,1]\n' + record,
                good.replace(b'"greeter"', b'"another"').replace(b'"good"', b'"evil"'),
                good + b" " * LIMIT,
            ]
        ):
            (tmp_path / f"greeter@bad-{number}.json").write_bytes(content)
        with (tmp_path / "greeter@huge.json").open("wb") as huge:
            huge.truncate(1 << 40)
        os.mkfifo(tmp_path / "greeter@pipe.json")
        (tmp_path / "greeter@dir.json").mkdir()
        (tmp_path / "elsewhere").mkdir()
        link = forge(tmp_path / "elsewhere", "link")
        (tmp_path / "greeter@link.json").symlink_to(link)
        assert await registry.get_service("greeter") == [info("good")]
        assert "greeter" in await registry.list_services()


@in_loop
async def test_a_record_too_long_for_readers_is_refused(tmp_path: Path) -> None:
    async with LocalRegistry(str(tmp_path)) as registry:
        huge = ServiceInfo("greeter", "1", [Node("a", "a:1", {"k": "v" * LIMIT})])
        with pytest.raises(BackendRefused, match="shorten it"):
            await registry.register(huge)
        assert files(tmp_path) == []


NAMES = [
    "a/b",
    "a-b",
    "..",
    ".",
    ".hidden",
    "a@b",
    "a",
    "A",
    "a%62",
    "~",
    "имя",
    "x" * 255,
    "x" * 254 + "y",
    "ы" * 127,
    "go.micro.srv",
]


@in_loop
async def test_names_of_every_kind_stay_apart_and_inside(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    async with LocalRegistry(str(directory)) as registry:
        for name in NAMES:
            for id in NAMES:
                await registry.register(ServiceInfo(name, "1", [Node(id, f"{name}{id}")]))
        assert await registry.list_services() == sorted(NAMES)
        for name in NAMES:
            [service] = await registry.get_service(name)
            assert {n.id: n.address for n in service.nodes} == {id: f"{name}{id}" for id in NAMES}
        assert files(tmp_path) == ["run"]


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_quoting_is_injective_and_safe(one: str, other: str) -> None:
    quoted = [module._quoted(name) for name in (one, other) if name.isprintable()]
    for text in quoted:
        assert set(text) <= set(string.ascii_lowercase + string.digits + "-_.%~")
        assert len(text) <= 100
    if len(quoted) == 2:
        assert (quoted[0] == quoted[1]) == (one == other)


# -- the directory ---------------------------------------------------------------------------


@in_loop
async def test_two_directories_do_not_see_each_other(tmp_path: Path) -> None:
    one, two = LocalRegistry(str(tmp_path / "1")), LocalRegistry(str(tmp_path / "2"))
    async with one, two:
        await one.register(info("a"))
        assert await found(two) == []
        assert await two.list_services() == []
        assert one.local_host() == "127.0.0.1"


async def refused(directory: Path) -> str:
    registry = LocalRegistry(str(directory))
    with pytest.raises(BackendRefused) as caught:
        await registry.connect()
    assert str(directory) in str(caught.value)
    assert registry.health().state == "closed"
    return str(caught.value)


@in_loop
async def test_a_directory_that_others_could_change_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    assert "give the real one" in await refused(link)
    file = tmp_path / "file"
    file.touch()
    assert "not a directory" in await refused(file)
    real.chmod(0o770)
    assert "chmod 700" in await refused(real)
    real.chmod(0o702)
    assert "chmod 700" in await refused(real)


@in_loop
async def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid() == 0:
        other = tmp_path / "other"
        other.mkdir(mode=0o700)
        os.chown(other, 65534, 65534)
    else:
        other = Path("/usr")
    assert "belongs to user" in await refused(other)


@in_loop
async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MicroError, match="Not a directory"):
        await LocalRegistry(str(tmp_path / "file" / "run")).connect()


@in_loop
async def test_the_default_directory_is_private_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with LocalRegistry() as registry:
        assert registry.addresses == (str(tmp_path / "micro"),)
        assert stat.S_IMODE((tmp_path / "micro").stat().st_mode) == 0o700
    uid = os.getuid()
    for elsewhere in ("", "/nonexistent", "/usr" if uid else "/var/cache/man"):
        if elsewhere and Path(elsewhere).exists() and Path(elsewhere).stat().st_uid == uid:
            continue
        monkeypatch.setenv("XDG_RUNTIME_DIR", elsewhere)
        async with LocalRegistry() as registry:
            assert registry.addresses == (str(tmp_path / f"micro-{uid}"),)
