"""The memory broker: fan-out, queues that outlive their consumers, and pressure."""

from __future__ import annotations

import asyncio

import pytest
from in_loops import in_loop, until

from micro_core.broker.memory import MemoryBroker
from micro_core.broker.subscription import Event
from micro_core.errors import BackendError, BackendRefused, PublishUnknown, WrongLoop
from micro_core.message import Message


class Seen:
    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.bodies.append(event.message.body)
        self.events.append(event)

    async def count(self, number: int) -> None:
        await until(lambda: len(self.bodies) >= number)


def texts(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def publish(broker: MemoryBroker, *numbers: int, topic: str = "t") -> None:
    for number in numbers:
        await broker.publish(topic, Message({"Id": str(number)}, b"%d" % number))


@in_loop
async def test_every_live_subscriber_gets_every_message_published_meanwhile() -> None:
    first, second, other, late = Seen(), Seen(), Seen(), Seen()
    async with MemoryBroker() as broker, MemoryBroker() as peer:
        await publish(broker, 0)
        await broker.subscribe("t", first)
        await peer.subscribe("t", second)
        await peer.subscribe("u", other)
        await publish(broker, *range(1, 20))
        await peer.subscribe("t", late)
        await publish(peer, 20)
        for seen in (first, second):
            await seen.count(20)
            assert seen.bodies == texts(*range(1, 21))
        await late.count(1)
        assert late.bodies == texts(20)
        assert other.bodies == []


@in_loop
async def test_consumers_of_a_queue_compete_and_each_queue_gets_all() -> None:
    a, b, c, live = Seen(), Seen(), Seen(), Seen()
    async with MemoryBroker() as broker, MemoryBroker() as peer:
        await broker.subscribe("t", a, queue="one")
        await peer.subscribe("t", b, queue="one")
        await peer.subscribe("t", c, queue="two")
        await peer.subscribe("t", live)
        await publish(broker, *range(100))
        await until(lambda: len(a.bodies) + len(b.bodies) == 100)
        await c.count(100)
        await live.count(100)
        assert sorted(map(int, a.bodies + b.bodies)) == list(range(100))
        assert len(a.bodies) > 10
        assert len(b.bodies) > 10
        assert c.bodies == live.bodies == texts(*range(100))


@in_loop
async def test_brokers_of_another_address_share_nothing() -> None:
    seen = Seen()
    async with MemoryBroker("one") as broker, MemoryBroker("two") as other:
        await broker.subscribe("t", seen)
        await publish(other, 1)
        await publish(broker, 2)
        await seen.count(1)
        assert seen.bodies == texts(2)


@in_loop
async def test_a_queue_outlives_its_consumers_and_their_broker() -> None:
    async with MemoryBroker() as publisher:
        async with MemoryBroker() as broker:
            await publish(publisher, 0)
            await broker.subscribe("t", Seen(), queue="q")
        await publish(publisher, 1, 2, 3)
        seen = Seen()
        async with MemoryBroker() as broker:
            await broker.subscribe("t", seen, queue="q")
            await seen.count(3)
            assert seen.bodies == texts(1, 2, 3)


@in_loop
async def test_what_a_consumer_had_not_acked_comes_back_in_order() -> None:
    held, seen = Seen(), Seen()
    async with MemoryBroker() as broker:
        leaving = await broker.subscribe("t", held, queue="q", auto_ack=False, prefetch=3)
        await publish(broker, *range(6))
        await held.count(3)
        await held.events[1].ack()
        await leaving.unsubscribe()
        await held.events[0].ack()  # too late: the queue has it again
        await broker.subscribe("t", seen, queue="q")
        await seen.count(5)
        assert seen.bodies == texts(0, 2, 3, 4, 5)


@in_loop
async def test_a_poisonous_message_does_not_hold_up_the_others() -> None:
    seen = Seen()

    async def handler(event: Event) -> None:
        if event.message.body == b"0":
            raise ValueError("poison")
        await seen(event)

    async with MemoryBroker() as broker:
        await broker.subscribe("t", handler, queue="q")
        await publish(broker, *range(50))
        await seen.count(49)
        assert seen.bodies == texts(*range(1, 50))


@in_loop
async def test_a_subscriber_that_fails_concerns_nobody_else() -> None:
    seen = Seen()

    async def broken(event: Event) -> None:
        event.message.header.clear()
        event.message.body = b""
        raise ValueError("broken")

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", broken)
        await broker.subscribe("t", seen)
        await broker.subscribe("t", broken, queue="q")
        await publish(broker, *range(5))
        await seen.count(5)
        assert seen.bodies == texts(*range(5))
        assert [event.message.header for event in seen.events] == [
            {"Id": str(number)} for number in range(5)
        ]
        await until(lambda: subscription.failed == 5)


@in_loop
async def test_no_handler_runs_inside_the_publisher() -> None:
    tasks: list[asyncio.Task[None] | None] = []

    async def handler(event: Event) -> None:
        tasks.append(asyncio.current_task())

    async with MemoryBroker() as broker:
        await broker.subscribe("t", handler)
        await broker.subscribe("t", handler, queue="q")
        await publish(broker, 1)
        await until(lambda: len(tasks) == 2)
        assert asyncio.current_task() not in tasks


@in_loop
async def test_a_publisher_that_never_waits_leaves_others_a_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with MemoryBroker() as broker:
        running = asyncio.create_task(other())
        await publish(broker, *range(100))
        running.cancel()
        await asyncio.wait([running])
    assert turns > 50


@in_loop
async def test_a_handler_may_publish_to_its_own_topic() -> None:
    seen = Seen()

    async def handler(event: Event) -> None:
        await seen(event)
        number = int(event.message.body)
        if number < 5:
            await publish(broker, number + 1)

    async with MemoryBroker() as broker:
        await broker.subscribe("t", handler)
        await publish(broker, 0)
        await seen.count(6)
        assert seen.bodies == texts(*range(6))


@pytest.mark.parametrize("queue", ["q", None])
@in_loop
async def test_publish_waits_for_a_subscriber_that_is_behind(queue: str | None) -> None:
    go, seen = asyncio.Event(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await seen(event)

    async with MemoryBroker(limit=10) as broker:
        await broker.subscribe("t", handler, queue=queue)
        publishing = asyncio.create_task(publish(broker, *range(100)))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        go.set()
        await publishing
        await seen.count(100)
        assert seen.bodies == texts(*range(100))


@in_loop
async def test_a_subscriber_that_stays_behind_is_an_error_and_no_loss() -> None:
    go, seen = asyncio.Event(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await seen(event)

    async with MemoryBroker(limit=10) as broker:
        broker.publish_timeout = 0.05
        await broker.subscribe("t", handler)
        sent: list[bytes] = []
        with pytest.raises(PublishUnknown):
            for number in range(100):
                await publish(broker, number)
                sent.append(b"%d" % number)
        go.set()
        await seen.count(len(sent))
        await publish(broker, 100)
        await seen.count(len(sent) + 1)
        assert seen.bodies == [*sent, b"100"]


@in_loop
async def test_a_full_queue_without_consumers_refuses_and_keeps_what_it_has() -> None:
    seen = Seen()
    async with MemoryBroker(limit=10) as broker:
        await (await broker.subscribe("t", Seen(), queue="q")).unsubscribe()
        await publish(broker, *range(10))
        with pytest.raises(BackendRefused, match="no consumer") as caught:
            await publish(broker, 10)
        assert caught.value.happened == "no"
        await broker.subscribe("t", seen, queue="q")
        await seen.count(10)
        await publish(broker, 11)
        await seen.count(11)
        assert seen.bodies == texts(*range(10), 11)


@in_loop
async def test_leaving_frees_a_publisher_that_waits_for_the_one_who_leaves() -> None:
    async def stuck(event: Event) -> None:
        await asyncio.sleep(60)

    async with MemoryBroker(limit=1) as broker:
        subscription = await broker.subscribe("t", stuck)
        await publish(broker, 0)
        publishing = asyncio.create_task(publish(broker, 1, 2, 3))
        await asyncio.sleep(0.02)
        assert not publishing.done()
        await subscription.unsubscribe(grace=0)
        await publishing


@in_loop
async def test_key_and_any_bytes_arrive() -> None:
    seen = Seen()
    body = bytes(range(256))
    async with MemoryBroker() as broker:
        await broker.subscribe("t\N{SNOWMAN}", seen)
        await broker.publish("t\N{SNOWMAN}", Message({"x-odd": "é ☃"}, body), key=b"\xff\0")
        await seen.count(1)
    event = seen.events[0]
    assert (event.topic, event.key, event.message.body) == ("t\N{SNOWMAN}", b"\xff\0", body)
    assert event.message.header == {"X-Odd": "é ☃"}
    assert event.attempts == 1


@in_loop
async def test_topics_that_nobody_hears_take_no_memory() -> None:
    async with MemoryBroker() as broker:
        for number in range(50):
            await publish(broker, 1, topic=f"t{number}")
            await (await broker.subscribe(f"t{number}", Seen())).unsubscribe()
        assert broker._exchange.live == {}


def test_another_loop_has_topics_of_its_own_and_may_not_use_this_one() -> None:
    broker = MemoryBroker()

    async def first() -> None:
        await broker.connect()
        await (await broker.subscribe("t", Seen(), queue="q")).unsubscribe()
        await publish(broker, 1)

    async def second() -> None:
        with pytest.raises(WrongLoop):
            await publish(broker, 2)
        seen = Seen()
        async with MemoryBroker() as mine:
            await mine.subscribe("t", seen, queue="q")
            await publish(mine, 3)
            await seen.count(1)
        assert seen.bodies == texts(3)

    asyncio.run(first())
    asyncio.run(second())


@in_loop
async def test_a_closed_broker_is_a_typed_error_and_may_be_connected_again() -> None:
    broker, seen = MemoryBroker(), Seen()
    with pytest.raises(BackendError, match="not connected"):
        await publish(broker, 1)
    async with broker:
        await broker.subscribe("t", seen)
    with pytest.raises(BackendError, match="not connected"):
        await broker.subscribe("t", seen)
    async with broker:
        await broker.subscribe("t", seen)
        await publish(broker, 2)
        await seen.count(1)
