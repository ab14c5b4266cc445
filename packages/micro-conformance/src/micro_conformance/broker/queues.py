"""Who gets what: queues, whose consumers compete and whose messages wait."""

from __future__ import annotations

import asyncio

from micro_core import Broker

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Sink, Slow, numbered
from .ledger import Ledger


class Queues(Suite[Broker]):
    @promise(ability="queue")
    async def test_consumers_of_a_queue_compete(self, lab: BrokerLab) -> None:
        """Each message goes to one of a queue's consumers, though they are in several clients."""
        clients, topic = [await lab.new() for _ in range(3)], lab.topic()
        sinks = [await lab.listen(client, topic, queue="q") for client in clients]
        await lab.publish(clients[0], topic, numbered(60))
        await lab.gets_no_more(sinks, numbered(60))
        lab.figure("shares of three consumers", [len(sink.events) for sink in sinks])

    @promise(ability="queue")
    async def test_consumers_in_one_client_compete(self, lab: BrokerLab) -> None:
        """Two subscriptions of one client to one queue compete as those of two clients do."""
        broker, topic = await lab.new(), lab.topic()
        sinks = [await lab.listen(broker, topic, queue="q") for _ in range(2)]
        await lab.publish(broker, topic, numbered(40))
        await lab.gets_no_more(sinks, numbered(40))

    @promise(ability="queue")
    async def test_every_queue_gets_everything(self, lab: BrokerLab) -> None:
        """Two queues of one topic each get every message."""
        one, two, topic = await lab.new(), await lab.new(), lab.topic()
        first = [await lab.listen(broker, topic, queue="first") for broker in (one, two)]
        second = [await lab.listen(two, topic, queue="second")]
        await lab.publish(one, topic, numbered(40))
        await lab.gets_no_more(first, numbered(40))
        await lab.gets_no_more(second, numbered(40))

    @promise(ability="queue")
    async def test_a_queue_takes_nothing_from_others(self, lab: BrokerLab) -> None:
        """A queue beside subscriptions without one leaves them every message."""
        broker, topic = await lab.new(), lab.topic()
        queue = await lab.listen(broker, topic, queue="q")
        live = [await lab.listen(broker, topic) for _ in range(2)]
        await lab.publish(broker, topic, numbered(20))
        for sink in (queue, *live):
            await lab.gets_no_more(sink, numbered(20))

    @promise(ability="queue")
    async def test_a_queue_belongs_to_its_topic(self, lab: BrokerLab) -> None:
        """Queues of one name on two topics have nothing in common."""
        broker, one, two = await lab.new(), lab.topic(), lab.topic()
        first = await lab.listen(broker, one, queue="q")
        second = await lab.listen(broker, two, queue="q")
        await lab.publish(broker, one, [b"one"])
        await lab.publish(broker, two, [b"two"])
        await lab.gets_no_more(first, [b"one"])
        await lab.gets_no_more(second, [b"two"])

    @promise(ability="queue")
    async def test_a_queue_is_effective_at_once(self, lab: BrokerLab) -> None:
        """What is published right after subscribe to a new queue has returned is delivered."""
        publisher, subscriber, topic = await lab.new(), await lab.new(), lab.topic()
        for number in range(10):
            sink = await lab.listen(subscriber, topic, queue=f"q{number}")
            await lab.publish(publisher, topic, [b"x"])
            await lab.gets(sink, [b"x"])
            await sink.subscription.unsubscribe()

    @promise(ability="queue")
    async def test_a_new_queue_begins_now(self, lab: BrokerLab) -> None:
        """A queue gets nothing that was published before anybody first subscribed to it."""
        broker, topic = await lab.new(), lab.topic()
        other = await lab.listen(broker, topic, queue="other")
        await lab.publish(broker, topic, [b"before"])
        await lab.gets(other, [b"before"])
        sink = await lab.listen(broker, topic, queue="q")
        await lab.publish(broker, topic, [b"after"])
        await lab.gets_no_more(sink, [b"after"])

    @promise(ability="replay")
    async def test_the_earliest_is_there_to_start_from(self, lab: BrokerLab) -> None:
        """A subscription from the earliest gets what was published before it, and what follows."""
        broker, topic = await lab.new(), lab.topic()
        await lab.publish(broker, topic, numbered(20))
        sink = await lab.listen(broker, topic, start="earliest")
        await lab.publish(broker, topic, [b"after"])
        await lab.gets_no_more(sink, [*numbered(20), b"after"])

    @promise(ability="replay")
    async def test_a_new_queue_can_start_from_the_earliest(self, lab: BrokerLab) -> None:
        """A new queue from the earliest gets what was published before; one that exists goes on."""
        broker, topic = await lab.new(), lab.topic()
        await lab.publish(broker, topic, numbered(20))
        first = await lab.listen(broker, topic, queue="q", start="earliest")
        await lab.gets_no_more(first, numbered(20))
        await first.subscription.unsubscribe()
        second = await lab.listen(broker, topic, queue="q", start="earliest")
        await lab.publish(broker, topic, [b"after"])
        await lab.gets_no_more(second, [b"after"])

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_queue_keeps_what_nobody_has_taken(self, lab: BrokerLab) -> None:
        """What is published while a queue has no consumer waits for the next one, from anywhere."""
        publisher, topic = await lab.new(), lab.topic()
        async with lab.make() as before:
            sink = await lab.listen(before, topic, queue="q")
            await lab.publish(publisher, topic, [b"first"])
            await lab.gets(sink, [b"first"])
        await lab.publish(publisher, topic, numbered(50))
        after = await lab.listen(await lab.new(), topic, queue="q")
        await lab.gets_no_more(after, numbered(50))

    @promise(ability="queue", guarantee="at_least_once")
    async def test_consumers_leave_one_by_one(self, lab: BrokerLab) -> None:
        """While consumers leave a queue one after the other, those that stay get the rest."""
        publisher, topic, ledger = await lab.new(), lab.topic(), Ledger()
        clients = [await lab.new() for _ in range(4)]
        sinks = [await lab.listen(client, topic, queue="q") for client in clients]

        async with asyncio.TaskGroup() as leaving:
            for number, body in enumerate(numbered(200), 1):
                await ledger.publish(publisher, topic, body)
                if number % 50 == 0 and sinks[number // 50 :]:
                    leaving.create_task(sinks[number // 50].subscription.unsubscribe())
        await self._all(lab, ledger, sinks)

    @promise(ability="queue", guarantee="at_least_once")
    async def test_a_consumer_that_comes_back_goes_on(self, lab: BrokerLab) -> None:
        """A consumer that leaves and comes back over and over gets every message."""
        publisher, topic, ledger = await lab.new(), lab.topic(), Ledger()
        sinks: list[Sink] = []
        for batch in range(5):
            async with lab.make() as consumer:
                sinks.append(await lab.give(consumer, topic, Slow(), queue="q"))
                for body in numbered(40, f"{batch}-"):
                    await ledger.publish(publisher, topic, body)
        sinks.append(await lab.listen(publisher, topic, queue="q"))
        await self._all(lab, ledger, sinks)

    async def _all(self, lab: BrokerLab, ledger: Ledger, sinks: list[Sink]) -> None:
        def handled() -> list[bytes]:
            return [body for sink in sinks for body in sink.bodies]

        try:
            await lab.eventually(lambda: not ledger.lost(handled()), "nothing is lost")
        finally:
            lab.figures |= ledger.figures(handled())
        assert not ledger.failed
        assert not ledger.unknown
