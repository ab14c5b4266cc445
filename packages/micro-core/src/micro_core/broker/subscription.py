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
from ..timing import now
from .buffer import Buffer

if TYPE_CHECKING:
    from .base import Broker, Deliveries, Delivery, Handler, SubscribeRequest

log = logging.getLogger("micro.broker")

_LONG = 5.0  # seconds after which a connection that broke counts as having worked
_CUT = 1.0  # seconds that cancelled handlers, and then the driver's closing, may take
_BURST = 16  # deliveries handled without the loop's other tasks having had a turn


async def nothing() -> None:
    """The ack and nack of a backend that has none."""


class _Count:
    """A number that can be waited for to fall."""

    def __init__(self) -> None:
        self.value = 0
        self._fell = asyncio.Event()

    def up(self) -> None:
        self.value += 1

    def down(self) -> None:
        self.value -= 1
        self._fell.set()

    async def below(self, limit: int) -> None:
        while self.value >= limit:
            self._fell.clear()
            await self._fell.wait()


class Event:
    """One delivery. ``attempts`` counts the handler's runs for it in this process.

    The first ``ack`` or ``nack`` settles it and raises BackendError when the backend did not take
    it, in which case a queue delivers the message again. Any later one does nothing.
    """

    __slots__ = ("_broker", "_delivery", "_held", "attempts", "key", "message", "settled", "topic")

    def __init__(self, broker: Broker, delivery: Delivery, held: _Count) -> None:
        self.topic: str = delivery.topic
        self.message: Message = delivery.message
        self.key: bytes | None = delivery.key
        self.attempts = 1
        self.settled = False
        self._broker = broker
        self._delivery = delivery
        self._held = held
        held.up()

    async def ack(self) -> None:
        """The message is done with."""
        await self._settle(self._delivery.ack, "ack")

    async def nack(self) -> None:
        """The message is to be delivered again, where the backend has that."""
        await self._settle(self._delivery.nack, "nack")

    @property
    def _returns(self) -> bool:
        """Whether a nack brings the message back."""
        return self._delivery.nack is not nothing

    def _abandon(self) -> None:
        """Settle it without a word to the backend, which delivers it again where it can."""
        self.settled = True
        self._held.down()

    async def _settle(self, operation: Callable[[], Awaitable[None]], what: str) -> None:
        if self.settled:
            return
        if operation is nothing:
            self._abandon()
            return
        self._broker._check_home()
        self.settled = True
        try:
            await self._broker._ask(operation(), f"{what} {self.topic}")
        finally:
            self._held.down()


class _Lanes:
    """Up to ``width`` handlers at a time; events of one key one after the other."""

    def __init__(self, width: int, handle: Callable[[Event], Awaitable[None]]) -> None:
        self._width = width
        self._handle = handle
        self._ready: Buffer[Event] = Buffer()
        self._behind: dict[bytes, deque[Event]] = {}
        self._idle = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def take(self, event: Event) -> None:
        if event.key is not None:
            behind = self._behind.get(event.key)
            if behind is not None:
                behind.append(event)
                return
            self._behind[event.key] = deque()
        self._ready.offer(event)
        if len(self._ready) > self._idle and len(self.tasks) < self._width:
            self.tasks.add(asyncio.create_task(self._work(), name="micro-lane"))

    def clear(self) -> list[Event]:
        """Forget what no handler has begun with; returns it."""
        waiting = [event for behind in self._behind.values() for event in behind]
        self._behind.clear()
        return self._ready.clear() + waiting

    async def _work(self) -> None:
        while True:
            self._idle += 1
            try:
                event = await self._ready.get()
            finally:
                self._idle -= 1
            await self._handle(event)
            self._next(event.key)

    def _next(self, key: bytes | None) -> None:
        if key is None or (behind := self._behind.get(key)) is None:
            return
        if behind:
            self._ready.offer(behind.popleft())
        else:
            del self._behind[key]


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
        self._held = _Count()  # delivered and not settled
        self._busy = _Count()  # delivered and its handler not done
        self._lanes = _Lanes(concurrency, self._handle) if concurrency > 1 else None
        self._delays = Backoff()
        self._stopped = asyncio.Event()
        self._drains = False  # the driver ends its iterator itself once it is empty
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
            self._drains = True
            await self._bounded(stop(), "stop")
            return
        for event in self._lanes.clear() if self._lanes else ():
            event._abandon()
            self._busy.down()

    async def drain(self, timeout: float) -> None:
        """Unsubscribe after up to ``timeout`` seconds for handlers and for acks still owed."""
        await self._leave(self._held, timeout)

    async def unsubscribe(self, *, grace: float = 5.0) -> None:
        """Take no more, give running handlers ``grace`` seconds, cancel the rest, and leave.

        What a cancelled handler had is neither acked nor nacked. Idempotent. Called by the handler
        itself it returns at once, and the subscription ends after the handler.
        """
        await self._leave(self._busy, grace)

    async def _leave(self, left: _Count, timeout: float) -> None:
        if asyncio.current_task() not in self._tasks():
            await self._end(left, timeout)
        elif self._ending is None:
            self._ending = asyncio.create_task(self._end(left, timeout), name="micro-unsubscribe")

    async def _end(self, left: _Count, timeout: float) -> None:
        await self.stop_fetching()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if self._drains and self._task is not None:
                    await asyncio.wait([self._task])
                await left.below(1)
        await self._cut()

    async def _cut(self) -> None:
        async with self._gate:
            if self._busy.value:
                log.warning("%s: %d handlers cut off by the end", self, self._busy.value)
            await self._cancel()
            await self._close_deliveries()
            self._broker._subscriptions.discard(self)

    async def _cancel(self) -> None:
        ending = [self._ending] if self._ending else []
        tasks = [t for t in (*self._tasks(), *ending) if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CUT)
            for task in late:
                log.error("%s: %s ignores its cancellation", self, task.get_name())

    def _tasks(self) -> list[asyncio.Task[None]]:
        lanes = self._lanes.tasks if self._lanes else ()
        return [*lanes, self._task] if self._task else []

    # -- the consume loop --------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopped.is_set():
            opened = now()
            try:
                await self._consume(backoff)
            except asyncio.CancelledError as error:
                _raise_if_ours(error)
                await self._broken(error)
            except Exception as error:
                await self._broken(error)
            if self._stopped.is_set():
                return
            if now() - opened > _LONG:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _consume(self, backoff: Backoff) -> None:
        """Returns when fetching stops, and raises when the backend ends or fails."""
        if self._deliveries is None:
            self._deliveries = await self._open()
            self.reopened += 1
        burst = 0
        async for delivery in self._deliveries:
            if self._stopped.is_set() and not self._drains:
                return
            backoff.reset()
            await self._take(Event(self._broker, delivery, self._held))
            await self._held.below(self._request.prefetch)
            if self._stopped.is_set() and not self._drains:
                return
            burst = (burst + 1) % _BURST
            if not burst:
                await asyncio.sleep(0)
        if not self._stopped.is_set():
            raise BackendUnavailable("the backend ended the deliveries")

    async def _take(self, event: Event) -> None:
        self._busy.up()
        if self._lanes is None:
            await self._handle(event)
        else:
            self._lanes.take(event)

    async def _open(self) -> Deliveries:
        return await self._broker._ask(
            self._broker._receive(self._request), f"subscribe {self.topic}"
        )

    async def _broken(self, error: BaseException) -> None:
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

    # -- one event ---------------------------------------------------------------------------

    async def _handle(self, event: Event) -> None:
        try:
            await self._handler(event)
        except asyncio.CancelledError as error:
            _raise_if_ours(error)
            await self._fail(event, InternalError("the handler was cancelled from within"))
        except Exception as error:
            await self._fail(event, error)
        else:
            self.handled += 1
            self._delays.reset()
            if self._auto_ack:
                await self._settle(event.ack)
        finally:
            self._busy.down()

    async def _fail(self, event: Event, error: Exception) -> None:
        self.failed += 1
        log.error("%s: handler failed at attempt %d", self, event.attempts, exc_info=error)
        if event.settled:
            return
        if event._returns:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._delays.next()):
                    await self._stopped.wait()
        await self._settle(event.nack)

    async def _settle(self, operation: Callable[[], Awaitable[None]]) -> None:
        try:
            await operation()
        except Exception as error:
            log.warning("%s: %r; the message may be delivered again", self, error)

    def __str__(self) -> str:
        queue = f" queue {self.queue}" if self.queue else ""
        return f"broker {self._broker.name}: subscription to {self.topic}{queue}"


def _raise_if_ours(error: asyncio.CancelledError) -> None:
    """Tell our own cancellation from one that merely came out of what was awaited."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
