"""What outlives its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

from micro_core import BackendError, Broker

from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Sink, Stuck, numbered, raises
from .ledger import Ledger

RECOVERY = 60.0  # seconds after its server's return in which everything has to work again
PUBLISHERS = 20


class Faults(Suite[Broker]):
    """messages: how many are published while the server is restarted."""

    messages: ClassVar[int] = 10_000

    @promise(breaks=True, real=True, timeout=180)
    async def test_publishing_to_a_server_that_is_away(self, lab: BrokerLab) -> None:
        """While its server is away, to publish is a typed error in time; later all works again."""
        await self._outage(lab, lab.backend.kill, lab.backend.start)

    @promise(breaks=True, real=True, timeout=180)
    async def test_publishing_to_a_server_that_is_frozen(self, lab: BrokerLab) -> None:
        """While its server is frozen, to publish is a typed error in time; later all works."""
        await self._outage(lab, lab.backend.pause, lab.backend.resume)

    async def _outage(
        self,
        lab: BrokerLab,
        fault: Callable[[], Awaitable[None]],
        mend: Callable[[], Awaitable[None]],
    ) -> None:
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        await lab.publish(broker, topic, [b"before"])
        await lab.gets(sink, [b"before"])
        async with _faulty(fault, mend):
            for _ in range(2):
                async with lab.within(broker.publish_timeout + 1, "publishing in an outage"):
                    with raises(BackendError):
                        await lab.publish(broker, topic, [b"during"])
            assert broker.health().state in ("lost", "degraded")
        await self._works_again(lab, broker, topic, sink)

    async def _works_again(self, lab: BrokerLab, broker: Broker, topic: str, sink: Sink) -> None:
        begin = asyncio.get_running_loop().time()
        marker = lab.name("marker").encode()

        async def works() -> bool:
            await lab.attempt(broker, topic, marker)
            return marker in sink.bodies

        await lab.eventually(works, "publishing and subscribing work again", within=RECOVERY)
        seconds = asyncio.get_running_loop().time() - begin
        lab.figure("seconds to recover", round(seconds, 2))
        assert broker.health().state == "connected"

    @promise(breaks=True, real=True, timeout=180)
    async def test_a_subscription_outlives_its_server(self, lab: BrokerLab) -> None:
        """Subscriptions, with a queue and without, go on by themselves after a restart."""
        broker, topic = await lab.new(), lab.topic()
        sinks = [await lab.listen(broker, topic)]
        if lab.features.queue:
            sinks.append(await lab.listen(broker, topic, queue="q"))
        for stop in (lab.backend.stop, lab.backend.kill):
            async with _faulty(stop, lab.backend.start):
                pass
            fresh = await lab.new()
            for sink in sinks:
                await self._works_again(lab, fresh, topic, sink)
        assert all(sink.subscription.open for sink in sinks)

    @promise(breaks=True, real=True, guarantee="survives_server", timeout=180)
    async def test_messages_outlive_their_server(self, lab: BrokerLab) -> None:
        """What was confirmed and not yet handled is there after its server was killed."""
        publisher, topic = await lab.new(), lab.topic()
        async with lab.make() as consumer:
            await lab.listen(consumer, topic, queue="q")
        await lab.publish(publisher, topic, numbered(200))
        async with _faulty(lab.backend.kill, lab.backend.start):
            pass
        sink = await lab.listen(await lab.new(), topic, queue="q")
        await lab.eventually(
            lambda: set(numbered(200)) <= set(sink.bodies), "all are there", within=RECOVERY
        )

    @promise(breaks=True, real=True, guarantee="survives_server", timeout=600)
    async def test_restarts_in_the_middle_lose_nothing(self, lab: BrokerLab) -> None:
        """With a server killed after a third of the messages, and stopped after half, none is lost.

        Twenty publishers publish each message until it is confirmed.
        """
        publisher, consumer, topic = await lab.new(), await lab.new(), lab.topic()
        ledger, bodies = Ledger(), numbered(self.messages)
        sink = await lab.listen(consumer, topic, queue="q")

        async def publish(batch: list[bytes]) -> None:
            for body in batch:
                await ledger.insist(publisher, topic, body, pause=0.1)

        async def restart(at: int, stop: Callable[[], Awaitable[None]]) -> None:
            await lab.eventually(lambda: len(ledger.ok) >= at, f"{at} published", within=240)
            async with _faulty(stop, lab.backend.start):
                pass

        async with asyncio.TaskGroup() as both:
            for number in range(PUBLISHERS):
                both.create_task(publish(bodies[number::PUBLISHERS]))
            await restart(len(bodies) // 3, lab.backend.kill)
            await restart(len(bodies) // 2, lab.backend.stop)
        try:
            await lab.eventually(
                lambda: not ledger.lost(sink.bodies), "nothing is lost", within=RECOVERY
            )
        finally:
            lab.figures |= ledger.figures(sink.bodies)

    @promise(breaks=True, real=True, timeout=180)
    async def test_subscribing_to_a_server_that_is_away(self, lab: BrokerLab) -> None:
        """While its server is away or frozen, to subscribe is a typed error within 6 s."""
        broker = await lab.new()
        for fault, mend in (
            (lab.backend.pause, lab.backend.resume),
            (lab.backend.kill, lab.backend.start),
        ):
            async with _faulty(fault, mend):
                async with lab.within(broker.operation_timeout + 1, "subscribing in an outage"):
                    with raises(BackendError):
                        await lab.listen(broker, lab.topic())

    @promise(breaks=True, real=True, timeout=180)
    async def test_closing_is_bounded_whatever_the_server_does(self, lab: BrokerLab) -> None:
        """Closing a broker takes at most 8 s while its server is frozen, or is gone."""
        for fault, mend in (
            (lab.backend.pause, lab.backend.resume),
            (lab.backend.kill, lab.backend.start),
        ):
            broker, topic = lab.make(), lab.topic()
            await broker.connect()
            stuck = await lab.give(broker, topic, Stuck(), queue=lab.queue)
            await lab.publish(broker, topic, numbered(3))
            await lab.eventually(lambda stuck=stuck: stuck.events, "a handler runs")  # type: ignore[misc]
            async with _faulty(fault, mend):
                publishing = asyncio.create_task(lab.attempt(broker, topic))
                await asyncio.sleep(0)
                async with lab.within(8, "close"):
                    await broker.close()
                await broker.close()
                async with lab.within(broker.publish_timeout + 1, "the publish"):
                    await publishing


@asynccontextmanager
async def _faulty(
    fault: Callable[[], Awaitable[None]], mend: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Mended whatever happens, also to a test that is cut off."""
    await fault()
    try:
        yield
    finally:
        await mend()
