"""The store: records by key, with expiry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..component import Component


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a key. ``expiry`` is seconds from the write, ``None`` for ever."""

    key: str
    value: bytes
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    expiry: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFeatures:
    """expiry: records vanish by themselves. survives_restart: they outlive the process."""

    expiry: bool = True
    survives_restart: bool = False


class Store(Component):
    """Keeps records. Keys are listed in order; a record past its expiry does not exist."""

    kind: ClassVar[str] = "store"
    features: StoreFeatures = StoreFeatures()

    async def read(
        self, key: str, *, prefix: bool = False, limit: int | None = None, offset: int = 0
    ) -> list[Record]:
        """The record of ``key``, or all below it; ``[]`` where there is none."""
        self._check_home()
        return list(await self._ask(self._read(key, prefix, limit, offset), "read"))

    async def write(self, record: Record) -> None:
        """Put ``record`` in place of any other of its key."""
        self._check_home()
        await self._ask(self._write(record), "write")

    async def delete(self, key: str) -> None:
        """Remove ``key``; an unknown one is harmless."""
        self._check_home()
        await self._ask(self._delete(key), "delete")

    async def list(
        self, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> list[str]:
        """The sorted keys that begin with ``prefix``."""
        self._check_home()
        return list(await self._ask(self._list(prefix, limit, offset), "list"))

    @abstractmethod
    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]: ...

    @abstractmethod
    async def _write(self, record: Record) -> None: ...

    @abstractmethod
    async def _delete(self, key: str) -> None: ...

    @abstractmethod
    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]: ...
