"""The store: records by key, with expiry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..component import Component
from ..errors import InvalidName, NotSupported
from ..registry.records import check_name


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a key. ``expiry`` is in seconds, ``None`` for ever.

    In a record to write it counts from the write; in one that was read it is what is left.
    """

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
    """Keeps records. A record past its expiry does not exist.

    Keys are printable text of up to 255 bytes in UTF-8. Their order is that of their code
    points, which is also that of these bytes; ``offset`` and ``limit`` count in it.
    """

    kind: ClassVar[str] = "store"
    features: StoreFeatures = StoreFeatures()

    async def read(
        self, key: str, *, prefix: bool = False, limit: int | None = None, offset: int = 0
    ) -> list[Record]:
        """The record of ``key``, or with ``prefix`` all whose keys begin with it, by key.

        ``[]`` where there is none. Raises InvalidName, ValueError for a negative ``limit`` or
        ``offset``, or BackendError.
        """
        self._check_home()
        _check_prefix(key) if prefix else check_name(key, "key")
        _check_page(limit, offset)
        return list(await self._ask(self._read(key, prefix, limit, offset), "read"))

    async def write(self, record: Record) -> None:
        """Put ``record`` in place of any other of its key.

        Raises InvalidName, ValueError for an expiry that is not above 0, NotSupported for one
        where the store has none, TypeError for a value that is not bytes, or BackendError.
        """
        self._check_home()
        await self._ask(self._write(self._checked(record)), "write")

    async def delete(self, key: str) -> None:
        """Remove ``key``; an unknown one is harmless. Raises InvalidName or BackendError."""
        self._check_home()
        check_name(key, "key")
        await self._ask(self._delete(key), "delete")

    async def list(
        self, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> list[str]:
        """The keys that begin with ``prefix``, in order. Raises like :meth:`read`."""
        self._check_home()
        _check_prefix(prefix)
        _check_page(limit, offset)
        return list(await self._ask(self._list(prefix, limit, offset), "list"))

    def _checked(self, record: Record) -> Record:
        """A copy that nobody changes any more."""
        check_name(record.key, "key")
        if record.expiry is not None:
            if not self.features.expiry:
                raise NotSupported(f"store {self.name} keeps records for ever: give no expiry")
            if not 0 < record.expiry < float("inf"):
                raise ValueError(f"expiry={record.expiry}: give seconds above 0, or None")
        value = memoryview(record.value).tobytes()
        return Record(record.key, value, dict(record.metadata), record.expiry)

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


def _check_prefix(prefix: str) -> None:
    if not prefix.isprintable():  # no key begins so
        raise InvalidName(f"prefix {prefix[:40]!r} must be printable text")


def _check_page(limit: int | None, offset: int) -> None:
    if offset < 0 or (limit is not None and limit < 0):
        raise ValueError(f"limit={limit}, offset={offset}: neither can be negative")
