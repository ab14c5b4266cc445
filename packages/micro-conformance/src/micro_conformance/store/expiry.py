"""How long a record lasts."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import Record, Store

from ..promise import promise
from ..suite import Suite
from .lab import StoreLab


class Expiry(Suite[Store]):
    """expiry: the shortest that the store grants, in seconds."""

    expiry: float = 1.0

    @promise(ability="expiry")
    async def test_a_record_is_gone_after_its_expiry(self, lab: StoreLab) -> None:
        """A record past its expiry is neither read nor listed, by itself, within a second."""
        store = await lab.new()
        await store.write(Record(lab.key("goes"), b"", expiry=self.expiry))
        await store.write(lab.record("stays"))
        begin = asyncio.get_running_loop().time()

        async def gone() -> bool:
            return await lab.keys(store) == [lab.key("stays")]

        await lab.eventually(gone, "it has expired", within=self.expiry + self.patience)
        seconds = asyncio.get_running_loop().time() - begin
        lab.figure("seconds to expire beyond the expiry", round(seconds - self.expiry, 2))
        assert seconds <= self.expiry + 1
        assert await store.read(lab.key("goes")) == []
        assert len(await store.read(lab.prefix, prefix=True)) == 1

    @promise(ability="expiry")
    async def test_a_record_lives_until_its_expiry(self, lab: StoreLab) -> None:
        """A record is there all the time until it expires."""
        store = await lab.new()
        begin = asyncio.get_running_loop().time()
        await store.write(Record(lab.key(), b"", expiry=self.expiry))
        while asyncio.get_running_loop().time() - begin < self.expiry * 0.8:
            assert len(await store.read(lab.key())) == 1
            await asyncio.sleep(self.expiry / 20)

    @promise(ability="expiry")
    async def test_a_record_says_what_is_left(self, lab: StoreLab) -> None:
        """A record that is read says how many seconds it still has, or None for ever."""
        store = await lab.new()
        await store.write(Record(lab.key("later"), b"", expiry=60))
        await store.write(lab.record("never"))
        await asyncio.sleep(2.0)  # stores that count whole seconds may be one off
        later, never = await store.read(lab.prefix, prefix=True)
        assert later.expiry is not None
        assert 50 < later.expiry <= 59
        assert never.expiry is None
        [later] = await store.read(lab.key("later"))
        assert later.expiry is not None

    @promise(ability="expiry")
    async def test_a_write_has_its_own_expiry(self, lab: StoreLab) -> None:
        """A record written again lasts as long as the new write says, or for ever."""
        store = await lab.new()
        for text, expiry in (("longer", 60.0), ("ever", None)):
            await store.write(Record(lab.key(text), b"", expiry=self.expiry))
            await store.write(Record(lab.key(text), b"", expiry=expiry))
        await asyncio.sleep(self.expiry + 1)
        assert await lab.keys(store) == [lab.key("ever"), lab.key("longer")]

    @promise(ability="expiry")
    async def test_the_expired_are_in_no_page(self, lab: StoreLab) -> None:
        """Limit and offset count what has not expired."""
        store = await lab.new()
        await store.write(Record(lab.key("1"), b"", expiry=self.expiry))
        keys = await lab.fill(store, "2", "3")
        await asyncio.sleep(self.expiry + 1)
        assert await store.list(prefix=lab.prefix, limit=1) == keys[:1]
        assert await store.list(prefix=lab.prefix, limit=1, offset=1) == keys[1:]

    @promise(ability="expiry")
    async def test_an_expiry_that_means_nothing_is_refused(self, lab: StoreLab) -> None:
        """An expiry that is not a number of seconds above 0 is a ValueError."""
        store = await lab.new()
        for expiry in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="expiry"):
                await store.write(Record(lab.key(), b"", expiry=expiry))
        assert await lab.keys(store) == []
