"""Stores with one fault each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from micro_core import BackendUnavailable, Health, Record
from micro_core.store.base import StoreFeatures
from micro_core.store.memory import MemoryStore

from ..mutants import mutant

Page = tuple[int | None, int]


def now() -> float:
    return asyncio.get_running_loop().time()


class Shared(MemoryStore):
    def shared(self, key: str, default: Any) -> Any:
        """What all stores of the loop know under ``key``."""
        return self._shelf.__dict__.setdefault(key, default)


# -- what is written ---------------------------------------------------------------------------


@mutant("test_a_record_comes_back_whole", "test_any_text_in_metadata_is_kept")
class LosesMetadata(MemoryStore):
    """Metadata is not kept."""

    async def _write(self, record: Record) -> None:
        await super()._write(replace(record, metadata={}))


@mutant("test_a_record_comes_back_whole")
class TakesText(MemoryStore):
    """Values are kept as text, so that other bytes are replaced."""

    async def _write(self, record: Record) -> None:
        text = record.value.decode(errors="replace")
        await super()._write(replace(record, value=text.encode()))


@mutant("test_any_text_in_metadata_is_kept")
class AsciiMetadata(MemoryStore):
    """Metadata keeps ASCII alone."""

    async def _write(self, record: Record) -> None:
        ascii = {k: v.encode("ascii", "replace").decode() for k, v in record.metadata.items()}
        await super()._write(replace(record, metadata=ascii))


@mutant("test_the_last_write_replaces_all")
class MergesMetadata(MemoryStore):
    """A record that is written again keeps its old metadata too."""

    async def _write(self, record: Record) -> None:
        before = self._shelf.get(record.key, now())
        old = (before or record).metadata
        await super()._write(replace(record, metadata={**old, **record.metadata}))


@mutant("test_the_last_write_replaces_all", "test_another_client_sees_it")
class FirstWriteWins(MemoryStore):
    """A key that is there is not written again."""

    async def _write(self, record: Record) -> None:
        if self._shelf.get(record.key, now()) is None:
            await super()._write(record)


@mutant("test_another_client_sees_it")
class ReadsItsCache(MemoryStore):
    """A client goes on reading what it has read before."""

    async def _connect(self) -> None:
        await super()._connect()
        self._cache: dict[str, Record] = {}

    async def _write(self, record: Record) -> None:
        self._cache.pop(record.key, None)
        await super()._write(record)

    async def _delete(self, key: str) -> None:
        self._cache.pop(key, None)
        await super()._delete(key)

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        if not prefix and key in self._cache and (limit, offset) == (None, 0):
            return [self._cache[key]]
        found = await super()._read(key, prefix, limit, offset)
        self._cache.update({record.key: record for record in found if not prefix})
        return found


@mutant("test_large_values_are_kept")
class HalfAMebibyte(MemoryStore):
    """Values are cut off at half a mebibyte."""

    async def _write(self, record: Record) -> None:
        await super()._write(replace(record, value=record.value[: 1 << 19]))


@mutant("test_long_keys_work")
class ShortKeys(MemoryStore):
    """Keys are told apart by their first 200 characters."""

    async def _write(self, record: Record) -> None:
        await super()._write(replace(record, key=record.key[:200]))


@mutant("test_a_record_is_a_copy")
class KeepsTheObject(MemoryStore):
    """A record is kept and given out as the object it came in."""

    def _checked(self, record: Record) -> Record:
        super()._checked(record)
        return record

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        found = await super()._read(key, prefix, limit, offset)
        return [replace(one, metadata=self._shelf._records[one.key][0].metadata) for one in found]


@mutant("test_a_value_that_is_not_bytes_is_refused")
class EncodesText(MemoryStore):
    """Text as a value is written as its UTF-8."""

    def _checked(self, record: Record) -> Record:
        value: Any = record.value
        encoded = value.encode() if isinstance(value, str) else value
        return super()._checked(replace(record, value=encoded))


@mutant("test_many_at_once")
class LosesWrites(Shared):
    """Of writes that overlap only the first is done."""

    async def _write(self, record: Record) -> None:
        if self.shared("busy", False):
            return
        self._shelf.__dict__["busy"] = True
        await asyncio.sleep(0)
        await super()._write(record)
        self._shelf.__dict__["busy"] = False


@mutant("test_one_of_several_writers_wins")
class WritesInTwoSteps(MemoryStore):
    """The metadata of a new record is written after its value, and others come in between."""

    async def _write(self, record: Record) -> None:
        new = self._shelf.get(record.key, now()) is None
        await super()._write(record)
        await asyncio.sleep(0)
        kept = self._shelf.get(record.key, now())
        if new and kept is not None:
            await super()._write(replace(record, value=kept.value))


@mutant("test_impossible_keys_are_refused")
class TakesAnyKey(MemoryStore):
    """Keys are not checked when a record is deleted."""

    async def delete(self, key: str) -> None:
        self._check_home()
        await self._delete(key)


# -- what is removed ---------------------------------------------------------------------------


@mutant("test_a_deleted_record_is_gone", "test_it_is_a_sorted_dictionary")
class NeverDeletes(MemoryStore):
    """Deleting does nothing."""

    async def _delete(self, key: str) -> None:
        return None


@mutant("test_a_deleted_record_is_gone", "test_it_is_a_sorted_dictionary")
class DeletesByPrefix(MemoryStore):
    """Deleting a key deletes all that begin with it."""

    async def _delete(self, key: str) -> None:
        for each in self._shelf.keys(key, now()):
            self._shelf.drop(each)


@mutant("test_deleting_an_unknown_key_is_harmless")
class MissesTheUnknown(MemoryStore):
    """Deleting what is not there is an error."""

    async def _delete(self, key: str) -> None:
        if self._shelf.get(key, now()) is None:
            raise LookupError(key)
        self._shelf.drop(key)


# -- what is read ------------------------------------------------------------------------------


@mutant("test_an_unknown_key_is_an_empty_list")
class RaisesForTheUnknown(MemoryStore):
    """Reading a key that is not there is an error."""

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        found = await super()._read(key, prefix, limit, offset)
        if not found and not prefix and (limit, offset) == (None, 0):
            raise LookupError(key)
        return found


@mutant("test_a_key_is_no_prefix")
class FindsTheNext(MemoryStore):
    """A key that is not there is read as one that begins with it."""

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        found = await super()._read(key, prefix, limit, offset)
        return found or await super()._read(key, True, 1, offset)


@mutant("test_keys_are_sorted")
class SortsByLetter(MemoryStore):
    """Keys are sorted without regard to case."""

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        found = sorted(self._shelf.keys(prefix, now()), key=lambda key: (key.lower(), key))
        return found[offset:][:limit]


@mutant("test_a_prefix_is_no_pattern")
class PrefixIsAPattern(MemoryStore):
    """A prefix is taken for a pattern of file names."""

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        found = [k for k in self._shelf.keys("", now()) if fnmatchcase(k, f"{prefix}*")]
        return found[offset:][:limit]


@mutant("test_pages_of_keys_cover_everything_once", "test_pages_of_records_cover_everything_once")
class PagesOverlap(MemoryStore):
    """A page begins with the last key of the one before."""

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        return await super()._list(prefix, limit, max(0, offset - 1))


@mutant("test_pages_of_records_cover_everything_once")
class LimitsKeysOnly(MemoryStore):
    """Limit and offset do not hold for records."""

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        return await super()._read(key, prefix, None if prefix else limit, 0 if prefix else offset)


@mutant("test_one_record_is_a_page_too")
class OneIsNoPage(MemoryStore):
    """Limit and offset do not hold where one key is read."""

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        return await super()._read(key, prefix, *((limit, offset) if prefix else (None, 0)))


@mutant("test_a_negative_page_is_refused")
class TakesNegatives(MemoryStore):
    """A negative limit counts from the end."""

    async def list(
        self, *, prefix: str = "", limit: int | None = None, offset: int = 0
    ) -> list[str]:
        self._check_home()
        return list(await self._list(prefix, limit, offset))


@mutant("test_a_cancelled_operation_harms_no_other")
class MixesReplies(MemoryStore):
    """The reply to a question that was given up is taken for that to the next one."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._replies: deque[Sequence[Record]] = deque()

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        self._replies.append(await super()._read(key, prefix, limit, offset))
        await asyncio.sleep(0)
        return self._replies.popleft()


# -- how long it lasts -------------------------------------------------------------------------


@mutant("test_a_record_is_gone_after_its_expiry", "test_the_expired_are_in_no_page")
class NeverExpires(MemoryStore):
    """A record stays for ever, whatever its expiry."""

    async def _write(self, record: Record) -> None:
        await super()._write(replace(record, expiry=record.expiry and record.expiry + 1e9))


@mutant("test_the_expired_are_in_no_page", "test_a_record_is_gone_after_its_expiry")
class ListsTheExpired(MemoryStore):
    """A record past its expiry is listed, and cannot be read."""

    async def _list(self, prefix: str, limit: int | None, offset: int) -> Sequence[str]:
        found = sorted(key for key in self._shelf._records if key.startswith(prefix))
        return found[offset:][:limit]


@mutant("test_a_record_lives_until_its_expiry")
class ExpiresEarly(MemoryStore):
    """A record is gone after half its expiry."""

    async def _write(self, record: Record) -> None:
        await super()._write(replace(record, expiry=record.expiry and record.expiry / 2))


@mutant("test_a_record_says_what_is_left")
class SaysTheWhole(MemoryStore):
    """A record says the expiry that it was written with."""

    async def _read(
        self, key: str, prefix: bool, limit: int | None, offset: int
    ) -> Sequence[Record]:
        found = await super()._read(key, prefix, limit, offset)
        return [replace(one, expiry=self._shelf._records[one.key][0].expiry) for one in found]


@mutant("test_a_write_has_its_own_expiry")
class KeepsTheExpiry(MemoryStore):
    """A record that is written again keeps the expiry it had first."""

    async def _write(self, record: Record) -> None:
        before = self._shelf.get(record.key, now())
        expiry = record.expiry if before is None else before.expiry
        await super()._write(replace(record, expiry=expiry))


@mutant("test_an_expiry_that_means_nothing_is_refused")
class TakesAnyExpiry(MemoryStore):
    """An expiry of 0 is one for ever."""

    def _checked(self, record: Record) -> Record:
        return super()._checked(replace(record, expiry=record.expiry or None))


@mutant("test_a_record_is_gone_after_its_expiry")
class IgnoresExpiry(MemoryStore):
    """A store that declares no expiry takes one and keeps the record for ever."""

    features = StoreFeatures(expiry=False)

    def _checked(self, record: Record) -> Record:
        return super()._checked(replace(record, expiry=None))


# -- how it stands -----------------------------------------------------------------------------


@mutant("test_it_can_be_opened_again")
class ForgetsAtClose(MemoryStore):
    """What was written is gone when a client closes."""

    async def _close(self) -> None:
        self._shelf._records.clear()


@mutant("test_records_outlive_the_program")
class ClaimsToSurvive(MemoryStore):
    """A store that says its records outlive the program, and loses them."""

    features = StoreFeatures(survives_restart=True)


@mutant("test_health_tells_the_truth", "test_constructing_does_nothing")
class AlwaysHealthy(MemoryStore):
    """Health says connected, whatever is the case."""

    def health(self) -> Health:
        return replace(super().health(), state="connected")


@mutant("test_use_after_close_is_a_clear_error")
class WorksClosed(MemoryStore):
    """A store works without being connected."""

    def _check_home(self) -> None:
        return None


@mutant("test_it_belongs_to_its_loop")
class ForeignLoops(MemoryStore):
    """Use from another event loop is not noticed."""

    def _check_home(self) -> None:
        if self._home is None:
            raise BackendUnavailable("not connected")


@mutant("test_connect_and_close_are_idempotent")
class ClosesAtOnce(MemoryStore):
    """Closing what is closed is an error."""

    async def close(self) -> None:
        self._check_home()
        await super().close()


@mutant("test_many_clients_side_by_side")
class TenClients(Shared):
    """The eleventh client is refused."""

    async def _connect(self) -> None:
        await super()._connect()
        if self.shared("clients", 0) >= 10:
            raise BackendUnavailable("too many clients")
        self._shelf.__dict__["clients"] += 1

    async def _close(self) -> None:
        self._shelf.__dict__["clients"] -= 1
