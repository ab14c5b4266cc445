"""What is written is what is read."""

from __future__ import annotations

import asyncio
import random

import pytest

from micro_core import InvalidName, Record, Store

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import StoreLab


class Records(Suite[Store]):
    @promise()
    async def test_a_record_comes_back_whole(self, lab: StoreLab) -> None:
        """A record comes back with its key, every byte of its value, and its metadata."""
        store = await lab.new()
        record = lab.record(value=bytes(range(256)), owner="someone", empty="")
        await store.write(record)
        assert await store.read(record.key) == [record]

    @promise()
    async def test_an_unknown_key_is_an_empty_list(self, lab: StoreLab) -> None:
        """Reading a key that nobody wrote gives an empty list, not an error."""
        store = await lab.new()
        assert await store.read(lab.key()) == []
        assert await store.read(lab.key(), prefix=True) == []
        assert await lab.keys(store) == []

    @promise()
    async def test_the_last_write_replaces_all(self, lab: StoreLab) -> None:
        """A record written again has the new value and metadata, and nothing of the old ones."""
        store = await lab.new()
        await store.write(lab.record(value=b"old", old="1", both="1"))
        await store.write(lab.record(value=b"", both="2"))
        assert await store.read(lab.key()) == [lab.record(value=b"", both="2")]
        assert await lab.keys(store) == [lab.key()]

    @promise()
    async def test_a_deleted_record_is_gone(self, lab: StoreLab) -> None:
        """A record is gone for everybody as soon as delete has returned, and others stay."""
        store, other = await lab.new(), await lab.new()
        await lab.fill(store, "goes", "goes-not")
        await store.delete(lab.key("goes"))
        for one in (store, other):
            assert await one.read(lab.key("goes")) == []
            assert await lab.keys(one) == [lab.key("goes-not")]

    @promise()
    async def test_deleting_an_unknown_key_is_harmless(self, lab: StoreLab) -> None:
        """Deleting what is not there raises nothing."""
        store = await lab.new()
        await store.delete(lab.key())
        await store.write(lab.record())
        await store.delete(lab.key())
        await store.delete(lab.key())

    @promise()
    async def test_another_client_sees_it(self, lab: StoreLab) -> None:
        """What one client has written, another one reads as soon as write has returned."""
        writer, reader = await lab.new(), await lab.new()
        for value in (b"1", b"2"):
            await writer.write(lab.record(value=value))
            assert await reader.read(lab.key()) == [lab.record(value=value)]

    @promise()
    async def test_a_key_is_no_prefix(self, lab: StoreLab) -> None:
        """Reading a key finds no other that begins with it or differs in case."""
        store = await lab.new()
        await lab.fill(store, "a/b", "A")
        assert await store.read(lab.key("a")) == []
        assert await store.read(lab.key("a/B")) == []

    @promise()
    async def test_keys_are_sorted(self, lab: StoreLab) -> None:
        """Keys and records come in the order of the code points of their keys."""
        store = await lab.new()
        keys = await lab.fill(store, *random.sample(ODD, len(ODD)))
        assert await lab.keys(store) == sorted(keys)
        found = await store.read(lab.prefix, prefix=True)
        assert [record.key for record in found] == sorted(keys)

    @promise()
    async def test_a_prefix_is_no_pattern(self, lab: StoreLab) -> None:
        """Percent signs, stars and other letters of a prefix stand for themselves."""
        store = await lab.new()
        keys = sorted(await lab.fill(store, *ODD))
        for text in ("", "a", "a%", "a_", "A", "a*", "a[", "ä", "zz", "a ", "\U0001f600"):
            wanted = [key for key in keys if key.startswith(lab.key(text))]
            assert await lab.keys(store, text) == wanted
            found = await store.read(lab.key(text), prefix=True)
            assert [record.key for record in found] == wanted

    @promise()
    async def test_pages_of_keys_cover_everything_once(self, lab: StoreLab) -> None:
        """Pages of keys, one after the other, have each key once."""
        store = await lab.new()
        keys = await lab.fill(store, *[f"{number:02}" for number in range(23)])
        pages = [
            await store.list(prefix=lab.prefix, limit=5, offset=5 * number) for number in range(6)
        ]
        assert [len(page) for page in pages] == [5, 5, 5, 5, 3, 0]
        assert [key for page in pages for key in page] == keys
        assert await store.list(prefix=lab.prefix, limit=0) == []
        assert await store.list(prefix=lab.prefix, offset=20) == keys[20:]

    @promise()
    async def test_pages_of_records_cover_everything_once(self, lab: StoreLab) -> None:
        """Pages of records, one after the other, have each record once."""
        store = await lab.new()
        keys = await lab.fill(store, "a", "b", "c", "d", "e")
        pages = [
            await store.read(lab.prefix, prefix=True, limit=2, offset=2 * number)
            for number in range(4)
        ]
        assert [[record.key for record in page] for page in pages] == [
            keys[:2],
            keys[2:4],
            keys[4:],
            [],
        ]

    @promise()
    async def test_one_record_is_a_page_too(self, lab: StoreLab) -> None:
        """Limit and offset hold where one key is read."""
        store = await lab.new()
        await lab.fill(store, "a")
        assert len(await store.read(lab.key("a"), limit=1)) == 1
        assert await store.read(lab.key("a"), limit=0) == []
        assert await store.read(lab.key("a"), offset=1) == []

    @promise()
    async def test_a_negative_page_is_refused(self, lab: StoreLab) -> None:
        """A negative limit or offset is a ValueError."""
        store = await lab.new()
        for limit, offset in ((-1, 0), (None, -1)):
            with pytest.raises(ValueError, match="negative"):
                await store.list(limit=limit, offset=offset)
            with pytest.raises(ValueError, match="negative"):
                await store.read(lab.key(), limit=limit, offset=offset)

    @promise()
    async def test_impossible_keys_are_refused(self, lab: StoreLab) -> None:
        """A key that cannot be one is an InvalidName whatever is done with it."""
        store = await lab.new()
        for key in ("", " a", "a\n", "a\0", "\ud800", "k" * 256):
            for operation in (store.write(Record(key, b"")), store.delete(key), store.read(key)):
                with pytest.raises(InvalidName):
                    await operation
        for prefix in ("a\n", "a\0", "\ud800"):
            with pytest.raises(InvalidName):
                await store.list(prefix=prefix)

    @promise()
    async def test_long_keys_work(self, lab: StoreLab) -> None:
        """A key of 255 bytes is kept, in any alphabet, and differs from one that ends otherwise."""
        store = await lab.new()
        room = 255 - len(lab.key(""))
        texts = ["k" * room, "k" * (room - 1) + "l", "ä" * (room // 2)]
        keys = await lab.fill(store, *texts)
        assert await lab.keys(store) == sorted(keys)
        for key, text in zip(keys, texts, strict=True):
            assert [record.value for record in await store.read(key)] == [text.encode()]

    @promise()
    async def test_any_text_in_metadata_is_kept(self, lab: StoreLab) -> None:
        """Metadata keeps any text: quotes, lines, other alphabets, nothing."""
        metadata = {"quotes": "\"'`\\", "lines": "a\nb", "other": "grüße 你好 🙂", "none": ""}
        store = await lab.new()
        await store.write(Record(lab.key(), b"", metadata))
        [found] = await store.read(lab.key())
        assert dict(found.metadata) == metadata

    @promise()
    async def test_large_values_are_kept(self, lab: StoreLab) -> None:
        """A value of a mebibyte comes back as it was."""
        store = await lab.new()
        value = random.Random(1).randbytes(1 << 20)
        await store.write(lab.record(value=value))
        [found] = await store.read(lab.key())
        same(found.value, value, "the value")

    @promise()
    async def test_a_record_is_a_copy(self, lab: StoreLab) -> None:
        """What is written or read does not change with what the program does to it later."""
        store = await lab.new()
        value, metadata = bytearray(b"one"), {"a": "b"}
        await store.write(Record(lab.key(), value, metadata))  # type: ignore[arg-type]
        value[:] = b"two"
        metadata["a"] = "c"
        [found] = await store.read(lab.key())
        assert (found.value, dict(found.metadata)) == (b"one", {"a": "b"})
        found.metadata.update(a="d")  # type: ignore[attr-defined]
        [found] = await store.read(lab.key())
        assert dict(found.metadata) == {"a": "b"}

    @promise()
    async def test_a_value_that_is_not_bytes_is_refused(self, lab: StoreLab) -> None:
        """Text as a value is a TypeError, and nothing is written."""
        store = await lab.new()
        with pytest.raises(TypeError):
            await store.write(Record(lab.key(), "text"))  # type: ignore[arg-type]
        assert await store.read(lab.key()) == []

    @promise()
    async def test_many_at_once(self, lab: StoreLab) -> None:
        """Fifty records written at the same time by two clients are all there."""
        one, two = await lab.new(), await lab.new()
        texts = [f"{number:02}" for number in range(50)]
        await asyncio.gather(
            *[(one, two)[n % 2].write(lab.record(text)) for n, text in enumerate(texts)]
        )
        assert await lab.keys(one) == [lab.key(text) for text in texts]

    @promise()
    async def test_one_of_several_writers_wins(self, lab: StoreLab) -> None:
        """Of writes of one key at the same time one remains, whole."""
        clients = [await lab.new() for _ in range(5)]
        records = [lab.record(value=b"%d" % n * 1000, by=f"{n}") for n in range(5)]
        await asyncio.gather(
            *[client.write(record) for client, record in zip(clients, records, strict=True)]
        )
        [found] = await clients[0].read(lab.key())
        assert found in records

    @promise()
    async def test_it_is_a_sorted_dictionary(self, lab: StoreLab) -> None:
        """After a hundred writes and deletes in any order it has what a dictionary would have."""
        store, model, dice = await lab.new(), dict[str, bytes](), random.Random(7)
        for number in range(100):
            key = lab.key("".join(dice.choices("ab%_'", k=dice.randint(1, 2))))
            if dice.random() < 0.6:
                model[key] = b"%d" % number
                await store.write(Record(key, model[key]))
            else:
                model.pop(key, None)
                await store.delete(key)
        found = await store.read(lab.prefix, prefix=True)
        assert {record.key: record.value for record in found} == model


ODD = ["A%", "Z", "a", "a b", "a%", "a%b", "a*", "a/b", "a[b]", "a_", "a_b", "ab", "ä", "€", "🙂"]
