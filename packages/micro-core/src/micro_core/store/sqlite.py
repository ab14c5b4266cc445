"""The sqlite store: records in one file of this machine, shared by its processes."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from .base import Record, Store, StoreFeatures

T = TypeVar("T")
_BUSY = 4.0  # seconds to wait for another process; below operation_timeout, which says "maybe"
_PURGE = 100  # expired records that a write removes at most
_LAST = "\U0010ffff"  # in no key, as it does not print, and after all that is
_TRANSIENT = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_PROTOCOL"}

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS micro_store"
    " (key TEXT PRIMARY KEY, value BLOB NOT NULL, metadata TEXT NOT NULL, expires REAL)",
    "CREATE INDEX IF NOT EXISTS micro_store_expires ON micro_store (expires)"
    " WHERE expires IS NOT NULL",
)
_WRITE = "INSERT OR REPLACE INTO micro_store VALUES (?, ?, ?, ?)"
_EXPIRE = (
    "DELETE FROM micro_store WHERE key IN (SELECT key FROM micro_store WHERE expires <= ? LIMIT ?)"
)
_DELETE = "DELETE FROM micro_store WHERE key = ?"
_WHERE = "FROM micro_store WHERE (expires IS NULL OR expires > ?) AND key BETWEEN ? AND ?"
_PAGE = "ORDER BY key LIMIT ? OFFSET ?"
_READ = f"SELECT key, value, metadata, expires {_WHERE} {_PAGE}"
_LIST = f"SELECT key {_WHERE} {_PAGE}"


class SqliteStore(Store):
    """Records in a file, which ``path`` names; ``micro.db`` by default.

    The file is made readable to its owner alone. What ``write`` has confirmed survives the
    death of the process and of the machine. Records expire by the wall clock, as only that
    goes on over a restart: a clock that is set changes when they do.
    """

    name: ClassVar[str] = "sqlite"
    default_address: ClassVar[str] = "micro.db"
    features = StoreFeatures(expiry=True, survives_restart=True)

    def __init__(self, path: str = default_address) -> None:
        if path == ":memory:":
            raise OptionError("the store sqlite keeps files; the store memory is without one")
        super().__init__(path)
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None

    @classmethod
    def check_address(cls, address: str) -> None:
        if not address.strip() or not address.isprintable():
            raise ValueError("it is empty or has control characters")

    @property
    def native(self) -> sqlite3.Connection | None:
        """For the store's own thread; ``None`` while it is closed."""
        return self._database

    async def _connect(self) -> None:
        self._thread = ThreadPoolExecutor(1, "micro-sqlite")
        await self._run(self._begin)

    async def _close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._database is not None:
            self._database.interrupt()  # whoever asked for what still runs has given up
        await asyncio.get_running_loop().run_in_executor(thread, self._end)
        thread.shutdown(wait=False)

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        now = time.time()
        rows = await self._query(_READ, now, key, prefix, limit, offset)
        return [
            Record(key, value, json.loads(metadata), None if until is None else until - now)
            for key, value, metadata, until in rows
        ]

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        rows = await self._query(_LIST, time.time(), prefix, True, limit, offset)
        return [key for (key,) in rows]

    async def _write(self, record: Record) -> None:
        now = time.time()
        until = None if record.expiry is None else now + record.expiry
        row = record.key, record.value, json.dumps(record.metadata), until
        await self._run(self._change, (_WRITE, row), (_EXPIRE, (now, _PURGE)))

    async def _delete(self, key: str) -> None:
        await self._run(self._change, (_DELETE, (key,)))

    async def _query(
        self, sql: str, now: float, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Any]:
        most = -1 if limit is None else limit
        values = now, key, key + _LAST if prefix else key, most, offset
        return await self._run(lambda: self._opened().execute(sql, values).fetchall())

    # -- in the thread -----------------------------------------------------------------------

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *arguments)
        except sqlite3.Error as error:
            raise self._reason(error) from error

    def _begin(self) -> None:
        path = Path(self.address)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(
            path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL").fetchall()
        self._database.execute("PRAGMA synchronous = FULL")
        self._change(*((statement, ()) for statement in _SCHEMA))

    def _end(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise sqlite3.ProgrammingError("the database is closed")
        return self._database

    def _change(self, *statements: tuple[str, Sequence[Any]]) -> None:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")  # waits its turn, instead of failing in the middle
        try:
            for sql, values in statements:
                database.execute(sql, values)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _reason(self, error: sqlite3.Error) -> BackendError:
        name = getattr(error, "sqlite_errorname", "")
        transient = any(name.startswith(each) for each in _TRANSIENT)
        kind = BackendUnavailable if transient else BackendRefused
        return kind(
            f"store sqlite at {self.address}: {error}", plugin=self.name, address=self.address
        )
