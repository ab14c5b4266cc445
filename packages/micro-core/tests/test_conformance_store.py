"""The stores of the core keep every promise of stores."""

from __future__ import annotations

import tempfile
from pathlib import Path

from micro_conformance import StoreSuite
from micro_core import Store
from micro_core.store.memory import MemoryStore
from micro_core.store.sqlite import SqliteStore

DIRECTORY = tempfile.TemporaryDirectory()


class TestMemory(StoreSuite):
    jumping = True

    def make(self, address: str) -> Store:
        return MemoryStore(address)


class TestSqlite(StoreSuite):
    expiry = 0.3

    def make(self, address: str) -> Store:
        return SqliteStore(str(Path(DIRECTORY.name) / address))
