"""The core's half of a subscription, over the memory broker and over drivers that misbehave."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest
from in_loops import in_loop, until

from micro_core.broker.base import (
    BrokerFeatures,
    Deliveries,
    Delivery,
    PublishOptions,
    SubscribeRequest,
)
from micro_core.broker.memory import MemoryBroker
from micro_core.broker.subscription import Event
from micro_core.context import Call, enter, maybe_current
from micro_core.errors import (
    BackendUnavailable,
    InvalidName,
    NotSupported,
    PublishUnknown,
)
from micro_core.message import Message


class Seen:
    """A handler that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def bodies(self) -> list[bytes]:
        return [event.message.body for event in self.events]

    async def count(self, number: int) -> None:
        await until(lambda: len(self.events) >= number)


def text(number: int) -> Message:
    return Message({"Id": str(number)}, b"%d" % number)


# -- settling ----------------------------------------------------------------------------------


@in_loop
async def test_return_acks_and_exception_nacks() -> None:
    tries: Counter[bytes] = Counter()

    async def handler(event: Event) -> None:
        tries[event.message.body] += 1
        if tries[event.message.body] < 3:
            raise ValueError("not yet")

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", handler, queue="q")
        await broker.publish("t", Message(body=b"x"))
        await until(lambda: subscription.handled == 1)
        assert (subscription.failed, tries[b"x"]) == (2, 3)
        await subscription.unsubscribe()
        again = Seen()
        await broker.subscribe("t", again, queue="q")
        await broker.publish("t", Message(body=b"y"))
        await again.count(1)
        assert again.bodies == [b"y"]


@in_loop
async def test_failure_is_logged_without_the_payload(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(event: Event) -> None:
        raise ValueError("broken handler")

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("orders", handler)
        with caplog.at_level(logging.DEBUG, logger="micro.broker"):
            await broker.publish("orders", Message({"Card": "4929"}, b"payload-4711"))
            await until(lambda: subscription.failed == 1)
            await until(lambda: bool(caplog.records))
    assert "orders" in caplog.text
    assert "attempt 1" in caplog.text
    assert "broken handler" in caplog.text
    assert "payload-4711" not in caplog.text
    assert "4929" not in caplog.text


@in_loop
async def test_manual_ack_is_whoever_holds_the_event() -> None:
    seen = Seen()
    async with MemoryBroker() as broker:
        first = await broker.subscribe("t", seen, queue="q", auto_ack=False)
        for number in range(3):
            await broker.publish("t", text(number))
        await seen.count(3)
        await seen.events[1].ack()
        await seen.events[0].nack()
        await seen.count(4)
        assert seen.bodies[3] == b"0"
        await seen.events[3].ack()
        await first.unsubscribe()
        second = Seen()
        await broker.subscribe("t", second, queue="q")
        await second.count(1)
        await broker.publish("t", text(9))
        await second.count(2)
        assert second.bodies == [b"2", b"9"]  # 2 was never acked


@in_loop
async def test_second_ack_or_nack_is_harmless() -> None:
    seen = Seen()
    async with Watched() as broker:
        await broker.subscribe("t", seen, queue="q", auto_ack=False)
        await broker.publish("t", text(1))
        await broker.publish("t", text(2))
        await seen.count(2)
        await seen.events[0].ack()
        await seen.events[0].nack()
        await seen.events[0].ack()
        await seen.events[1].nack()
        await seen.events[1].ack()
        await seen.count(3)
        await seen.events[2].ack()
        await broker.publish("t", text(3))
        await seen.count(4)
        assert seen.bodies == [b"1", b"2", b"2", b"3"]
        assert broker.settled == ["ack", "nack", "ack"]
        assert all(event.settled for event in seen.events[:3])


@in_loop
async def test_ack_in_the_handler_and_an_exception_after_it() -> None:
    seen = Seen()

    async def handler(event: Event) -> None:
        await seen(event)
        await event.ack()
        raise ValueError("after the ack")

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", handler, queue="q", auto_ack=False)
        await broker.publish("t", text(1))
        await broker.publish("t", text(2))
        await until(lambda: subscription.failed == 2)
        assert seen.bodies == [b"1", b"2"]


@in_loop
async def test_ack_after_close_is_a_typed_error() -> None:
    seen = Seen()
    async with MemoryBroker() as broker:
        await broker.subscribe("t", seen, queue="q", auto_ack=False)
        await broker.publish("t", text(1))
        await seen.count(1)
    with pytest.raises(BackendUnavailable):
        await seen.events[0].ack()


@in_loop
async def test_cancellation_from_inside_the_handler_is_a_failure_of_the_handler() -> None:
    seen = Seen()

    async def handler(event: Event) -> None:
        await seen(event)
        if len(seen.events) == 1:
            inner = asyncio.ensure_future(asyncio.sleep(30))
            inner.cancel()
            await inner

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", handler, queue="q")
        await broker.publish("t", text(1))
        await until(lambda: subscription.handled == 1)
        assert subscription.failed == 1
        assert seen.bodies == [b"1", b"1"]


# -- order, concurrency, prefetch --------------------------------------------------------------


@in_loop
async def test_one_handler_at_a_time_keeps_the_order() -> None:
    running = most = 0
    seen = Seen()

    async def handler(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await seen(event)
        running -= 1

    async with MemoryBroker() as broker:
        for queue in ("q", None):
            seen.events.clear()
            subscription = await broker.subscribe("t", handler, queue=queue)
            for number in range(300):
                await broker.publish("t", text(number))
            await seen.count(300)
            assert seen.bodies == [b"%d" % number for number in range(300)]
            await subscription.unsubscribe()
    assert most == 1


@in_loop
async def test_one_handler_at_a_time_needs_no_task_per_message() -> None:
    tasks: set[asyncio.Task[None] | None] = set()
    seen = Seen()

    async def handler(event: Event) -> None:
        tasks.add(asyncio.current_task())
        await seen(event)

    async with MemoryBroker() as broker:
        await broker.subscribe("t", handler)
        for number in range(50):
            await broker.publish("t", text(number))
        await seen.count(50)
    assert len(tasks) == 1


@in_loop
async def test_concurrency_keeps_the_order_of_each_key_and_its_bound() -> None:
    running: Counter[bytes | None] = Counter()
    most = 0
    seen = Seen()

    async def handler(event: Event) -> None:
        nonlocal most
        running[event.key] += 1
        most = max(most, running.total())
        assert event.key is None or running[event.key] == 1
        for _ in range(int(event.message.body) % 5):
            await asyncio.sleep(0)
        await seen(event)
        running[event.key] -= 1

    keys = [b"a", b"b", b"c", None, b"d", None]
    async with MemoryBroker() as broker:
        await (await broker.subscribe("t", seen, queue="q")).unsubscribe()
        for number in range(600):
            await broker.publish("t", text(number), key=keys[number % 6])
        subscription = await broker.subscribe("t", handler, queue="q", concurrency=4)
        await seen.count(600)
        assert subscription.failed == 0
    assert most == 4
    for key in (b"a", b"b", b"c", b"d"):
        numbers = [int(event.message.body) for event in seen.events if event.key == key]
        assert numbers == sorted(numbers)
        assert len(numbers) == 100


@in_loop
async def test_a_blocked_key_holds_up_no_other() -> None:
    gate = asyncio.Event()
    seen = Seen()

    async def handler(event: Event) -> None:
        if event.key == b"slow":
            await gate.wait()
        await seen(event)

    async with MemoryBroker() as broker:
        await broker.subscribe("t", handler, queue="q", concurrency=2)
        for number in range(5):
            await broker.publish("t", text(number), key=b"slow")
        for number in range(5, 30):
            await broker.publish("t", text(number), key=b"quick")
        await seen.count(25)
        assert {event.key for event in seen.events} == {b"quick"}
        gate.set()
        await seen.count(30)
        assert seen.bodies[25:] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("concurrency", [1, 8])
@in_loop
async def test_prefetch_bounds_what_is_delivered_and_not_acked(concurrency: int) -> None:
    seen = Seen()
    async with MemoryBroker() as broker:
        await broker.subscribe(
            "t", seen, queue="q", auto_ack=False, prefetch=5, concurrency=concurrency
        )
        for number in range(20):
            await broker.publish("t", text(number))
        await seen.count(5)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(seen.events) == 5
        for done in range(15):
            await seen.events[done].ack()
            await seen.count(6 + done)
            assert len(seen.events) == 6 + done


@in_loop
async def test_the_loop_has_turns_while_a_backlog_is_handled() -> None:
    seen = Seen()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while len(seen.events) < 1000:
            turns += 1
            await asyncio.sleep(0)

    async with MemoryBroker() as broker:
        early = await broker.subscribe("t", seen, queue="q")
        await early.unsubscribe()
        for number in range(1000):
            await broker.publish("t", text(number))
        await broker.subscribe("t", seen, queue="q")
        await other()
    assert turns > 20


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
@in_loop
async def test_handler_cut_by_the_end_neither_acks_nor_nacks(concurrency: int) -> None:
    started = asyncio.Event()
    cut: list[BaseException] = []

    async def stuck(event: Event) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            cut.append(error)
            raise

    async with MemoryBroker() as broker:
        driver = Watched("watched")
        async with driver:
            subscription = await driver.subscribe("t", stuck, queue="q", concurrency=concurrency)
            await driver.publish("t", text(1))
            await started.wait()
            await subscription.unsubscribe(grace=0.01)
            assert len(cut) == 1
            assert driver.settled == []
            assert (subscription.handled, subscription.failed) == (0, 0)
            seen = Seen()
            await driver.subscribe("t", seen, queue="q")
            await seen.count(1)
            assert seen.bodies == [b"1"]
            await until(lambda: driver.settled == ["ack"])
        assert broker.health().state == "connected"


@pytest.mark.parametrize("concurrency", [1, 4])
@in_loop
async def test_running_handlers_finish_within_the_grace_and_ack(concurrency: int) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def handler(event: Event) -> None:
        started.set()
        await go.wait()

    async with Watched() as driver:
        subscription = await driver.subscribe("t", handler, queue="q", concurrency=concurrency)
        await driver.publish("t", text(1))
        await started.wait()
        leaving = asyncio.create_task(subscription.unsubscribe(grace=10))
        await asyncio.sleep(0)
        go.set()
        await leaving
        assert subscription.handled == 1
        assert driver.settled == ["ack"]


@in_loop
async def test_stop_fetching_hands_nothing_more_over_and_a_queue_keeps_it() -> None:
    seen = Seen()
    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", seen, queue="q")
        await broker.publish("t", text(1))
        await seen.count(1)
        await subscription.stop_fetching()
        await broker.publish("t", text(2))
        for _ in range(20):
            await asyncio.sleep(0)
        assert seen.bodies == [b"1"]
        await subscription.unsubscribe()
        later = Seen()
        await broker.subscribe("t", later, queue="q")
        await later.count(1)
        assert later.bodies == [b"2"]


@in_loop
async def test_what_no_handler_has_begun_with_is_left_to_the_queue() -> None:
    go, seen = asyncio.Event(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await seen(event)

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", handler, queue="q", concurrency=2, prefetch=50)
        for number in range(10):
            await broker.publish("t", text(number), key=b"k" if number % 2 else None)
        await until(lambda: subscription._busy == 10)
        await subscription.stop_fetching()
        go.set()
        async with asyncio.timeout(10):
            await subscription.drain(60)
        assert seen.bodies == [b"0", b"1"]
        later = Seen()
        await broker.subscribe("t", later, queue="q")
        await later.count(8)
        assert later.bodies == [b"%d" % number for number in range(2, 10)]


@pytest.mark.parametrize("concurrency", [1, 3])
@in_loop
async def test_drain_of_a_live_subscription_handles_what_was_accepted(concurrency: int) -> None:
    go, seen = asyncio.Event(), Seen()

    async def handler(event: Event) -> None:
        await go.wait()
        await seen(event)

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", handler, concurrency=concurrency, prefetch=5)
        for number in range(20):
            await broker.publish("t", text(number))
        draining = asyncio.create_task(subscription.drain(10))
        await asyncio.sleep(0)
        await broker.publish("t", text(99))
        go.set()
        await draining
        assert sorted(map(int, seen.bodies)) == list(range(20))


@in_loop
async def test_drain_waits_for_acks_that_are_owed() -> None:
    seen = Seen()
    async with Watched() as driver:
        subscription = await driver.subscribe("t", seen, queue="q", auto_ack=False)
        await driver.publish("t", text(1))
        await seen.count(1)
        draining = asyncio.create_task(subscription.drain(10))
        await asyncio.sleep(0.05)
        assert not draining.done()
        await seen.events[0].ack()
        await draining
        assert driver.settled == ["ack"]


@in_loop
async def test_unsubscribe_ends_within_its_bound_though_a_handler_ignores_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release, started = asyncio.Event(), asyncio.Event()

    async def stubborn(event: Event) -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", stubborn)
        await broker.publish("t", text(1))
        await started.wait()
        async with asyncio.timeout(5):
            await subscription.unsubscribe(grace=0.05)
        assert "ignores its cancellation" in caplog.text
        release.set()
        await until(lambda: all(task.done() for task in subscription._tasks()))


@in_loop
async def test_unsubscribe_is_idempotent_and_may_be_called_by_many() -> None:
    seen = Seen()
    async with MemoryBroker() as broker:
        subscription = await broker.subscribe("t", seen)
        await asyncio.gather(*(subscription.unsubscribe() for _ in range(5)))
        await subscription.unsubscribe()
        await subscription.drain(1)
        await broker.publish("t", text(1))
        assert broker._subscriptions == set()
        assert not broker._exchange.live
    assert seen.events == []


@pytest.mark.parametrize("concurrency", [1, 4])
@in_loop
async def test_a_handler_may_end_its_own_subscription(concurrency: int) -> None:
    seen = Seen()

    async def handler(event: Event) -> None:
        await seen(event)
        if len(seen.events) == 3:
            await subscription.unsubscribe()

    async with Watched() as driver:
        subscription = await driver.subscribe("t", handler, queue="q", concurrency=concurrency)
        for number in range(10):
            await driver.publish("t", text(number), key=b"k")
        await until(lambda: not driver._subscriptions)
        assert seen.bodies == [b"0", b"1", b"2"]
        assert driver.settled == ["ack"] * 3
        later = Seen()
        await driver.subscribe("t", later, queue="q")
        await later.count(7)


@in_loop
async def test_close_ends_subscriptions_and_leaves_no_task() -> None:
    started = asyncio.Event()

    async def stuck(event: Event) -> None:
        started.set()
        await asyncio.sleep(60)

    broker = MemoryBroker()
    await broker.connect()
    for concurrency in (1, 4):
        await broker.subscribe("t", stuck, concurrency=concurrency)
        await broker.subscribe("t", stuck, queue="q", concurrency=concurrency)
    await broker.publish("t", text(1))
    await started.wait()
    async with asyncio.timeout(5):
        await broker.close()
        await broker.close()
    assert len(asyncio.all_tasks()) == 1
    with pytest.raises(BackendUnavailable):
        await broker.publish("t", text(2))


@in_loop
async def test_a_subscription_made_inside_a_call_does_not_inherit_it() -> None:
    calls: list[Call | None] = []

    async def handler(event: Event) -> None:
        calls.append(maybe_current())

    async def call() -> None:
        enter(Call("greeter", "Say.Hello", {}, deadline=0.0))
        for concurrency in (1, 4):
            await broker.subscribe("t", handler, concurrency=concurrency)

    async with MemoryBroker() as broker:
        await asyncio.create_task(call())
        await broker.publish("t", text(1))
        await until(lambda: calls == [None, None])


# -- drivers that misbehave --------------------------------------------------------------------


class Watched(MemoryBroker):
    """Tells what was settled."""

    name = "watched"

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.settled: list[str] = []

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        return _Watched(self, await super()._receive(request))


class _Watched:
    def __init__(self, broker: Watched, inner: Deliveries) -> None:
        self._broker = broker
        self._inner = inner

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        delivery = await self._inner.__anext__()
        delivery.ack = functools.partial(self._settle, "ack", delivery.ack)
        delivery.nack = functools.partial(self._settle, "nack", delivery.nack)
        return delivery

    async def _settle(self, what: str, inner: Callable[[], Awaitable[None]]) -> None:
        self._broker.settled.append(what)
        await inner()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Faulty(MemoryBroker):
    """Its deliveries end or raise after every third; opening them again fails now and then."""

    name = "faulty"

    def __init__(self, *addresses: str, fault: BaseException | None = None) -> None:
        super().__init__(*addresses)
        self.fault = fault
        self.opened = 0
        self.closed = 0

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        self.opened += 1
        if self.opened % 3 == 2:
            raise ConnectionRefusedError("nobody listens")
        return self._deliveries(await super()._receive(request))

    async def _deliveries(self, inner: Deliveries) -> AsyncGenerator[Delivery, None]:
        try:
            for _ in range(3):
                yield await inner.__anext__()
            await asyncio.sleep(0.01)  # long enough for the acks of these
            if self.fault is not None:
                raise self.fault
        finally:
            self.closed += 1
            await inner.aclose()


@pytest.mark.parametrize(
    "fault",
    [
        None,
        RuntimeError("a bug"),
        BackendUnavailable("gone"),
        ConnectionResetError("reset"),
        TimeoutError("late"),
        asyncio.CancelledError(),
    ],
    ids=["ends", "RuntimeError", "BackendUnavailable", "reset", "timeout", "cancelled"],
)
@pytest.mark.parametrize("concurrency", [1, 4])
@in_loop
async def test_no_fault_of_the_backend_ends_a_subscription(
    fault: BaseException | None, concurrency: int
) -> None:
    seen = Seen()
    async with Faulty(fault=fault) as broker:
        subscription = await broker.subscribe("t", seen, queue="q", concurrency=concurrency)
        for number in range(12):
            await broker.publish("t", text(number))
        await until(lambda: set(seen.bodies) == {b"%d" % number for number in range(12)})
        await until(lambda: subscription.reopened >= 3)
        assert broker.opened > subscription.reopened + 1  # some openings failed as well
        assert broker.health().reconnects >= 1
        await subscription.unsubscribe()
        assert broker.closed == subscription.reopened + 1


@in_loop
async def test_health_tells_of_the_loss_until_it_is_mended() -> None:
    class Dead(MemoryBroker):
        name = "dead"
        alive = asyncio.Event()

        async def _receive(self, request: SubscribeRequest) -> Deliveries:
            if not subscribed:
                return Ending()
            await self.alive.wait()
            return await super()._receive(request)

    class Ending:
        def __aiter__(self) -> AsyncIterator[Delivery]:
            return self

        async def __anext__(self) -> Delivery:
            raise ConnectionResetError("the server went away")

        async def aclose(self) -> None:
            raise ConnectionResetError("and it is still away")

    subscribed, seen = False, Seen()
    async with Dead() as broker:
        await broker.subscribe("t", seen)
        subscribed = True
        await until(lambda: broker.health().state == "lost")
        assert "the server went away" in broker.health().error
        broker.alive.set()
        await until(lambda: broker.health().state == "connected")
        await broker.publish("t", text(1))
        await seen.count(1)


@in_loop
async def test_failing_acks_do_not_end_a_subscription() -> None:
    class NoAcks(Watched):
        name = "noacks"

        async def _receive(self, request: SubscribeRequest) -> Deliveries:
            deliveries = await super()._receive(request)
            deliveries._settle = self._refuse  # type: ignore[attr-defined]
            return deliveries

        async def _refuse(self, what: str, inner: object) -> None:
            if what == "nack":
                raise RuntimeError("a bug")
            raise ConnectionResetError("reset")

    seen = Seen()

    async def handler(event: Event) -> None:
        await seen(event)
        if event.message.body == b"1":
            raise ValueError("no")

    async with NoAcks() as broker:
        for concurrency in (1, 4):
            seen.events.clear()
            await broker.subscribe("t", handler, queue=f"q{concurrency}", concurrency=concurrency)
            for number in range(4):
                await broker.publish("t", text(number))
            await until(lambda: {b"0", b"1", b"2", b"3"} <= set(seen.bodies))


@in_loop
async def test_a_close_that_hangs_is_bounded() -> None:
    class Hanging(Watched):
        name = "hanging"

        async def _receive(self, request: SubscribeRequest) -> Deliveries:
            deliveries = await super()._receive(request)
            deliveries.aclose = functools.partial(asyncio.sleep, 60)  # type: ignore[method-assign]
            return deliveries

    broker = Hanging()
    await broker.connect()
    await broker.subscribe("t", Seen())
    async with asyncio.timeout(5):
        await broker.close()


@in_loop
async def test_a_subscribe_that_fails_or_hangs_is_a_typed_error() -> None:
    class Down(MemoryBroker):
        name = "down"
        operation_timeout = 0.05
        hangs = False

        async def _receive(self, request: SubscribeRequest) -> Deliveries:
            if self.hangs:
                await asyncio.sleep(60)
            raise ConnectionRefusedError("nobody listens")

        async def _send(
            self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
        ) -> None:
            await asyncio.sleep(60)

    async with Down() as broker:
        with pytest.raises(BackendUnavailable, match="nobody listens"):
            await broker.subscribe("t", Seen())
        broker.hangs = True
        with pytest.raises(Exception, match="no answer within"):
            await broker.subscribe("t", Seen())
        broker.publish_timeout = 0.05
        with pytest.raises(PublishUnknown) as caught:
            await broker.publish("t", Message({"micro-id": "4711"}))
        assert caught.value.message_id == "4711"
        assert broker._subscriptions == set()


# -- what is refused ---------------------------------------------------------------------------


@in_loop
async def test_what_a_broker_does_not_have_is_refused() -> None:
    class Plain(MemoryBroker):
        name = "plain"
        features = BrokerFeatures()

    async with Plain() as broker:
        with pytest.raises(NotSupported, match="queue"):
            await broker.subscribe("t", Seen(), queue="q")
        with pytest.raises(NotSupported, match="key"):
            await broker.publish("t", text(1), key=b"k")
        with pytest.raises(NotSupported, match="earliest"):
            await broker.subscribe("t", Seen(), start="earliest")
        with pytest.raises(InvalidName):
            await broker.subscribe(" ", Seen())
        with pytest.raises(ValueError, match="at least 1"):
            await broker.subscribe("t", Seen(), concurrency=0)
        with pytest.raises(ValueError, match="at least 1"):
            await broker.subscribe("t", Seen(), prefetch=0)
        with pytest.raises(InvalidName):
            await broker.publish("t", Message({"A": "b\r\nC: d"}))
