"""A service with a store: opened with it, closed with it, and the interface's checks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest

from micro_core import BackendUnavailable, Record, Service, Store
from micro_core.plugins import registered


class DictStore(Store):
    """A dictionary."""

    name: ClassVar[str] = "dict"

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.records: dict[str, Record] = {}

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        found = [r for k, r in sorted(self.records.items()) if k == key or prefix]
        return found[offset:][:limit]

    async def _write(self, record: Record) -> None:
        self.records[record.key] = record

    async def _delete(self, key: str) -> None:
        self.records.pop(key, None)

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        return sorted(k for k in self.records if k.startswith(prefix))[offset:][:limit]


def service(store: Store | str | None) -> Service:
    return Service("s", registry="memory", transport="memory", broker="memory", store=store)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")


def test_a_store_given_in_code_is_open_while_the_service_runs() -> None:
    async def body() -> None:
        store = DictStore()
        async with service(store) as running:
            assert running.store is store
            await running.store.write(Record("a", b"1"))
            assert [record.value for record in await store.read("a")] == [b"1"]
            assert await store.list() == ["a"]
            await store.delete("a")
        with pytest.raises(BackendUnavailable, match="not connected"):
            await store.list()

    asyncio.run(body())


def test_a_store_is_chosen_by_name_and_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kind(store: str | None) -> type[Store]:
        async with service(store) as running:
            return type(running.store)

    with registered("store", "dict", DictStore):
        assert asyncio.run(kind("dict")) is DictStore
        monkeypatch.setenv("MICRO_STORE", "dict")
        assert asyncio.run(kind(None)) is DictStore


def test_a_service_without_a_store_says_so() -> None:
    async def body() -> None:
        async with service(None) as running:
            with pytest.raises(LookupError, match="store="):
                _ = running.store

    asyncio.run(body())
