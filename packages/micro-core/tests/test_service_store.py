"""A service with a store: opened with it, closed with it, and the interface's checks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from micro_core import BackendUnavailable, OptionError, Record, Service, Store
from micro_core.plugins import registered
from micro_core.settings import Settings


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


def test_the_stores_of_the_core_are_chosen_by_name_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(key: str) -> list[str]:
        async with service("sqlite") as running:
            await running.store.write(Record(key, b""))
            return await running.store.list()

    monkeypatch.chdir(tmp_path)
    assert asyncio.run(write("a")) == ["a"]
    assert (tmp_path / "micro.db").exists()
    monkeypatch.setenv("MICRO_STORE_ADDRESS", "other name.db")
    assert asyncio.run(write("b")) == ["b"]
    assert (tmp_path / "other name.db").exists()
    monkeypatch.setenv("MICRO_STORE", "memory")
    monkeypatch.setenv("MICRO_STORE_ADDRESS", "shelf")
    assert asyncio.run(write("c")) == ["c"]


def test_a_store_is_chosen_by_flags(tmp_path: Path) -> None:
    async def body() -> None:
        path = str(tmp_path / "flag.db")
        flags = ["--store=sqlite", f"--store_address={path}"]
        one = service(None)
        await one.start(Settings.read(flags, {}))
        assert (one.store.name, one.store.address) == ("sqlite", path)
        await one.stop()

    asyncio.run(body())


def test_two_addresses_are_refused() -> None:
    async def body() -> None:
        flags = ["--store=sqlite", "--store_address=a.db,b.db"]
        with pytest.raises(OptionError, match="sqlite"):
            await service(None).start(Settings.read(flags, {}))

    asyncio.run(body())
