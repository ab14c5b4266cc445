"""In which order, how many at a time, and how far ahead."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import ClassVar

from micro_core import Broker, Event, Message

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Sink, Slow, Stuck, numbered
from .ledger import Ledger


class _Watched(Sink):
    """Takes a while, and knows how many of it run at once: at most, and by key."""

    def __init__(self) -> None:
        super().__init__()
        self.running: defaultdict[bytes | None, int] = defaultdict(int)
        self.most = 0
        self.most_of_a_key = 0
        self.by_key: defaultdict[bytes | None, list[bytes]] = defaultdict(list)
        self._random = random.Random(7)

    async def __call__(self, event: Event) -> None:
        self.running[event.key] += 1
        self.most = max(self.most, sum(self.running.values()))
        self.most_of_a_key = max(self.most_of_a_key, self.running[event.key])
        for _ in range(self._random.randrange(5)):
            await asyncio.sleep(0)
        self.running[event.key] -= 1
        self.by_key[event.key].append(event.message.body)
        self.events.append(event)


class Flow(Suite[Broker]):
    settle: ClassVar[float] = 0.3

    @promise(guarantee="ordered")
    async def test_one_publishers_messages_stay_in_order(self, lab: BrokerLab) -> None:
        """A subscription without a queue gets one publisher's messages in their order."""
        publisher, subscriber, topic = await lab.new(), await lab.new(), lab.topic()
        sink = await lab.give(subscriber, topic, Slow())
        await lab.publish(publisher, topic, numbered(200))
        await lab.gets(sink, numbered(200))
        assert sink.bodies == numbered(200)

    @promise(guarantee="ordered")
    async def test_order_outlasts_a_slow_handler(self, lab: BrokerLab) -> None:
        """Messages that had to wait for a slow handler are handled in their order."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck(), prefetch=10)
        await lab.publish(broker, topic, numbered(10))
        await lab.eventually(lambda: stuck.events, "the handler runs")
        stuck.gate.set()
        await lab.publish(broker, topic, numbered(20)[10:])
        await lab.gets(stuck, numbered(20))
        assert stuck.done == numbered(20)

    @promise(ability="key")
    async def test_messages_of_a_key_stay_in_order(self, lab: BrokerLab) -> None:
        """However many handlers run, messages of one key are handled one by one, in order."""
        await self._by_key(lab, queue=None)

    @promise(ability="key")
    async def test_messages_of_a_key_stay_in_order_in_a_queue(self, lab: BrokerLab) -> None:
        """However many handlers a queue's one consumer runs, messages of a key stay in order."""
        await self._by_key(lab, queue="q" if lab.features.queue else None)

    async def _by_key(self, lab: BrokerLab, queue: str | None) -> None:
        broker, topic = await lab.new(), lab.topic()
        watched = await lab.give(broker, topic, _Watched(), concurrency=8, queue=queue)
        keys = [f"key {number}".encode() for number in range(16)]
        for key in keys:
            for body in numbered(20):
                await broker.publish(topic, Message({}, body), key=key)
        await lab.gets(watched, numbered(20) * 16)
        assert watched.most_of_a_key == 1, "two messages of one key were handled at once"
        for key in keys:
            assert watched.by_key[key] == numbered(20)

    @promise()
    async def test_one_handler_runs_at_a_time(self, lab: BrokerLab) -> None:
        """Unless more are asked for, a subscription runs one handler at a time."""
        broker, topic = await lab.new(), lab.topic()
        watched = await lab.give(broker, topic, _Watched())
        await lab.publish(broker, topic, numbered(50))
        await lab.gets(watched, numbered(50))
        assert watched.most == 1

    @promise()
    async def test_concurrency_is_had_and_not_exceeded(self, lab: BrokerLab) -> None:
        """With a concurrency of four, four handlers run at once, and never a fifth."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck(), concurrency=4)
        await lab.publish(broker, topic, numbered(12))
        await lab.eventually(lambda: len(stuck.events) >= 4, "four handlers run")
        await lab.quiet()
        assert len(stuck.events) == 4
        stuck.gate.set()
        await lab.gets(stuck, numbered(12))

    @promise()
    async def test_prefetch_bounds_what_is_held(self, lab: BrokerLab) -> None:
        """No more events than the prefetch are delivered and not settled; an ack makes room."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic, auto_ack=False, prefetch=5)
        await lab.publish(broker, topic, numbered(8))
        await lab.gets_no_more(sink, numbered(5))
        await sink.events[0].ack()
        await lab.gets_no_more(sink, numbered(6))
        await sink.events[1].ack()
        await sink.events[2].nack()
        await lab.eventually(lambda: len(sink.events) >= 8, "an ack and a nack have made room")

    @promise(ability="queue", guarantee="at_least_once", timeout=120)
    async def test_a_slow_consumer_loses_nothing(self, lab: BrokerLab) -> None:
        """While a consumer stands still messages wait, or publishing fails: none is lost."""
        broker, topic, ledger = await lab.new(), lab.topic(), Ledger()
        stuck = await lab.give(broker, topic, Stuck(), queue="q", prefetch=10)
        for body in numbered(400):
            if await ledger.publish(broker, topic, body) != "ok":
                break
        assert len(stuck.events) <= 10, "the prefetch is 10"
        stuck.gate.set()
        await lab.eventually(lambda: not ledger.lost(stuck.done), "all of them are handled")
        lab.figures |= ledger.figures(stuck.done)

    @promise()
    async def test_a_slow_subscriber_ends_in_a_typed_error_or_none(self, lab: BrokerLab) -> None:
        """Publishing to a subscriber that stands still is always bounded, and errors are typed."""
        broker, topic, ledger = await lab.new(), lab.topic(), Ledger()
        stuck = await lab.give(broker, topic, Stuck(), prefetch=4)
        for body in numbered(30):
            async with lab.within(broker.publish_timeout + 1, "one publish"):
                if await ledger.publish(broker, topic, body) != "ok":
                    break
        lab.figure("messages taken for a subscriber that stands still", len(ledger.ok))
        assert len(stuck.events) <= 4
        stuck.gate.set()
        await lab.eventually(lambda: not ledger.lost(stuck.done), "what was taken is handled")
