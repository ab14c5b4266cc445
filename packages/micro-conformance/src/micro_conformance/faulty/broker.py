"""Brokers with one fault each; most were found in real ones."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, cast

from micro_core import BackendError, BackendRefused, BackendUnavailable, Event, Health, Message
from micro_core.broker.base import (
    BrokerFeatures,
    Deliveries,
    Delivery,
    Handler,
    PublishOptions,
    Start,
    SubscribeRequest,
)
from micro_core.broker.memory import MemoryBroker
from micro_core.broker.subscription import Subscription
from micro_core.hub import hub

from ..mutants import mutant

Change = Callable[[Delivery], None]


async def _nothing() -> None:
    pass


class _Faulty(MemoryBroker):
    """Base of all; ``notes`` are what a fault has to remember."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.notes: dict[str, Any] = {}


class _Changed:
    """Deliveries that something is done to on their way."""

    def __init__(self, inner: Deliveries, change: Change) -> None:
        self._inner = inner
        self._change = change
        if stop := getattr(inner, "stop", None):
            self.stop: Callable[[], Awaitable[None]] = stop

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        delivery = await self._inner.__anext__()
        self._change(delivery)
        return delivery

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Delivers(_Faulty):
    """Base of those that change what they deliver."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        return _Changed(await super()._receive(request), self._change)

    def _change(self, delivery: Delivery) -> None:
        raise NotImplementedError


class _Sends(_Faulty):
    """Base of those that change what they send."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        await super()._send(topic, self._changed(message), key, options)

    def _changed(self, message: Message) -> Message:
        raise NotImplementedError


# -- what is delivered -----------------------------------------------------------------------


@mutant("test_a_message_arrives_whole", "test_header_values_arrive", "test_many_headers_arrive")
class DropsHeaders(_Sends):
    """Nothing of a message arrives but its body."""

    def _changed(self, message: Message) -> Message:
        return Message({}, message.body)


@mutant("test_header_values_arrive")
class LowersValues(_Sends):
    """Header values arrive in lower case."""

    def _changed(self, message: Message) -> Message:
        return Message({name: text.lower() for name, text in message.header.items()}, message.body)


@mutant("test_header_values_in_any_script_arrive")
class SendsAscii(_Sends):
    """Header values lose what is not ASCII."""

    def _changed(self, message: Message) -> Message:
        plain = {n: t.encode("ascii", "replace").decode() for n, t in message.header.items()}
        return Message(plain, message.body)


@mutant("test_an_empty_header_value_arrives")
class DropsEmptyValues(_Sends):
    """A header with an empty value is left out."""

    def _changed(self, message: Message) -> Message:
        return Message({n: text for n, text in message.header.items() if text}, message.body)


@mutant("test_header_names_have_one_case")
class LowersNames(_Delivers):
    """Header names arrive in lower case, as some protocols carry them."""

    def _change(self, delivery: Delivery) -> None:
        header = delivery.message.header
        delivery.message.header = {name.lower(): text for name, text in header.items()}


@mutant("test_many_headers_arrive")
class SendsFewHeaders(_Sends):
    """Of many headers the first sixty-four arrive."""

    def _changed(self, message: Message) -> Message:
        return Message(dict(list(message.header.items())[:64]), message.body)


@mutant("test_headers_belong_to_their_message")
class GathersHeaders(_Sends):
    """A message gets the headers of those before it."""

    def _changed(self, message: Message) -> Message:
        self.notes.setdefault("gathered", {}).update(message.header)
        return Message(dict(self.notes["gathered"]), message.body)


@mutant("test_a_body_of_any_bytes_arrives")
class SendsText(_Sends):
    """A body is taken for text."""

    def _changed(self, message: Message) -> Message:
        return Message(message.header, message.body.decode(errors="replace").encode())


@mutant("test_a_body_is_not_taken_for_an_envelope")
class OpensEnvelopes(_Sends):
    """A body that looks like an envelope is opened."""

    def _changed(self, message: Message) -> Message:
        from micro_core.broker.envelope import decode

        return decode(message.body) or message


@mutant("test_an_empty_body_arrives")
class SkipsEmptyBodies(_Delivers):
    """A message without a body is taken for none."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        if message.body:
            await super()._send(topic, message, key, options)

    def _change(self, delivery: Delivery) -> None:
        pass


@mutant("test_a_body_of_a_mebibyte_arrives", "test_a_body_too_large_is_a_clear_error")
class CutsBodies(_Sends):
    """A body is cut off at 64 KiB."""

    def _changed(self, message: Message) -> Message:
        return Message(message.header, message.body[: 64 << 10])


@mutant("test_a_body_too_large_is_a_clear_error")
class BreaksOnLargeBodies(_Faulty):
    """A huge body is refused with an error that tells nothing."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        if len(message.body) > 4 << 20:
            raise BackendRefused("frame too large")
        await super()._send(topic, message, key, options)


@mutant("test_a_message_arrives_whole")
class ForgetsTheTopic(_Delivers):
    """An event names another topic than the one published to."""

    def _change(self, delivery: Delivery) -> None:
        delivery.topic = delivery.topic.rpartition("-")[0]


@mutant("test_a_key_arrives", "test_messages_of_a_key_stay_in_order")
class ForgetsKeys(_Delivers):
    """Keys are taken and not delivered, so that nothing is kept in order by them."""

    def _change(self, delivery: Delivery) -> None:
        delivery.key = None


@mutant("test_subscribers_do_not_share_a_message", "test_a_published_message_stays_the_publishers")
class SharesMessages(_Faulty):
    """All subscribers and the publisher have one message in their hands."""

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        self.notes.setdefault("sent", {})[message.body] = message
        await super().publish(topic, message, key=key, options=options)
        shared = {name.title(): text for name, text in message.header.items()}
        message.header.clear()
        message.header.update(shared)

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        def change(delivery: Delivery) -> None:
            sent = self.notes.get("sent", {})
            delivery.message = sent.get(delivery.message.body, delivery.message)

        return _Changed(await super()._receive(request), change)


@mutant("test_a_header_that_cannot_travel_is_refused", "test_options_of_another_plugin_are_refused")
class ChecksNothing(_Faulty):
    """Headers, names, options and what is not supported are taken unseen."""

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        self._check_home()
        header = {name.title(): text for name, text in message.header.items()}
        await self._ask(self._send(topic, Message(header, message.body), key, None), "publish")

    def _check_subscribe(self, topic: str, queue: str | None, start: Start) -> None:
        pass


class _Aliases(_Faulty):
    """Base of those that take one topic for another."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        for alias in self._aliases(topic):
            await super()._send(alias, message, key, options)

    def _aliases(self, topic: str) -> list[str]:
        raise NotImplementedError


@mutant("test_topics_are_apart")
class IgnoresCase(_Aliases):
    """Topics that differ in case alone are one."""

    def _aliases(self, topic: str) -> list[str]:
        return list({topic, topic.lower()})


@mutant("test_topics_are_apart", "test_a_pattern_matches_where_patterns_are")
class MatchesPatterns(_Aliases):
    """Stars and prefixes are patterns to the server, and nobody says so."""

    def _aliases(self, topic: str) -> list[str]:
        head, _, _ = topic.rpartition(".")
        return [topic, f"{head}.*", head] if head else [topic]


@mutant("test_an_odd_topic_works_or_is_refused")
class DropsOddTopics(_Aliases):
    """What is published to a topic of odd signs goes nowhere."""

    def _aliases(self, topic: str) -> list[str]:
        return [topic] if topic.isascii() and "/" not in topic else []


# -- who gets it -----------------------------------------------------------------------------


@mutant("test_without_a_queue_everybody_gets_everything", "test_many_subscribers")
class LiveCompetes(_Faulty):
    """Subscriptions without a queue share the messages."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        queue = request.queue or "everybody"
        return await super()._receive(SubscribeRequest(request.topic, queue, request.prefetch))


@mutant("test_consumers_of_a_queue_compete", "test_consumers_in_one_client_compete")
class QueueIgnored(_Faulty):
    """Every consumer of a queue gets every message."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        return await super()._receive(SubscribeRequest(request.topic, None, request.prefetch))


@mutant("test_consumers_in_one_client_compete")
class QueueOfTheClient(_Faulty):
    """A queue is one subscription of each client to its server: its own all get everything."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        taken: set[Any] = self.notes.setdefault("taken", set())
        mine = (request.topic, request.queue)
        if request.queue is None or mine not in taken:
            taken.add(mine)
            return await super()._receive(request)
        return await super()._receive(SubscribeRequest(request.topic, None, request.prefetch))


@mutant("test_every_queue_gets_everything")
class OneQueueATopic(_Faulty):
    """Whatever its name, a queue is the one queue of its topic."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        queue = request.queue and "queue"
        return await super()._receive(SubscribeRequest(request.topic, queue, request.prefetch))


@mutant("test_a_queue_belongs_to_its_topic")
class QueuesSpanTopics(_Faulty):
    """A queue gets what is published to any topic on which somebody has its name."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        if request.queue:
            queue = self._exchange.queues[request.topic][request.queue]
            for queues in self._exchange.queues.values():
                if request.queue in queues:
                    queues[f"{request.queue} of {request.topic}"] = queue
        return cast(Deliveries, deliveries)


@mutant("test_a_subscription_is_effective_at_once", "test_a_queue_is_effective_at_once")
class ReturnsTooEarly(_Faulty):
    """From a client's fourth subscription on, subscribe returns before the server knows of it."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        count = self.notes["count"] = self.notes.get("count", 0) + 1
        return await super()._receive(request) if count < 4 else self._late(request)

    async def _late(self, request: SubscribeRequest) -> AsyncGenerator[Delivery, None]:
        for _ in range(20):
            await asyncio.sleep(0)
        deliveries: Any = await super()._receive(request)
        try:
            async for delivery in deliveries:
                yield delivery
        finally:
            await deliveries.aclose()


class _Log:
    """All that was ever published, by topic."""

    def __init__(self) -> None:
        self.sent: defaultdict[str, list[tuple[Message, bytes | None]]] = defaultdict(list)


class _Keeps(_Faulty):
    """Base of those that keep what was published, and give it to whom it is not owed."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        hub(_Log, self.address).sent[topic].append((message, key))
        await super()._send(topic, message, key, options)

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        new = request.queue not in self._exchange.queues.get(request.topic, {})
        deliveries: Any = await super()._receive(request)
        if new and self._owes(request):
            kept = iter(list(hub(_Log, self.address).sent[request.topic]))
            return _Early(deliveries, request.topic, kept)
        return cast(Deliveries, deliveries)

    def _owes(self, request: SubscribeRequest) -> bool:
        raise NotImplementedError


class _Early(_Changed):
    def __init__(self, inner: Deliveries, topic: str, kept: Any) -> None:
        super().__init__(inner, lambda delivery: None)
        self._topic = topic
        self._kept = kept

    async def __anext__(self) -> Delivery:
        for message, key in self._kept:
            return Delivery(self._topic, Message(dict(message.header), message.body), key)
        return await super().__anext__()


@mutant("test_a_new_queue_begins_now")
class NewQueueStartsEarliest(_Keeps):
    """A new queue begins with the earliest message."""

    def _owes(self, request: SubscribeRequest) -> bool:
        return request.queue is not None


@mutant("test_a_live_subscription_begins_now", "test_a_live_subscription_is_owed_nothing")
class LiveStartsEarliest(_Keeps):
    """A subscription without a queue begins with the earliest message."""

    def _owes(self, request: SubscribeRequest) -> bool:
        return request.queue is None


class _Replays(_Keeps):
    features = BrokerFeatures(queue=True, key=True, at_least_once=True, replay=True)

    def _owes(self, request: SubscribeRequest) -> bool:
        return request.start == "earliest"


@mutant("test_the_earliest_is_there_to_start_from", "test_a_new_queue_can_start_from_the_earliest")
class ReplaysNothing(_Faulty):
    """Replay is declared, and every start is now."""

    features = _Replays.features


@mutant("test_a_queue_keeps_what_nobody_has_taken", "test_a_consumer_that_comes_back_goes_on")
class QueueDiesWithItsConsumers(_Faulty):
    """A queue is gone with its last consumer, as one that is deleted automatically."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        queues = self._exchange.queues
        close = deliveries.aclose

        async def aclose() -> None:
            await close()
            queue = queues.get(request.topic, {}).get(request.queue or "")
            if queue is not None and not queue.consumers:
                del queues[request.topic][request.queue or ""]

        deliveries.aclose = aclose
        return cast(Deliveries, deliveries)


@mutant("test_what_was_not_acked_goes_to_another", "test_a_cancelled_handler_loses_nothing")
class LosesWhatAConsumerHad(_Faulty):
    """What a consumer had and had not acked is lost when it leaves."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        if request.queue is not None:
            close = deliveries.aclose

            async def aclose() -> None:
                deliveries._unacked.clear()
                await close()

            deliveries.aclose = aclose
        return cast(Deliveries, deliveries)


@mutant("test_consumers_leave_one_by_one")
class SendsToWhoLeft(_Faulty):
    """Once a consumer has left while others stay, messages of the queue go nowhere."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        most: dict[str, int] = self.notes.setdefault("most", {})
        consumers = max(
            (q.consumers for q in self._exchange.queues.get(topic, {}).values()), default=0
        )
        most[topic] = max(consumers, most.get(topic, 0))
        if not 0 < consumers < most[topic]:
            await super()._send(topic, message, key, options)


@mutant("test_unsubscribe_ends_it", "test_a_handler_can_end_its_own_subscription")
class UnsubscribesLate(_Faulty):
    """A subscription goes on for a while after unsubscribe has returned."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        subscription = await super().subscribe(topic, handler, **options)
        real = subscription.unsubscribe

        async def unsubscribe(*, grace: float = 5.0) -> None:
            if options.get("queue"):
                await real(grace=grace)

        subscription.unsubscribe = unsubscribe  # type: ignore[method-assign]
        self.notes.setdefault("late", []).append(real)
        return subscription

    async def _shut(self) -> None:
        for unsubscribe in self.notes.get("late", ()):
            await unsubscribe(grace=0)
        await super()._shut()


@mutant("test_subscriptions_come_and_go")
class LeaksTasks(_Faulty):
    """Each subscription beyond the fiftieth of a client leaves a task behind."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        tasks = self.notes.setdefault("tasks", [])
        tasks.append(asyncio.create_task(asyncio.sleep(1e9 if len(tasks) > 50 else 0)))
        return await super()._receive(request)


# -- what becomes of it ----------------------------------------------------------------------


@mutant(
    "test_a_message_is_not_acked_before_its_handler_ends",
    "test_a_cancelled_handler_loses_nothing",
    "test_nack_brings_it_back",
)
class AcksOnReceipt(_Faulty):
    """A message is acked as soon as it is received."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        if request.queue is None:
            return cast(Deliveries, deliveries)

        async def acked() -> AsyncIterator[Delivery]:
            try:
                async for delivery in deliveries:
                    await delivery.ack()
                    yield Delivery(delivery.topic, delivery.message, delivery.key)
            finally:
                await deliveries.aclose()

        return acked()  # type: ignore[return-value]


@mutant("test_nack_brings_it_back", "test_a_handler_that_raises_gets_it_again")
class NackIsAck(_Delivers):
    """A message that was nacked is done with."""

    def _change(self, delivery: Delivery) -> None:
        delivery.nack = delivery.ack


@mutant("test_a_handler_that_raises_gets_it_again")
class LosesOnHandlerErrors(_Faulty):
    """A message whose handler raised is acked, because nobody looked."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        async def careless(event: Event) -> None:
            try:
                await handler(event)
            except Exception:
                await event.ack()

        return await super().subscribe(topic, careless, **options)


@mutant("test_an_error_does_not_end_a_subscription")
class ErrorsEndSubscriptions(_Faulty):
    """A subscription ends at the first error of its handler."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        async def fragile(event: Event) -> None:
            try:
                await handler(event)
            except Exception:
                if not options.get("queue"):
                    await subscription.unsubscribe()
                raise

        subscription = await super().subscribe(topic, fragile, **options)
        return subscription


@mutant("test_a_poisonous_message_does_not_hold_up_others")
class PoisonBlocks(_Faulty):
    """A nacked message is delivered again before any other."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        if request.queue is not None:
            consumer: Any = deliveries

            async def nack(number: int) -> None:
                if (item := consumer._unacked.pop(number, None)) is not None:
                    consumer._queue.give_back([item])

            consumer._nack = nack
        return cast(Deliveries, deliveries)


@mutant("test_an_acked_message_does_not_come_back", "test_settling_twice_is_harmless")
class RedeliversAfterAck(_Delivers):
    """A message comes back for ever, acked or not."""

    def _change(self, delivery: Delivery) -> None:
        if delivery.ack is not Delivery(delivery.topic, delivery.message).ack:
            delivery.ack = delivery.nack


@mutant("test_an_acked_message_does_not_come_back", "test_drain_waits_for_what_runs")
class ForgetsAcks(_Delivers):
    """Acks do not reach the server: what was handled goes to the next consumer."""

    def _change(self, delivery: Delivery) -> None:
        if delivery.ack is not Delivery(delivery.topic, delivery.message).ack:
            delivery.ack = _nothing


@mutant("test_settling_twice_is_harmless")
class SettlesTwice(_Faulty):
    """A second ack or nack of an event is passed on, and the nack brings it back."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        async def reset(event: Event) -> None:
            delivery = event._delivery
            queued = delivery.nack is not Delivery(event.topic, event.message).nack

            async def nack() -> None:
                await self._send(event.topic, event.message, event.key, None)

            async def ack() -> None:
                await real()
                event.settled = False
                delivery.ack, delivery.nack = _nothing, nack

            real = delivery.ack
            if queued and not options.get("auto_ack", True):
                delivery.ack = ack
            await handler(event)

        return await super().subscribe(topic, reset, **options)


@mutant("test_unsubscribe_lets_handlers_end")
class CutsHandlersAtOnce(_Faulty):
    """Whatever grace is given, handlers are cancelled at once."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        subscription = await super().subscribe(topic, handler, **options)
        real = subscription.unsubscribe
        subscription.unsubscribe = lambda *, grace=5.0: real(grace=0)  # type: ignore[method-assign]
        return subscription


@mutant("test_drain_waits_for_what_runs", "test_drain_waits_for_acks_that_are_owed")
class DrainDoesNotWait(_Faulty):
    """A drain is an unsubscribe."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        subscription = await super().subscribe(topic, handler, **options)
        subscription.drain = lambda timeout: subscription.unsubscribe(grace=0)  # type: ignore[method-assign]
        return subscription


@mutant("test_drain_is_bounded", "test_closing_while_handling")
class WaitsForHandlers(_Faulty):
    """The end of a subscription waits for its handlers as long as they like."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        subscription = await super().subscribe(topic, handler, **options)
        real, drain = subscription.unsubscribe, subscription.drain
        subscription.drain = lambda timeout: drain(timeout * 60)  # type: ignore[method-assign]
        subscription.unsubscribe = lambda *, grace=5.0: real(grace=grace * 60)  # type: ignore[method-assign]
        return subscription


# -- order and bounds ------------------------------------------------------------------------


@mutant("test_one_publishers_messages_stay_in_order", "test_order_outlasts_a_slow_handler")
class Reorders(_Faulty):
    """Messages that wait are delivered in any order."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        if request.queue is None:
            buffer = deliveries._buffer
            offer = buffer.offer

            def shuffled(item: Any) -> bool:
                taken: bool = offer(item)
                random.Random(len(buffer)).shuffle(buffer._items)
                return taken

            buffer.offer = shuffled
        return cast(Deliveries, deliveries)


@mutant("test_messages_of_a_key_stay_in_order", "test_messages_of_a_key_stay_in_order_in_a_queue")
class IgnoresKeys(_Delivers):
    """Messages of one key are handled at the same time."""

    def _change(self, delivery: Delivery) -> None:
        count = self.notes["count"] = self.notes.get("count", 0) + 1
        if delivery.key is not None:
            delivery.key = b"%d|%b" % (count, delivery.key)

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        async def handle(event: Event) -> None:
            own = event.key
            event.key = own and own.partition(b"|")[2]
            try:
                await handler(event)
            finally:
                event.key = own

        return await super().subscribe(topic, handle, **options)


class _Subscribes(_Faulty):
    """Base of those that take an option for another."""

    forced: ClassVar[dict[str, Any]]

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        return await super().subscribe(topic, handler, **options | self.forced)


@mutant("test_concurrency_is_had_and_not_exceeded")
class IgnoresConcurrency(_Subscribes):
    """However many handlers are asked for, one runs at a time."""

    forced: ClassVar[dict[str, Any]] = {"concurrency": 1}


@mutant("test_one_handler_runs_at_a_time", "test_concurrency_is_had_and_not_exceeded")
class HandlesAllAtOnce(_Subscribes):
    """Every message gets a handler at once."""

    forced: ClassVar[dict[str, Any]] = {"concurrency": 50}


@mutant("test_prefetch_bounds_what_is_held")
class IgnoresPrefetch(_Subscribes):
    """Messages are delivered without bound."""

    forced: ClassVar[dict[str, Any]] = {"prefetch": 1_000_000}


@mutant(
    "test_a_slow_consumer_loses_nothing", "test_a_slow_subscriber_ends_in_a_typed_error_or_none"
)
class DropsWhenBehind(_Faulty):
    """What a subscriber that is behind has no room for is dropped, without a word."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        for buffer in self._exchange.buffers(topic):
            if len(buffer) >= 20:
                return
        await super()._send(topic, message, key, options)


@mutant("test_a_slow_subscriber_does_not_stop_another")
class OneStopsAll(_Faulty):
    """A subscriber that stands still stops the others of its client."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        lock = self.notes.setdefault("lock", asyncio.Lock())

        async def alone(event: Event) -> None:
            async with lock:
                await handler(event)

        return await super().subscribe(topic, alone, **options)


# -- the component ---------------------------------------------------------------------------


@mutant("test_what_was_published_before_close_arrives")
class BuffersPublishes(_Faulty):
    """Publish returns at once and sends a moment later, if the broker is still open by then."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        send = super()._send

        async def later() -> None:
            await asyncio.sleep(0.01)
            await send(topic, message, key, options)

        tasks = self.notes.setdefault("tasks", [])
        tasks.append(asyncio.create_task(later()))

    async def _close(self) -> None:
        for task in self.notes.pop("tasks", []):
            task.cancel()


@mutant("test_use_after_close_is_a_clear_error", "test_constructing_does_nothing")
class SwallowsErrors(_Faulty):
    """Publishing never raises what the backend says."""

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        try:
            await super().publish(topic, message, key=key, options=options)
        except BackendError:
            return


@mutant("test_connect_and_close_are_idempotent", "test_it_can_be_opened_again")
class OpensOnce(_Faulty):
    """What was closed once cannot be opened or closed again."""

    async def close(self) -> None:
        if self.notes.setdefault("shut", False):
            raise RuntimeError("closed already")
        await super().close()
        self.notes["shut"] = True


@mutant("test_closing_at_once", "test_closing_while_handling")
class CloseHangs(_Faulty):
    """Close waits for what never comes, if anybody is subscribed."""

    async def close(self) -> None:
        if self._subscriptions:
            await asyncio.sleep(12)
        await super().close()


@mutant("test_closing_while_publishing", "test_use_after_close_is_a_clear_error")
class WaitsForTheServer(_Faulty):
    """Publishing waits without bound until there is a connection."""

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        while True:
            try:
                return await super().publish(topic, message, key=key, options=options)
            except BackendUnavailable:
                await asyncio.sleep(0.5)


@mutant("test_closing_ends_its_subscriptions")
class CloseLeavesSubscriptions(_Faulty):
    """Close leaves subscriptions to themselves, as long as another client is connected."""

    async def _connect(self) -> None:
        await super()._connect()
        hub(_Left, self.address).clients.add(self)

    async def _shut(self) -> None:
        left = hub(_Left, self.address)
        left.clients.discard(self)
        left.subscriptions |= self._subscriptions
        self._subscriptions = set()
        await super()._shut()
        if not left.clients:
            for subscription in left.subscriptions:
                await subscription.unsubscribe(grace=0)


class _Left:
    """What closed clients have left, and the clients that are not closed."""

    def __init__(self) -> None:
        self.clients: set[MemoryBroker] = set()
        self.subscriptions: set[Subscription] = set()


@mutant("test_health_tells_the_truth")
class AlwaysConnected(_Faulty):
    """Health is connected, whatever happens."""

    def health(self) -> Health:
        return Health("connected", 0.0, 0.0)


@mutant("test_a_refusal_is_no_loss_of_health")
class RefusalsAreLosses(_Faulty):
    """A refused call counts as a lost connection."""

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        try:
            await super().publish(topic, message, key=key, options=options)
        except Exception as error:
            self._note_failure(error)
            raise


@mutant("test_it_belongs_to_its_loop")
class AnyLoop(_Faulty):
    """Use from another loop is taken, and goes wrong later."""

    def _check_home(self) -> None:
        if self._home is not None:
            return
        super()._check_home()


@mutant("test_a_cancelled_publish_harms_no_other")
class CancelledPublishBlocks(_Faulty):
    """A publish that was cancelled keeps the lock it had taken."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        lock = self.notes.setdefault("lock", asyncio.Lock())
        await lock.acquire()
        await super()._send(topic, message, key, options)
        lock.release()


@mutant("test_a_handler_can_publish")
class PublishWaitsForHandlers(_Faulty):
    """A publish returns when the message has been handled, by whoever publishes."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        async def handle(event: Event) -> None:
            lock = self.notes.setdefault("lock", asyncio.Lock())
            async with lock:
                await handler(event)

        return await super().subscribe(topic, handle if not options else handler, **options)

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        async with self.notes.setdefault("lock", asyncio.Lock()):
            await super()._send(topic, message, key, options)


@mutant("test_nobody_need_listen")
class NobodyIsAnError(_Faulty):
    """Publishing to a topic without subscribers is an error of no known type."""

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        if topic not in self.notes.setdefault("ever", set()) and not any(
            True for _ in self._exchange.buffers(topic)
        ):
            raise LookupError(topic)
        self.notes["ever"].add(topic)
        await super()._send(topic, message, key, options)


@mutant("test_many_topics")
class FewTopics(_Faulty):
    """A client can have sixty-four subscriptions, and no more."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        if len(self._subscriptions) >= 64:
            raise BackendRefused("too many subscriptions")
        return await super()._receive(request)


@mutant("test_many_clients_side_by_side")
class FewClients(_Faulty):
    """Of more than sixteen clients at the same time the later ones get no messages."""

    async def _connect(self) -> None:
        await super()._connect()
        clients = hub(_Left, self.address).clients
        clients.add(self)
        if len(clients) > 16:
            self._exchange = type(self._exchange)()

    async def _close(self) -> None:
        hub(_Left, self.address).clients.discard(self)

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        if len(hub(_Left, self.address).clients) > 16:
            request = SubscribeRequest("nothing", None)
        return await super()._receive(request)


@mutant("test_a_cancelled_subscribe_harms_no_other")
class CancelledSubscribeStays(_Faulty):
    """A subscribe that was cancelled leaves the broker deaf."""

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        try:
            await asyncio.sleep(0)
            return await super()._receive(request)
        except asyncio.CancelledError:
            self._exchange = type(self._exchange)()
            raise


@mutant("test_unsubscribing_again_is_harmless")
class UnsubscribesOnce(_Faulty):
    """Unsubscribing again is an error."""

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        subscription = await super().subscribe(topic, handler, **options)
        real = subscription.unsubscribe

        async def unsubscribe(*, grace: float = 5.0) -> None:
            if not subscription.open:
                raise LookupError("no such subscription")
            await real(grace=grace)

        subscription.unsubscribe = unsubscribe  # type: ignore[method-assign]
        return subscription


@mutant("test_subscribers_leaving_at_once")
class LeavingDisturbsOthers(_Faulty):
    """Of several subscriptions that leave at the same time one takes another's place away."""

    leaving = 0

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        deliveries: Any = await super()._receive(request)
        close = deliveries.aclose
        live = self._exchange.live

        async def aclose() -> None:
            type(self).leaving += 1
            await asyncio.sleep(0)
            if type(self).leaving > 5:
                live.get(request.topic, set()).clear()
            type(self).leaving -= 1
            await close()

        deliveries.aclose = aclose
        return cast(Deliveries, deliveries)


@mutant("test_settling_after_close_is_bounded")
class SettlingAfterCloseBreaks(_Faulty):
    """To ack an event of a closed broker is an error of no known type."""

    def _check_home(self) -> None:
        if self._home is None and self.notes.get("held"):
            raise RuntimeError("no loop")
        super()._check_home()

    async def subscribe(self, topic: str, handler: Handler, **options: Any) -> Subscription:
        self.notes["held"] = not options.get("auto_ack", True)
        return await super().subscribe(topic, handler, **options)
