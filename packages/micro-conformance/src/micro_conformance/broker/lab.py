"""Messages to publish, and handlers that keep what they get."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from micro_core import Broker, Event, Message
from micro_core.broker.subscription import Subscription

from ..lab import Lab
from .ledger import Outcome, outcome_of


class Sink:
    """A handler that keeps its events. ``subscription`` is the one it was given to."""

    subscription: Subscription

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def bodies(self) -> list[bytes]:
        return [event.message.body for event in self.events]


class Slow(Sink):
    """Takes longer than it takes to publish, so that messages have to wait."""

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        await asyncio.sleep(0.002)


class Stuck(Sink):
    """Keeps an event, then waits for the gate; ``done`` are those that passed it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.done: list[bytes] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        await self.gate.wait()
        self.done.append(event.message.body)


class Failing(Sink):
    """Keeps an event, then raises ``error`` for its first ``times``."""

    def __init__(self, times: int, error: type[BaseException] = ValueError) -> None:
        super().__init__()
        self._times = times
        self._error = error

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) <= self._times:
            raise self._error("as the test wants it")


S = TypeVar("S", bound=Sink)


class BrokerLab(Lab[Broker]):
    def topic(self) -> str:
        return self.name("topic")

    @property
    def queue(self) -> str | None:
        """A queue where the plugin has queues."""
        return "q" if self.features.queue else None

    @property
    def _settle(self) -> float:
        suite: Any = self.suite
        return float(suite.settle)

    async def listen(self, broker: Broker, topic: str, **options: Any) -> Sink:
        """Subscribe with a handler that keeps what it gets."""
        return await self.give(broker, topic, Sink(), **options)

    async def give(self, broker: Broker, topic: str, sink: S, **options: Any) -> S:
        """Subscribe with this handler; returns it."""
        sink.subscription = await broker.subscribe(topic, sink, **options)
        return sink

    async def publish(
        self, broker: Broker, topic: str, bodies: Iterable[bytes], *, key: bytes | None = None
    ) -> None:
        """One after the other."""
        for body in bodies:
            await broker.publish(topic, Message({}, body), key=key)

    async def attempt(self, broker: Broker, topic: str, body: bytes = b"x") -> Outcome:
        """Publish once, and what became of it."""
        return await outcome_of(broker, topic, body)

    async def gets(self, sinks: Sink | Sequence[Sink], bodies: Iterable[bytes]) -> None:
        """Return once all the sinks together have got these bodies; each of them once."""
        many = [sinks] if isinstance(sinks, Sink) else sinks
        wanted = Counter(bodies)

        def missing() -> Counter[bytes]:
            return wanted - Counter(body for sink in many for body in sink.bodies)

        await self.eventually(
            lambda: not missing(), f"all {wanted.total()} messages have been handled"
        )
        extra = Counter(body for sink in many for body in sink.bodies) - wanted
        assert not extra, f"handled, though it was not to be or more than once: {_some(extra)}"

    async def gets_no_more(self, sinks: Sink | Sequence[Sink], bodies: Iterable[bytes]) -> None:
        """:meth:`gets`, and nothing else for a while."""
        wanted = list(bodies)
        await self.gets(sinks, wanted)
        await self.quiet()
        await self.gets(sinks, wanted)

    async def quiet(self) -> None:
        """As long as what should not come is waited for."""
        await asyncio.sleep(self._settle)

    @asynccontextmanager
    async def within(self, seconds: float, what: str) -> AsyncIterator[None]:
        """Fails when the block takes longer."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise AssertionError(f"takes longer than {seconds:g} s: {what}") from None


def numbered(count: int, prefix: str = "") -> list[bytes]:
    """So many different bodies, in their order."""
    return [f"{prefix}{number:05}".encode() for number in range(count)]


@contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[list[BaseException]]:
    """Fails unless the block raises one of these; gives it in a list."""
    caught: list[BaseException] = []
    try:
        yield caught
    except kinds as error:
        caught.append(error)
        return
    raise AssertionError(f"nothing was raised: {' or '.join(kind.__name__ for kind in kinds)}")


def _some(extra: Counter[bytes]) -> list[bytes]:
    return [body[:60] for body in list(extra)[:5]]
