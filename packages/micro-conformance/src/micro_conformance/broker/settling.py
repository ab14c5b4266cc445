"""What becomes of a message that a handler has, does not want, or dies with."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from micro_core import BackendError, Broker, Event

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Failing, Sink, Stuck, numbered


class Settling(Suite[Broker]):
    @promise(ability="queue", guarantee="at_least_once")
    async def test_nack_brings_it_back(self, lab: BrokerLab) -> None:
        """A message that was nacked is delivered again, as it was."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic, queue="q", auto_ack=False)
        await lab.publish(broker, topic, [b"x"])
        for times in (1, 2, 3):
            await lab.eventually(
                lambda times=times: len(sink.events) == times,  # type: ignore[misc]
                f"delivered {times} times",
            )
            event = sink.events[-1]
            assert event.message == sink.events[0].message
            await (event.nack() if times < 3 else event.ack())
            assert event.settled
        await lab.gets_no_more(sink, [b"x"] * 3)

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_handler_that_raises_gets_it_again(self, lab: BrokerLab) -> None:
        """A message whose handler raised is delivered again until one does not."""
        broker = await lab.new()
        for error in (ValueError, asyncio.CancelledError):
            topic = lab.topic()
            sink = await lab.give(broker, topic, Failing(3, error), queue="q")
            await lab.publish(broker, topic, [b"x"])
            await lab.gets_no_more(sink, [b"x"] * 4)
            assert (sink.subscription.failed, sink.subscription.handled) == (3, 1)

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_poisonous_message_does_not_hold_up_others(self, lab: BrokerLab) -> None:
        """While one message fails again and again, the others of its queue are handled."""
        broker, topic = await lab.new(), lab.topic()
        handled: list[bytes] = []

        async def handle(event: Event) -> None:
            if event.message.body == b"poison":
                raise ValueError("as the test wants it")
            handled.append(event.message.body)

        await broker.subscribe(topic, handle, queue="q")
        await lab.publish(broker, topic, [b"poison", *numbered(20)])
        await lab.eventually(lambda: sorted(handled) == numbered(20), "the others are handled")

    @promise(ability="queue")
    async def test_an_acked_message_does_not_come_back(self, lab: BrokerLab) -> None:
        """What a consumer has handled is delivered neither to it again nor to the next one."""
        publisher, topic = await lab.new(), lab.topic()
        async with lab.make() as first:
            sink = await lab.listen(first, topic, queue="q")
            await lab.publish(publisher, topic, numbered(20))
            await lab.gets_no_more(sink, numbered(20))
        second = await lab.listen(await lab.new(), topic, queue="q")
        await lab.publish(publisher, topic, [b"new"])
        await lab.gets_no_more(second, [b"new"])

    @promise(ability="queue")
    async def test_settling_twice_is_harmless(self, lab: BrokerLab) -> None:
        """After the first ack or nack of an event another one does nothing."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic, queue="q", auto_ack=False)
        await lab.publish(broker, topic, numbered(10))
        await lab.gets(sink, numbered(10))
        for event in list(sink.events):
            await event.ack()
            assert event.settled
            await event.ack()
            await event.nack()
        await lab.publish(broker, topic, [b"next"])
        await lab.gets_no_more(sink, [*numbered(10), b"next"])
        await asyncio.gather(*[sink.events[-1].ack() for _ in range(3)])

    @promise(ability="queue")
    async def test_a_handler_may_settle_it_itself(self, lab: BrokerLab) -> None:
        """A handler that acks its event and then raises, or returns, does not get it again."""
        broker, topic = await lab.new(), lab.topic()

        class Acks(Sink):
            async def __call__(self, event: Event) -> None:
                self.events.append(event)
                await event.ack()
                if event.message.body == b"raises":
                    raise ValueError("as the test wants it")

        for auto_ack in (True, False):
            topic = lab.topic()
            sink = await lab.give(broker, topic, Acks(), queue="q", auto_ack=auto_ack)
            await lab.publish(broker, topic, [b"raises", b"returns"])
            await lab.gets_no_more(sink, [b"raises", b"returns"])

    @promise(ability="queue")
    async def test_an_event_can_be_settled_later(self, lab: BrokerLab) -> None:
        """Without auto_ack an event may be settled in any order, long after its handler's end."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic, queue="q", auto_ack=False, prefetch=4)
        await lab.publish(broker, topic, numbered(4))
        await lab.gets(sink, numbered(4))
        await lab.quiet()
        for event in reversed(list(sink.events)):
            assert not event.settled
            await event.ack()
        await lab.publish(broker, topic, [b"next"])
        await lab.gets_no_more(sink, [*numbered(4), b"next"])

    @promise(ability="queue", guarantee="at_least_once")
    async def test_what_was_not_acked_goes_to_another(self, lab: BrokerLab) -> None:
        """What a consumer had and had not acked when its client closed, another one gets."""
        broker, topic = await lab.new(), lab.topic()
        async with lab.make() as first:
            sink = await lab.listen(first, topic, queue="q", auto_ack=False)
            await lab.publish(broker, topic, numbered(10))
            await lab.gets(sink, numbered(10))
            for event in sink.events[::2]:
                await event.ack()
        second = await lab.listen(broker, topic, queue="q")
        await lab.gets_no_more(second, numbered(10)[1::2])

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_message_is_not_acked_before_its_handler_ends(self, lab: BrokerLab) -> None:
        """A message whose handler is running when its client closes goes to another consumer."""
        broker, topic, stuck = await lab.new(), lab.topic(), Stuck()
        async with lab.make() as first:
            await lab.give(first, topic, stuck, queue="q", concurrency=3)
            await lab.publish(broker, topic, numbered(3))
            await lab.gets(stuck, numbered(3))
        second = await lab.listen(broker, topic, queue="q")
        await lab.gets_no_more(second, numbered(3))
        assert stuck.done == []

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_cancelled_handler_loses_nothing(self, lab: BrokerLab) -> None:
        """A handler cut off by unsubscribe has not acked: its message goes to another consumer."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck(), queue="q")
        await lab.publish(broker, topic, numbered(5))
        await lab.eventually(lambda: stuck.events, "a handler runs")
        await stuck.subscription.unsubscribe(grace=0)
        second = await lab.listen(broker, topic, queue="q")
        await lab.gets_no_more(second, numbered(5))
        assert stuck.done == []

    @promise()
    async def test_unsubscribe_lets_handlers_end(self, lab: BrokerLab) -> None:
        """A handler that runs when its subscription is ended has its grace to end."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck())
        await lab.publish(broker, topic, [b"x"])
        await lab.eventually(lambda: stuck.events, "the handler runs")
        async with asyncio.TaskGroup() as both:
            leaving = both.create_task(stuck.subscription.unsubscribe(grace=self.patience))
            await lab.quiet()
            assert not leaving.done()
            stuck.gate.set()
        assert stuck.done == [b"x"]

    @promise()
    async def test_drain_waits_for_what_runs(self, lab: BrokerLab) -> None:
        """A drain returns when the handlers that run have ended, and their messages are acked."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck(), concurrency=3, queue=lab.queue)
        await lab.publish(broker, topic, numbered(3))
        await lab.gets(stuck, numbered(3))
        async with asyncio.TaskGroup() as both:
            draining = both.create_task(stuck.subscription.drain(self.patience))
            await lab.quiet()
            assert not draining.done(), "handlers still run"
            stuck.gate.set()
        assert sorted(stuck.done) == numbered(3)
        other = await lab.listen(broker, topic, queue=lab.queue)
        await lab.publish(broker, topic, [b"new"])
        await lab.gets_no_more(other, [b"new"])

    @promise()
    async def test_drain_waits_for_acks_that_are_owed(self, lab: BrokerLab) -> None:
        """A drain waits for events that somebody holds, and returns once they are settled."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic, auto_ack=False)
        await lab.publish(broker, topic, [b"x"])
        await lab.gets(sink, [b"x"])
        async with asyncio.TaskGroup() as both:
            draining = both.create_task(sink.subscription.drain(self.patience))
            await lab.quiet()
            assert not draining.done(), "an ack is owed"
            await sink.events[0].ack()

    @promise()
    async def test_drain_is_bounded(self, lab: BrokerLab) -> None:
        """A drain ends in its time and 3 s though a handler never does."""
        broker, topic = await lab.new(), lab.topic()
        stuck = await lab.give(broker, topic, Stuck())
        await lab.publish(broker, topic, [b"x"])
        await lab.eventually(lambda: stuck.events, "the handler runs")
        async with lab.within(3.5, "a drain of 0.5 s"):
            await stuck.subscription.drain(0.5)
        assert stuck.done == []

    @promise()
    async def test_settling_after_close_is_bounded(self, lab: BrokerLab) -> None:
        """To ack or nack an event of a closed broker does nothing, or is a typed error."""
        topic = lab.topic()
        async with lab.make() as broker:
            sink = await lab.listen(broker, topic, auto_ack=False, queue=lab.queue)
            await lab.publish(broker, topic, numbered(2))
            await lab.gets(sink, numbered(2))
        async with lab.within(6, "settling after close"):
            for settle in (sink.events[0].ack, sink.events[1].nack):
                with suppress(BackendError):
                    await settle()
