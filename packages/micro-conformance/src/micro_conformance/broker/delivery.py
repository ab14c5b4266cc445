"""Who gets what: live subscriptions, from when and until when."""

from __future__ import annotations

import asyncio

from micro_core import Broker, Event, Message

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Failing, Sink, Stuck, numbered


class Delivery(Suite[Broker]):
    @promise()
    async def test_without_a_queue_everybody_gets_everything(self, lab: BrokerLab) -> None:
        """Every subscription without a queue gets every message, in one client or in several."""
        one, two, topic = await lab.new(), await lab.new(), lab.topic()
        sinks = [await lab.listen(broker, topic) for broker in (one, one, two, two)]
        await lab.publish(two, topic, numbered(20))
        for sink in sinks:
            await lab.gets_no_more(sink, numbered(20))

    @promise()
    async def test_nobody_need_listen(self, lab: BrokerLab) -> None:
        """Publishing to a topic that nobody listens to is no error, or a typed one, and no wait."""
        broker = await lab.new()
        async with lab.within(broker.publish_timeout + 1, "publishing to nobody"):
            await lab.attempt(broker, lab.topic())

    @promise()
    async def test_a_subscription_is_effective_at_once(self, lab: BrokerLab) -> None:
        """What is published right after subscribe has returned is delivered."""
        publisher, subscriber = await lab.new(), await lab.new()
        for _ in range(20):
            topic = lab.topic()
            sink = await lab.listen(subscriber, topic)
            await lab.publish(publisher, topic, [b"x"])
            await lab.gets(sink, [b"x"])
            await sink.subscription.unsubscribe()

    @promise()
    async def test_a_live_subscription_begins_now(self, lab: BrokerLab) -> None:
        """A subscription without a queue gets nothing that was published before it."""
        broker, topic = await lab.new(), lab.topic()
        other = await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"before"])
        await lab.gets(other, [b"before"])
        sink = await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"after"])
        await lab.gets_no_more(sink, [b"after"])

    @promise()
    async def test_a_live_subscription_is_owed_nothing(self, lab: BrokerLab) -> None:
        """What was published while nobody was subscribed does not come to who subscribes again."""
        broker, topic = await lab.new(), lab.topic()
        first = await lab.listen(broker, topic)
        await first.subscription.unsubscribe()
        await lab.publish(broker, topic, [b"between"])
        second = await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"after"])
        await lab.gets_no_more(second, [b"after"])
        assert first.bodies == []

    @promise()
    async def test_unsubscribe_ends_it(self, lab: BrokerLab) -> None:
        """Once unsubscribe has returned its handler is not run again; others get theirs."""
        broker, topic = await lab.new(), lab.topic()
        leaving, staying = await lab.listen(broker, topic), await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"1"])
        await lab.gets([leaving, staying], [b"1"] * 2)
        await leaving.subscription.unsubscribe()
        await lab.publish(broker, topic, [b"2"])
        await lab.gets_no_more(staying, [b"1", b"2"])
        assert leaving.bodies == [b"1"]
        assert not leaving.subscription.open

    @promise()
    async def test_unsubscribing_again_is_harmless(self, lab: BrokerLab) -> None:
        """Unsubscribing twice, at once or after the broker's close, is like once."""
        broker, topic = lab.make(), lab.topic()
        async with broker:
            subscription = (await lab.listen(broker, topic)).subscription
            await asyncio.gather(*[subscription.unsubscribe() for _ in range(3)])
            await subscription.unsubscribe()
        await subscription.unsubscribe()
        await subscription.drain(1)

    @promise()
    async def test_a_handler_can_end_its_own_subscription(self, lab: BrokerLab) -> None:
        """A handler that unsubscribes itself is run to its end, and not again."""
        broker, topic = await lab.new(), lab.topic()
        ended: list[bytes] = []

        class Once(Sink):
            async def __call__(self, event: Event) -> None:
                self.events.append(event)
                await self.subscription.unsubscribe()
                await asyncio.sleep(0)
                ended.append(event.message.body)

        sink = await lab.give(broker, topic, Once())
        await lab.publish(broker, topic, [b"1"])
        await lab.eventually(lambda: ended == [b"1"], "the handler has ended")
        await lab.eventually(lambda: not sink.subscription.open, "the subscription has ended")
        await lab.quiet()
        await lab.publish(broker, topic, [b"2"])
        await lab.gets_no_more(sink, [b"1"])

    @promise()
    async def test_an_error_does_not_end_a_subscription(self, lab: BrokerLab) -> None:
        """Whatever a handler raises, the messages after it are delivered."""
        broker = await lab.new()
        for error in (ValueError, TimeoutError, asyncio.CancelledError, StopAsyncIteration):
            topic = lab.topic()
            sink = await lab.give(broker, topic, Failing(3, error))
            await lab.publish(broker, topic, numbered(10))
            await lab.eventually(
                lambda sink=sink: set(numbered(10)) <= set(sink.bodies),  # type: ignore[misc]
                f"all 10 are delivered, though {error.__name__} was raised",
            )

    @promise()
    async def test_a_slow_subscriber_does_not_stop_another(self, lab: BrokerLab) -> None:
        """While one subscriber stands still another one of the topic gets every message."""
        broker, topic = await lab.new(), lab.topic()
        stuck, sink = await lab.give(broker, topic, Stuck()), await lab.listen(broker, topic)
        await lab.publish(broker, topic, numbered(50))
        await lab.gets(sink, numbered(50))
        stuck.gate.set()
        await lab.gets(stuck, numbered(50))

    @promise()
    async def test_a_handler_can_publish(self, lab: BrokerLab) -> None:
        """A handler may publish, also to its own topic."""
        broker, topic, other = await lab.new(), lab.topic(), lab.topic()

        class Chain(Sink):
            async def __call__(self, event: Event) -> None:
                self.events.append(event)
                left = int(event.message.body)
                await broker.publish(topic if left else other, Message({}, b"%d" % (left - 1)))

        chain, end = await lab.give(broker, topic, Chain()), await lab.listen(broker, other)
        await lab.publish(broker, topic, [b"5"])
        await lab.gets(end, [b"-1"])
        assert chain.bodies == [b"5", b"4", b"3", b"2", b"1", b"0"]

    @promise()
    async def test_many_topics(self, lab: BrokerLab) -> None:
        """A client subscribes to a hundred topics and gets the messages of each."""
        broker = await lab.new()
        topics = [lab.topic() for _ in range(100)]
        sinks = [await lab.listen(broker, topic) for topic in topics]
        await asyncio.gather(*[lab.publish(broker, topic, [topic.encode()]) for topic in topics])
        for topic, sink in zip(topics, sinks, strict=True):
            await lab.gets(sink, [topic.encode()])

    @promise()
    async def test_many_subscribers(self, lab: BrokerLab) -> None:
        """Fifty subscriptions to one topic each get every message."""
        one, two, topic = await lab.new(), await lab.new(), lab.topic()
        sinks = [await lab.listen(one if n % 2 else two, topic) for n in range(50)]
        await lab.publish(one, topic, numbered(20))
        for sink in sinks:
            await lab.gets(sink, numbered(20))

    @promise()
    async def test_many_publishers(self, lab: BrokerLab) -> None:
        """What twenty publishers of several clients send at the same time all arrives, once."""
        clients, topic = [await lab.new() for _ in range(4)], lab.topic()
        sink = await lab.listen(clients[0], topic)
        batches = [numbered(25, f"{n:02}-") for n in range(20)]
        await asyncio.gather(
            *[lab.publish(clients[n % 4], topic, batch) for n, batch in enumerate(batches)]
        )
        await lab.gets_no_more(sink, [body for batch in batches for body in batch])

    @promise()
    async def test_subscriptions_come_and_go(self, lab: BrokerLab) -> None:
        """A hundred subscriptions opened and closed leave nothing behind."""
        broker, topic = await lab.new(), lab.topic()
        for _ in range(100):
            sink = await lab.listen(broker, topic)
            await sink.subscription.unsubscribe()
