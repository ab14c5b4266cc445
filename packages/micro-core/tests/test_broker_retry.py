"""Retry in place and dead letters."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from in_loops import in_loop, until

from micro_core.broker.base import BrokerFeatures, PublishOptions
from micro_core.broker.memory import MemoryBroker
from micro_core.broker.retry import retrying
from micro_core.broker.subscription import Event
from micro_core.errors import BackendUnavailable, CodecError, NotFound
from micro_core.message import Message

QUICK = (0.001, 0.005)


class Handler:
    """Fails for bodies that start with ``bad``, as often as it is told."""

    def __init__(self, error: Exception, failures: int = 1000) -> None:
        self.error = error
        self.failures = failures
        self.tries: Counter[bytes] = Counter()
        self.attempts: list[int] = []
        self.done: list[bytes] = []

    async def __call__(self, event: Event) -> None:
        body = event.message.body
        self.tries[body] += 1
        if body.startswith(b"bad"):
            self.attempts.append(event.attempts)
            if self.tries[body] <= self.failures:
                raise self.error
        self.done.append(body)


async def letters(broker: MemoryBroker, topic: str = "t.dead") -> list[Event]:
    found: list[Event] = []

    async def keep(event: Event) -> None:
        found.append(event)

    await broker.subscribe(topic, keep)
    return found


@in_loop
async def test_retried_in_place_and_in_order_until_it_works() -> None:
    handler = Handler(ValueError("not yet"), failures=3)
    async with MemoryBroker() as broker:
        dead = await letters(broker)
        await broker.subscribe("t", retrying(handler, broker, backoff=QUICK), queue="q")
        for body in (b"one", b"bad", b"two"):
            await broker.publish("t", Message(body=body))
        await until(lambda: len(handler.done) == 3)
        assert handler.done == [b"one", b"bad", b"two"]
        assert handler.attempts == [1, 2, 3, 4]
        assert dead == []


@pytest.mark.parametrize("auto_ack", [True, False])
@in_loop
async def test_poison_is_tried_five_times_and_becomes_a_dead_letter(auto_ack: bool) -> None:
    handler = Handler(NotFound("no such\r\norder ☃"))
    retried_handler = handler if auto_ack else acking(handler)
    async with MemoryBroker() as broker:
        dead = await letters(broker)
        retried = retrying(retried_handler, broker, backoff=QUICK)
        subscription = await broker.subscribe("t", retried, queue="q", auto_ack=auto_ack)
        await broker.publish("t", Message({"Id": "7", "Content-Type": "text/x"}, b"bad"), key=b"k")
        for number in range(20):
            await broker.publish("t", Message(body=b"%d" % number))
        await until(lambda: len(handler.done) == 20 and len(dead) == 1)
        assert handler.tries[b"bad"] == 5
        assert dead[0].message == Message(
            {
                "Id": "7",
                "Content-Type": "text/x",
                "Micro-Error": r"NotFound: no such order \u2603",
                "Micro-Attempts": "5",
                "Micro-Topic": "t",
                "Micro-From-Topic": "t",
            },
            b"bad",
        )
        assert dead[0].key == b"k"
        await subscription.unsubscribe()
        assert not broker._exchange.queues["t"]["q"]


def acking(handler: Handler) -> Callable[[Event], Awaitable[None]]:
    async def handle(event: Event) -> None:
        await handler(event)
        await event.ack()

    return handle


@in_loop
async def test_what_does_not_decode_is_a_dead_letter_at_once() -> None:
    handler = Handler(CodecError("JSON: malformed"))
    async with MemoryBroker() as broker:
        dead = await letters(broker)
        await broker.subscribe("t", retrying(handler, broker), queue="q")
        for number in range(100):
            await broker.publish("t", Message(body=b"bad%d" % number))
            await broker.publish("t", Message(body=b"%d" % number))
        await until(lambda: len(dead) == 100 and len(handler.done) == 100)
        assert set(handler.tries.values()) == {1}
        assert {event.message.header["Micro-Attempts"] for event in dead} == {"1"}


class Deaf(MemoryBroker):
    """Refuses dead letters until told otherwise."""

    name = "deaf"
    refuses = True
    features = BrokerFeatures(queue=True, at_least_once=True)

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        if self.refuses and topic.endswith(".dead"):
            raise BackendUnavailable("no dead letters today")
        await super()._send(topic, message, key, options)


@in_loop
async def test_a_dead_letter_that_cannot_be_published_leaves_the_message_in_the_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = Handler(ValueError("bad"))
    async with Deaf() as broker:
        dead = await letters(broker)
        retried = retrying(handler, broker, attempts=2, backoff=QUICK)
        subscription = await broker.subscribe("t", retried, queue="q")
        with caplog.at_level(logging.DEBUG, logger="micro.broker"):
            await broker.publish("t", Message(body=b"bad payload-4711"))
            await until(lambda: subscription.failed == 2)
        assert dead == []
        broker.refuses = False
        await until(lambda: len(dead) == 1)
        assert dead[0].message.body == b"bad payload-4711"
    assert "no dead letters today" in caplog.text
    assert "payload-4711" not in caplog.text


@in_loop
async def test_without_dead_letters_the_last_error_is_raised() -> None:
    handler = Handler(ValueError("bad"), failures=4)
    async with MemoryBroker() as broker:
        dead = await letters(broker)
        retried = retrying(handler, broker, attempts=2, backoff=QUICK, dead_letters=False)
        subscription = await broker.subscribe("t", retried, queue="q")
        await broker.publish("t", Message(body=b"bad"))
        await until(lambda: handler.done == [b"bad"])
        assert (subscription.failed, dead) == (2, [])


@in_loop
async def test_an_event_that_the_handler_settled_is_not_tried_again() -> None:
    tries = 0

    async def handler(event: Event) -> None:
        nonlocal tries
        tries += 1
        await event.ack()
        raise ValueError("after the ack")

    async with MemoryBroker() as broker:
        dead = await letters(broker)
        retried = retrying(handler, broker, backoff=QUICK)
        subscription = await broker.subscribe("t", retried, queue="q", auto_ack=False)
        await broker.publish("t", Message(body=b"x"))
        await until(lambda: subscription.failed == 1)
        assert (tries, dead) == (1, [])


@in_loop
async def test_a_foreign_header_that_no_publish_accepts_does_not_stop_a_dead_letter() -> None:
    class Foreign(MemoryBroker):
        name = "foreign"

        async def _receive(self, request: Any) -> Any:
            deliveries = await super()._receive(request)
            if request.topic == "t":
                take = deliveries.__anext__

                async def spoiled() -> Any:
                    delivery = await take()
                    delivery.message.header |= {"bad name": "x", "Split": "a\r\nb", "Good": "g"}
                    return delivery

                return Spoiled(spoiled, deliveries)
            return deliveries

    class Spoiled:
        def __init__(self, take: Any, inner: Any) -> None:
            self._take, self._inner = take, inner

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            return await self._take()

        async def aclose(self) -> None:
            await self._inner.aclose()

    async with Foreign() as broker:
        dead = await letters(broker)
        handler = Handler(CodecError("x"))
        await broker.subscribe("t", retrying(handler, broker), queue="q")
        await broker.publish("t", Message(body=b"bad"))
        await until(lambda: len(dead) == 1)
        header = dead[0].message.header
        assert header["Good"] == "g"
        assert not {"bad name", "Bad name", "Split"} & set(header)


@in_loop
async def test_a_shutdown_between_attempts_leaves_the_message_in_the_queue() -> None:
    handler = Handler(ValueError("bad"))
    async with MemoryBroker() as broker:
        dead = await letters(broker)
        retried = retrying(handler, broker, backoff=(100.0, 100.0))
        subscription = await broker.subscribe("t", retried, queue="q")
        await broker.publish("t", Message(body=b"bad"))
        await until(lambda: handler.tries[b"bad"] == 1)
        await subscription.unsubscribe(grace=0)
        assert len(broker._exchange.queues["t"]["q"]) == 1
        assert dead == []
