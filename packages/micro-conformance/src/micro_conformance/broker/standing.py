"""How a broker stands and falls as a component."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from micro_core import BackendError, BackendUnavailable, Broker, WrongLoop

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Stuck, numbered, raises
from .ledger import Ledger


class Standing(Suite[Broker]):
    @promise()
    async def test_constructing_does_nothing(self, lab: BrokerLab) -> None:
        """A constructor opens nothing and starts nothing; unconnected use is a clear error."""
        broker = lab.make()
        assert broker.health().state == "closed"
        with raises(BackendUnavailable) as caught:
            await lab.publish(broker, lab.topic(), [b"x"])
        assert "not connected" in str(caught[0])
        with raises(BackendUnavailable):
            await lab.listen(broker, lab.topic())

    @promise()
    async def test_connect_and_close_are_idempotent(self, lab: BrokerLab) -> None:
        """Connecting twice and closing twice is like once."""
        broker, topic = lab.make(), lab.topic()
        await broker.connect()
        await broker.connect()
        sink = await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"x"])
        await lab.gets(sink, [b"x"])
        await broker.close()
        await broker.close()

    @promise()
    async def test_it_can_be_opened_again(self, lab: BrokerLab) -> None:
        """A broker that was closed can be connected again."""
        broker = lab.make()
        for _ in range(3):
            async with broker:
                topic = lab.topic()
                sink = await lab.listen(broker, topic)
                await lab.publish(broker, topic, [b"x"])
                await lab.gets(sink, [b"x"])

    @promise()
    async def test_use_after_close_is_a_clear_error(self, lab: BrokerLab) -> None:
        """A closed broker refuses to publish and to subscribe with BackendUnavailable."""
        async with lab.make() as broker:
            await lab.publish(broker, lab.topic(), [b"x"])
        with raises(BackendUnavailable):
            await lab.publish(broker, lab.topic(), [b"x"])
        with raises(BackendUnavailable):
            await lab.listen(broker, lab.topic())

    @promise(real=True)
    async def test_it_belongs_to_its_loop(self, lab: BrokerLab) -> None:
        """Use from another event loop is refused with WrongLoop."""
        broker, topic = await lab.new(), lab.topic()

        async def use() -> None:
            with raises(WrongLoop):
                await lab.publish(broker, topic, [b"x"])
            with raises(WrongLoop):
                await lab.listen(broker, topic)

        await asyncio.to_thread(lambda: asyncio.run(use()))

    @promise()
    async def test_health_tells_the_truth(self, lab: BrokerLab) -> None:
        """Health is connected while it works and closed after close."""
        broker, topic = lab.make(), lab.topic()
        async with broker:
            sink = await lab.listen(broker, topic)
            await lab.publish(broker, topic, [b"x"])
            await lab.gets(sink, [b"x"])
            assert broker.health().state == "connected"
            assert broker.health().last_ok is not None
            assert sink.subscription.open
        assert broker.health().state == "closed"
        assert not sink.subscription.open

    @promise()
    async def test_a_refusal_is_no_loss_of_health(self, lab: BrokerLab) -> None:
        """A call that is refused for the caller's own fault leaves the broker connected."""
        broker = await lab.new()
        await lab.publish(broker, lab.topic(), [b"x"])
        with raises(Exception):
            await lab.publish(broker, "", [b"x"])
        assert broker.health().state == "connected"

    @promise()
    async def test_a_cancelled_publish_harms_no_other(self, lab: BrokerLab) -> None:
        """After publishes that were cancelled at any point, the next ones arrive whole."""
        broker, topic, other = await lab.new(), lab.topic(), lab.topic()
        sink = await lab.listen(broker, topic)
        await lab.listen(broker, other)
        for turns, body in enumerate(numbered(50)):
            publishing = asyncio.create_task(lab.publish(broker, other, [b"cancelled" * 1000]))
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await lab.publish(broker, topic, [body])
        await lab.gets_no_more(sink, numbered(50))

    @promise()
    async def test_a_cancelled_subscribe_harms_no_other(self, lab: BrokerLab) -> None:
        """After subscribes that were cancelled at any point, others get every message once."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        for turns in range(30):
            subscribing = asyncio.create_task(lab.listen(broker, lab.topic()))
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            subscribing.cancel()
            await asyncio.gather(subscribing, return_exceptions=True)
        await lab.publish(broker, topic, numbered(10))
        await lab.gets_no_more(sink, numbered(10))

    @promise()
    async def test_what_was_published_before_close_arrives(self, lab: BrokerLab) -> None:
        """What a client had confirmed before it was closed arrives, all of it."""
        topic, ledger = lab.topic(), Ledger()
        sink = await lab.listen(await lab.new(), topic)

        async def publish(broker: Broker, batch: list[bytes]) -> None:
            for body in batch:
                await ledger.publish(broker, topic, body)

        async with lab.make() as broker:
            batches = [numbered(20, f"{n:02}-") for n in range(10)]
            await asyncio.gather(*[publish(broker, batch) for batch in batches])
        assert len(ledger.ok) == 200
        await lab.gets(sink, ledger.ok)

    @promise()
    async def test_closing_while_publishing(self, lab: BrokerLab) -> None:
        """Publishes that a close overtakes end in time, with success or a typed error."""
        broker, topic, ledger = lab.make(), lab.topic(), Ledger()
        sink = await lab.listen(await lab.new(), topic)
        await broker.connect()

        begun = asyncio.Event()

        async def publish(name: bytes) -> None:
            for number in itertools.count():
                if await ledger.publish(broker, topic, b"%s %d" % (name, number)) != "ok":
                    return
                begun.set()
                await asyncio.sleep(0)

        publishing = asyncio.gather(*[publish(name) for name in (b"a", b"b", b"c")])
        async with lab.within(lab.suite.patience, "the first publish"):
            await begun.wait()
        async with lab.within(broker.close_timeout + 1, "close"):
            await broker.close()
        async with lab.within(broker.publish_timeout + 1, "the publishes"):
            await publishing
        lab.figure("confirmed before the close", len(ledger.ok))
        await lab.eventually(lambda: not ledger.lost(sink.bodies), "what was confirmed arrives")

    @promise()
    async def test_closing_while_handling(self, lab: BrokerLab) -> None:
        """Closing cancels handlers that do not end, within 6 s, and runs no other after that."""
        broker, topic = lab.make(), lab.topic()
        other = await lab.new()
        await broker.connect()
        stuck = await lab.give(broker, topic, Stuck(), concurrency=2, queue=lab.queue)
        await lab.publish(other, topic, numbered(5))
        await lab.eventually(lambda: len(stuck.events) == 2, "two handlers run")
        async with lab.within(broker.close_timeout + 1, "close"):
            await broker.close()
        stuck.gate.set()
        before = len(stuck.events)
        await lab.attempt(other, topic)
        await lab.quiet()
        assert len(stuck.events) == before
        assert stuck.done == []

    @promise()
    async def test_closing_at_once(self, lab: BrokerLab) -> None:
        """Closing a broker several times at the same time is like once."""
        broker, topic = lab.make(), lab.topic()
        await broker.connect()
        for _ in range(3):
            await lab.listen(broker, topic)
        async with lab.within(broker.close_timeout + 1, "close"):
            await asyncio.gather(*[broker.close() for _ in range(5)])
        assert broker.health().state == "closed"

    @promise()
    async def test_subscribers_leaving_at_once(self, lab: BrokerLab) -> None:
        """After ten subscriptions and clients have left at the same time, others get all."""
        staying, topic = await lab.new(), lab.topic()
        sink = await lab.listen(staying, topic)
        leaving = [lab.make() for _ in range(5)]
        await asyncio.gather(*[broker.connect() for broker in leaving])
        gone = [await lab.listen(broker, topic) for broker in [*leaving, *leaving]]
        async with lab.within(10, "unsubscribing and closing"):
            await asyncio.gather(*[one.subscription.unsubscribe() for one in gone])
            await asyncio.gather(*[broker.close() for broker in leaving])
        await lab.publish(staying, topic, numbered(50))
        await lab.gets_no_more(sink, numbered(50))
        assert not any(one.events for one in gone)

    @promise()
    async def test_closing_ends_its_subscriptions(self, lab: BrokerLab) -> None:
        """Once close has returned no handler is run, and other clients are not disturbed."""
        staying, topic = await lab.new(), lab.topic()
        other = await lab.listen(staying, topic)
        async with lab.make() as broker:
            sink = await lab.listen(broker, topic)
            await lab.publish(staying, topic, [b"1"])
            await lab.gets(sink, [b"1"])
        await lab.publish(staying, topic, [b"2"])
        await lab.gets_no_more(other, [b"1", b"2"])
        assert sink.bodies == [b"1"]

    @promise()
    async def test_many_clients_side_by_side(self, lab: BrokerLab) -> None:
        """Twenty clients connect, work and close side by side."""

        async def work() -> None:
            async with lab.make() as broker:
                topic = lab.topic()
                sink = await lab.listen(broker, topic)
                await lab.publish(broker, topic, numbered(5))
                await lab.gets(sink, numbered(5))

        await asyncio.gather(*[work() for _ in range(20)])

    @promise()
    async def test_an_unreachable_server_is_a_typed_error(self, lab: BrokerLab) -> None:
        """Connecting to a port that nobody listens on is a BackendError within 6 s."""
        if not self.server:
            pytest.skip("needs no server")
        broker = self.make("127.0.0.1:1")
        async with lab.within(broker.connect_timeout + 1, "connecting"):
            with raises(BackendError) as caught:
                await broker.connect()
        assert isinstance(caught[0], BackendError)
        assert caught[0].plugin == broker.name
        assert broker.health().state == "closed"
