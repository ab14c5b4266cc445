"""What is particular to the stores of the core; what any store does is in the suite."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_loops import in_loop, until

from micro_core import (
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    NotSupported,
    OptionError,
    Record,
    Store,
)
from micro_core.store.base import StoreFeatures
from micro_core.store.memory import MemoryStore
from micro_core.store.sqlite import SqliteStore

KEYS = st.text("ab%_\\'\"ä€", min_size=1, max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(["write", "delete"]), KEYS), max_size=20)


@settings(max_examples=30, deadline=None, database=None)
@given(steps=STEPS, prefix=st.text("ab%_\\'\"ä€", max_size=2))
def test_it_is_a_sorted_dictionary(steps: list[tuple[str, str]], prefix: str) -> None:
    async def body(store: Store) -> None:
        model: dict[str, bytes] = {}
        async with store:
            for number, (step, key) in enumerate(steps):
                if step == "write":
                    model[key] = str(number).encode()
                    await store.write(Record(key, model[key]))
                else:
                    model.pop(key, None)
                    await store.delete(key)
            expected = sorted(key for key in model if key.startswith(prefix))
            assert await store.list(prefix=prefix) == expected
            found = await store.read(prefix, prefix=True)
            assert [(r.key, r.value) for r in found] == [(k, model[k]) for k in expected]

    asyncio.run(body(MemoryStore()))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(body(SqliteStore(f"{folder}/s.db")))


def test_a_name_that_sqlite_takes_for_no_file_is_refused() -> None:
    with pytest.raises(OptionError, match="the store memory"):
        SqliteStore(":memory:")


class Eternal(MemoryStore):
    """A store that cannot expire."""

    name: ClassVar[str] = "eternal"
    features = StoreFeatures(expiry=False)


@in_loop
async def test_an_expiry_is_refused_where_there_is_none() -> None:
    async with Eternal() as store:
        await store.write(Record("a", b""))
        with pytest.raises(NotSupported, match="eternal"):
            await store.write(Record("a", b"", expiry=1))


@in_loop
async def test_memory_keeps_no_record_that_nobody_can_read() -> None:
    async with MemoryStore("t1") as store:
        for number in range(100):
            await store.write(Record(str(number), b"", expiry=0.001))
        await asyncio.sleep(0.005)
        for _ in range(101):
            await store.write(Record("same", b""))
        assert list(store._shelf._records) == ["same"]


# -- the file --------------------------------------------------------------------------------


@in_loop
async def test_the_file_is_the_owners_alone_and_its_companions_too(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    before = os.umask(0)
    try:
        async with SqliteStore(str(path)) as store:
            await store.write(Record("a", b"secret"))
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"s.db": 0o600, "s.db-wal": 0o600, "s.db-shm": 0o600}


@in_loop
async def test_expired_rows_leave_the_file_in_bounded_batches(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    def rows() -> int:
        with sqlite3.connect(path) as database:
            found: int = database.execute("SELECT count(*) FROM micro_store").fetchone()[0]
        database.close()
        return found

    async with SqliteStore(str(path)) as store:
        with sqlite3.connect(path) as database:
            old = [(f"old{n}", b"", "{}", 1.0) for n in range(250)]
            database.executemany("INSERT INTO micro_store VALUES (?, ?, ?, ?)", old)
        database.close()
        assert await store.list() == []
        left = []
        for _ in range(3):
            await store.write(Record("new", b""))
            left.append(rows())
        assert left == [151, 51, 1]


@in_loop
async def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="No such file"):
        await SqliteStore(str(tmp_path / "none" / "s.db")).connect()


@in_loop
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear John, " * 100)
    with pytest.raises(BackendRefused, match=r"letter\.txt.*not a database"):
        await SqliteStore(str(path)).connect()
    assert path.read_bytes() == b"Dear John, " * 100
    assert os.listdir(tmp_path) == ["letter.txt"]


@in_loop
async def test_a_locked_file_is_unavailable_and_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_core.store.sqlite._BUSY", 0.1)
    path = tmp_path / "s.db"
    async with SqliteStore(str(path)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match="locked"):
            await store.write(Record("a", b""))
        assert await store.list() == []  # readers do not wait for writers
        other.execute("ROLLBACK")
        other.close()
        await store.write(Record("a", b""))
        assert await store.list() == ["a"]


@in_loop
async def test_closing_does_not_wait_for_what_was_given_up(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "s.db"))
    store.operation_timeout = 0.05
    async with store:
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT max(x) FROM n"
        work = asyncio.ensure_future(store._run(lambda: store._opened().execute(endless)))
        await asyncio.sleep(0)  # it is in the thread
        with pytest.raises(BackendUnknown, match="no answer"):
            await store.list()
        work.cancel()
        begin = time.monotonic()
    assert time.monotonic() - begin < store.close_timeout
    assert store.native is None


WRITER = """
import asyncio, sys
from micro_core import Record
from micro_core.store.sqlite import SqliteStore

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        for number in range(int(sys.argv[3])):
            await store.write(Record(f"{sys.argv[2]}{number:06}", b"x" * 200))
            print(number, flush=True)

asyncio.run(main())
"""


def writer(path: Path, name: str, writes: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(writes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@in_loop
async def test_what_was_confirmed_survives_the_kill_of_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with writer(path, "k", 1_000_000) as process:
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        confirmed = 30 + len(process.stdout.read().splitlines())
    async with SqliteStore(str(path)) as store:
        keys = await store.list(prefix="k")
        assert keys == [f"k{number:06}" for number in range(len(keys))]
        assert confirmed <= len(keys) <= confirmed + 1
        assert all(record.value == b"x" * 200 for record in await store.read("k", prefix=True))
        await store.write(Record("z", b""))


@in_loop
async def test_several_processes_open_and_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    writers = [writer(path, name, 40) for name in "abcd"]
    for process in writers:
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    async with SqliteStore(str(path)) as store:
        assert len(await store.list()) == 160


@in_loop
async def test_a_reader_sees_what_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with SqliteStore(str(path)) as store:
        assert await store.list() == []
        with writer(path, "a", 3) as process:
            await asyncio.to_thread(process.wait)
        await until(lambda: process.returncode == 0)
        assert await store.list() == ["a000000", "a000001", "a000002"]
