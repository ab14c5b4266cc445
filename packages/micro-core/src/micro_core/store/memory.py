"""The memory store: records inside one event loop, for tests and for parts of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from ..hub import hub
from .base import Record, Store


class _Shelf:
    """What the memory stores of one name in one loop share."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[Record, float]] = {}
        self._writes = 0

    def put(self, record: Record, now: float) -> None:
        until = float("inf") if record.expiry is None else now + record.expiry
        self._records[record.key] = record, until
        self._writes += 1
        if 2 * self._writes > len(self._records):  # so many writes pay for a look at all
            self._writes = 0
            self._records = {k: kept for k, kept in self._records.items() if kept[1] > now}

    def drop(self, key: str) -> None:
        self._records.pop(key, None)

    def keys(self, prefix: str, now: float) -> list[str]:
        found = (key for key, (_, until) in self._records.items() if until > now)
        return sorted(key for key in found if key.startswith(prefix))

    def get(self, key: str, now: float) -> Record | None:
        record, until = self._records.get(key, (None, 0.0))
        if record is None or until <= now:
            return None
        left = None if record.expiry is None else until - now
        return replace(record, metadata=dict(record.metadata), expiry=left)


class MemoryStore(Store):
    """Records of the running event loop; stores of one address share them.

    They live as long as the loop, and expire by its clock.
    """

    name: ClassVar[str] = "memory"
    default_address: ClassVar[str] = "default"

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._shelf = _Shelf()

    async def _connect(self) -> None:
        self._shelf = hub(_Shelf, self.address)

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        now = asyncio.get_running_loop().time()
        keys = await self._list(key, limit, offset) if prefix else [key][offset:][:limit]
        return [record for each in keys if (record := self._shelf.get(each, now))]

    async def _write(self, record: Record) -> None:
        self._shelf.put(record, asyncio.get_running_loop().time())

    async def _delete(self, key: str) -> None:
        self._shelf.drop(key)

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        return self._shelf.keys(prefix, asyncio.get_running_loop().time())[offset:][:limit]
