"""A subscription: deliveries to a handler, whatever happens to the backend in between."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..backoff import Backoff
from ..context import detached
from ..errors import BackendUnavailable, InternalError
from ..message import Message
from ..timing import Signal, end, now

if TYPE_CHECKING:
    from .base import Broker, Deliveries, Delivery, Handler, SubscribeRequest

log = logging.getLogger("micro.broker")

_CUT = 1.0  # seconds that cancelled handlers, and then the driver's closing, may take
_BURST = 16  # deliveries handled without the loop's other tasks having had a turn


async def nothing() -> None:
    """The ack and nack of a backend that has none."""


class Event:
    """One delivery. ``attempts`` counts the handler's runs for it in this process.

    The first ``ack`` or ``nack`` settles it and raises BackendError when the backend did not take
    it, in which case a queue delivers the message again. Any later one does nothing.
    """

    __slots__ = ("_delivery", "_subscription", "attempts", "key", "message", "settled", "topic")

    def __init__(self, subscription: Subscription, delivery: Delivery) -> None:
        self.topic: str = delivery.topic
        self.message: Message = delivery.message
        self.key: bytes | None = delivery.key
        self.attempts = 1
        self.settled = False
        self._subscription = subscription
        self._delivery = delivery

    async def ack(self) -> None:
        """The message is done with."""
        await self._settle(self._delivery.ack, "ack")

    async def nack(self) -> None:
        """The message is to be delivered again, where the backend has that."""
        await self._settle(self._delivery.nack, "nack")

    async def _settle(self, operation: Callable[[], Awaitable[None]], what: str) -> None:
        if self.settled:
            return
        broker = self._subscription._broker
        if operation is not nothing:
            broker._check_home()
        self.settled = True
        try:
            if operation is not nothing:
                await broker._ask(operation(), f"{what} {self.topic}")
        finally:
            self._subscription._count(-1, 0)


class _Lanes:
    """Up to ``width`` handlers at a time; events of one key one after the other."""

    def __init__(self, width: int, handle: Callable[[Event], Awaitable[None]]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._width = width
        self._handle = handle
        self._lanes: dict[object, deque[Event]] = {}  # by key; an event without has its own
        self._ready: deque[object] = deque()  # keys of lanes that wait for a handler

    async def take(self, event: Event) -> None:
        """Returns after the handler where there is but one, so that it needs no other task."""
        key = event if event.key is None else event.key
        if self._width == 1:
            await self._handle(event)
        elif key in self._lanes:
            self._lanes[key].append(event)
        else:
            self._lanes[key] = deque([event])
            self._ready.append(key)
            if len(self.tasks) < self._width:
                self.tasks.add(asyncio.create_task(self._work(), name=f"micro-lane {event.topic}"))

    def clear(self) -> list[Event]:
        """Forget what no handler has begun with; returns it."""
        waiting = [event for lane in self._lanes.values() for event in lane]
        self._lanes.clear()
        self._ready.clear()
        return waiting

    async def _work(self) -> None:
        try:
            while self._ready:
                key = self._ready.popleft()
                await self._handle(self._lanes[key].popleft())
                if self._lanes.get(key):
                    self._ready.append(key)
                else:
                    self._lanes.pop(key, None)
        finally:
            self.tasks -= {asyncio.current_task()}


class Subscription:
    """Made by :meth:`Broker.subscribe`; ends with :meth:`unsubscribe`, :meth:`drain` or the
    broker's ``close``.

    Whatever the backend does, the subscription goes on: deliveries that end or raise are closed
    and asked for again, with backoff from 0.1 to 5 s. ``handled`` and ``failed`` count returns and
    exceptions of the handler, ``reopened`` the times the backend had to be asked again.

    A handler that raises gets its message again after a delay that grows with the failures in a
    row (0.1 to 5 s, full jitter), where the backend redelivers; that holds without ``auto_ack``
    as well, unless the handler settled the event before it raised.
    """

    def __init__(
        self,
        broker: Broker,
        request: SubscribeRequest,
        handler: Handler,
        auto_ack: bool,
        concurrency: int,
    ) -> None:
        self.topic = request.topic
        self.queue = request.queue
        self.handled = 0
        self.failed = 0
        self.reopened = 0
        self._broker = broker
        self._request = request
        self._handler = handler
        self._auto_ack = auto_ack
        self._held = 0  # delivered and not settled
        self._busy = 0  # delivered and its handler not done
        self._counted = Signal()  # one of the two
        self._lanes = _Lanes(concurrency, self._handle)
        self._delays = Backoff()
        self._stopped = asyncio.Event()
        self._over = False  # what still comes is not for the handler
        self._deliveries: Deliveries | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._gate = asyncio.Lock()

    @property
    def open(self) -> bool:
        """Whether the backend delivers, as far as is known."""
        return self._deliveries is not None and not self._stopped.is_set()

    async def begin(self) -> None:
        """Returns once effective on the server; the broker's to call."""
        self._deliveries = await self._open()
        self._broker._subscriptions.add(self)
        with detached():  # not the deadline of the call in which somebody subscribed
            self._task = asyncio.create_task(self._run(), name=f"micro-subscription {self.topic}")

    # -- the end -----------------------------------------------------------------------------

    async def stop_fetching(self) -> None:
        """Hand nothing more to the handler; those that run go on.

        What the backend will deliver again is left to it. What it will not, because it has no
        acks, is still handled if it was accepted before.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        stop = getattr(self._deliveries, "stop", None)
        if stop is not None:
            await self._bounded(stop(), "stop")
            return
        self._over = True
        for event in self._lanes.clear():
            event.settled = True
            self._count(-1, -1)

    async def drain(self, timeout: float) -> None:
        """Unsubscribe after up to ``timeout`` seconds for handlers and for acks still owed."""
        await self._leave(lambda: not self._held, timeout)

    async def unsubscribe(self, *, grace: float = 5.0) -> None:
        """Take no more, give running handlers ``grace`` seconds, cancel the rest, and leave.

        What a cancelled handler had is neither acked nor nacked. Idempotent. Called by the handler
        itself it returns at once, and the subscription ends after the handler.
        """
        await self._leave(lambda: not self._busy, grace)

    async def _leave(self, done: Callable[[], bool], timeout: float) -> None:
        if asyncio.current_task() not in self._tasks():
            await self._end(done, timeout)
        elif self._ending is None:
            self._ending = asyncio.create_task(self._end(done, timeout), name="micro-unsubscribe")

    async def _end(self, done: Callable[[], bool], timeout: float) -> None:
        await self.stop_fetching()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if self._task is not None and not self._over:
                    await asyncio.wait([self._task])  # the driver ends its iterator once empty
                await self._counted.until(done)
        async with self._gate:
            if self._busy:
                log.warning("%s: %d handlers cut off by the end", self, self._busy)
            await end(*self._tasks(), self._ending, limit=_CUT)
            await self._close_deliveries()
            self._broker._subscriptions.discard(self)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (*self._lanes.tasks, self._task) if task]

    # -- the consume loop --------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopped.is_set():
            opened = now()
            try:
                await self._consume(backoff)
            except (Exception, asyncio.CancelledError) as error:
                await self._broken(_not_ours(error))
            await self._pause(backoff.next(worked=now() - opened))

    async def _consume(self, backoff: Backoff) -> None:
        """Returns when fetching stops, and raises when the backend ends or fails."""
        if self._deliveries is None:
            self._deliveries = await self._open()
            self.reopened += 1
        burst = 0
        async for delivery in self._deliveries:
            backoff.reset()
            if not self._over:
                self._count(1, 1)
                await self._lanes.take(Event(self, delivery))
                await self._counted.until(lambda: self._held < self._request.prefetch)
            if self._over:
                return
            burst = (burst + 1) % _BURST
            if not burst:
                await asyncio.sleep(0)
        if not self._stopped.is_set():
            raise BackendUnavailable("the backend ended the deliveries")

    async def _open(self) -> Deliveries:
        return await self._broker._ask(
            self._broker._receive(self._request), f"subscribe {self.topic}"
        )

    async def _broken(self, error: Exception) -> None:
        self._broker._note_failure(error)
        if not self._stopped.is_set():
            log.warning("%s broke and is opened again: %r", self, error)
        await self._close_deliveries()

    async def _close_deliveries(self) -> None:
        deliveries, self._deliveries = self._deliveries, None
        if deliveries is not None:
            await self._bounded(deliveries.aclose(), "close")

    async def _bounded(self, operation: Awaitable[None], what: str) -> None:
        try:
            async with asyncio.timeout(_CUT):
                await operation
        except Exception as error:
            log.warning("%s did not %s well: %r", self, what, error)

    async def _pause(self, delay: float) -> None:
        """``delay`` seconds, or until fetching stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopped.wait()

    # -- one event ---------------------------------------------------------------------------

    async def _handle(self, event: Event) -> None:
        try:
            await self._handler(event)
        except (Exception, asyncio.CancelledError) as error:
            await self._fail(event, _not_ours(error))
        else:
            self.handled += 1
            self._delays.reset()
            if self._auto_ack:
                await self._settle(event.ack)
        finally:
            self._count(0, -1)

    def _count(self, held: int, busy: int) -> None:
        self._held += held
        self._busy += busy
        self._counted.set()

    async def _fail(self, event: Event, error: Exception) -> None:
        self.failed += 1
        log.error("%s: handler failed at attempt %d", self, event.attempts, exc_info=error)
        if event.settled:
            return
        if event._delivery.nack is not nothing:  # it brings the message back
            await self._pause(self._delays.next())
        await self._settle(event.nack)

    async def _settle(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except Exception as error:
            log.warning("%s: %r; the message may be delivered again", self, error)

    def __str__(self) -> str:
        queue = f" queue {self.queue}" if self.queue else ""
        return f"broker {self._broker.name}: subscription to {self.topic}{queue}"


def _not_ours(error: Exception | asyncio.CancelledError) -> Exception:
    """Raises our own cancellation; one that merely came out of what was awaited is an error."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    return InternalError("what was awaited was cancelled from within")
