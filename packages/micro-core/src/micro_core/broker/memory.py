"""The memory broker: topics inside one event loop, for tests and for parts of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from ..errors import BackendRefused
from ..hub import hub
from ..message import Message
from .base import (
    Broker,
    BrokerFeatures,
    Deliveries,
    Delivery,
    PublishOptions,
    SubscribeRequest,
)
from .buffer import Buffer


class _Item(NamedTuple):
    topic: str
    message: Message
    key: bytes | None

    def delivery(self) -> Delivery:
        message = Message(dict(self.message.header), self.message.body)
        return Delivery(self.topic, message, self.key)


class _Queue(Buffer[_Item]):
    """Competing consumers; it stays when the last of them goes."""

    consumers = 0


class _Exchange:
    """What the memory brokers of one name in one loop share."""

    def __init__(self) -> None:
        self.live: dict[str, set[Buffer[_Item]]] = {}
        self.queues: dict[str, dict[str, _Queue]] = {}

    def buffers(self, topic: str) -> Iterator[Buffer[_Item]]:
        yield from self.queues.get(topic, {}).values()
        yield from self.live.get(topic, ())

    def queue(self, topic: str, name: str, limit: int) -> _Queue:
        return self.queues.setdefault(topic, {}).setdefault(name, _Queue(limit))

    def forget(self, topic: str, buffer: Buffer[_Item]) -> None:
        live = self.live.get(topic, set())
        live.discard(buffer)
        if not live:
            self.live.pop(topic, None)


class MemoryBroker(Broker):
    """Topics of the running event loop; brokers of one address share them.

    A queue keeps what nobody has acked, also without a consumer, for as long as the loop lives: it
    survives its consumers and nothing else. ``publish`` waits for room while a subscriber or a
    consumer is behind, and raises BackendRefused when a queue without consumers is full.

    limit: messages that a queue, or one live subscriber, has waiting at most
    """

    name: ClassVar[str] = "memory"
    reach: ClassVar[Literal["process"]] = "process"
    default_address: ClassVar[str] = "default"
    features = BrokerFeatures(queue=True, key=True, at_least_once=True)

    def __init__(self, *addresses: str, limit: int = 10_000) -> None:
        super().__init__(*addresses)
        self._limit = limit
        self._exchange = _Exchange()

    async def _connect(self) -> None:
        self._exchange = hub(_Exchange, self.address)

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        while (full := self._full(topic)) is not None:
            await full.room()
        for buffer in self._exchange.buffers(topic):
            buffer.offer(_Item(topic, message, key))
        await asyncio.sleep(0)  # a publisher that never waits would leave consumers no turn

    def _full(self, topic: str) -> Buffer[_Item] | None:
        for buffer in self._exchange.buffers(topic):
            if buffer.full:
                if isinstance(buffer, _Queue) and not buffer.consumers:
                    raise BackendRefused(
                        f"a queue of {topic} has {len(buffer)} messages and no consumer: "
                        "subscribe to it, or raise the broker's limit",
                        plugin=self.name,
                        address=self.address,
                    )
                return buffer
        return None

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        if request.queue is None:
            return _Live(self._exchange, request.topic, Buffer(self._limit))
        return _Consumer(self._exchange.queue(request.topic, request.queue, self._limit))


class _Live:
    """Every message from now on, and no acks."""

    def __init__(self, exchange: _Exchange, topic: str, buffer: Buffer[_Item]) -> None:
        self._exchange = exchange
        self._topic = topic
        self._buffer = buffer
        exchange.live.setdefault(topic, set()).add(buffer)

    def __aiter__(self) -> _Live:
        return self

    async def __anext__(self) -> Delivery:
        return (await self._buffer.get()).delivery()

    async def stop(self) -> None:
        self._exchange.forget(self._topic, self._buffer)
        self._buffer.close()

    async def aclose(self) -> None:
        await self.stop()
        self._buffer.clear()


class _Consumer:
    """One of the consumers of a queue; what it has not acked goes back when it closes."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue
        self._unacked: dict[int, _Item] = {}
        self._count = 0
        self._closed = False
        queue.consumers += 1

    def __aiter__(self) -> _Consumer:
        return self

    async def __anext__(self) -> Delivery:
        if self._closed:
            raise StopAsyncIteration
        item = await self._queue.get()
        self._count += 1
        self._unacked[self._count] = item
        delivery = item.delivery()
        delivery.ack = partial(self._ack, self._count)
        delivery.nack = partial(self._nack, self._count)
        return delivery

    async def _ack(self, number: int) -> None:
        self._unacked.pop(number, None)

    async def _nack(self, number: int) -> None:
        """To the end of the queue, so that a poisonous message does not hold up the others."""
        item = self._unacked.pop(number, None)
        if item is not None:
            self._queue.offer(item)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.consumers -= 1
            self._queue.give_back(self._unacked.values())
            self._unacked.clear()
