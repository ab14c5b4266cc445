"""What became of each message: said by its publisher, done by its consumers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from micro_core import BackendError, Broker, Message

Outcome = Literal["ok", "failed", "unknown"]


async def outcome_of(broker: Broker, topic: str, body: bytes) -> Outcome:
    """Publish once. failed: surely not sent; unknown: it may have been."""
    try:
        await broker.publish(topic, Message({}, body))
    except BackendError as error:
        return "failed" if error.happened == "no" else "unknown"
    return "ok"


@dataclass(slots=True)
class Ledger:
    """By outcome the bodies that were published, each in the order of its publisher."""

    ok: list[bytes] = field(default_factory=list[bytes])
    failed: list[bytes] = field(default_factory=list[bytes])
    unknown: list[bytes] = field(default_factory=list[bytes])

    def note(self, outcome: Outcome, body: bytes) -> None:
        getattr(self, outcome).append(body)

    async def publish(self, broker: Broker, topic: str, body: bytes) -> Outcome:
        outcome = await outcome_of(broker, topic, body)
        self.note(outcome, body)
        return outcome

    async def insist(self, broker: Broker, topic: str, body: bytes, *, pause: float) -> None:
        """Publish until it is confirmed, with a pause after what was not."""
        while await self.publish(broker, topic, body) != "ok":
            await asyncio.sleep(pause)

    def lost(self, handled: Sequence[bytes]) -> list[bytes]:
        """What was confirmed and not handled."""
        there = set(handled)
        return [body for body in dict.fromkeys(self.ok) if body not in there]

    def figures(self, handled: Sequence[bytes]) -> dict[str, int]:
        counts = Counter(handled)
        return {
            "published": len(set(self.ok)),
            "lost": len(self.lost(handled)),
            "doubled": counts.total() - len(counts),
            "out of order": _disorder(handled),
            "unknown outcomes": len(self.unknown),
            "failed outcomes": len(self.failed),
            "handled though failed": len(
                (set(self.failed) - set(self.ok) - set(self.unknown)) & set(handled)
            ),
        }


def _disorder(handled: Sequence[bytes]) -> int:
    """How often a number follows a greater one; the second handling of a number does not count."""
    first = list(dict.fromkeys(handled))
    return sum(before > after for before, after in pairwise(first))
