"""Records to write, under keys that nobody else has."""

from __future__ import annotations

from micro_core import Record, Store

from ..lab import Lab


class StoreLab(Lab[Store]):
    def key(self, text: str = "key") -> str:
        return f"{self.prefix}:{text}"

    def record(self, text: str = "key", value: bytes = b"value", **metadata: str) -> Record:
        return Record(self.key(text), value, metadata)

    async def fill(self, store: Store, *texts: str) -> list[str]:
        """Write a record for each text, and return their keys."""
        for text in texts:
            await store.write(self.record(text, text.encode()))
        return [self.key(text) for text in texts]

    async def keys(self, store: Store, prefix: str = "") -> list[str]:
        """All keys of this test that begin with ``prefix``."""
        return await store.list(prefix=self.key(prefix))
