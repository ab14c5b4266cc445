"""A broker as a stranger would write one: a server on a socket, a log on disk, and its plugin.

``python toy_broker.py PORT FILE`` is the server. A line of JSON each way: requests have a number
that comes back with the answer, deliveries have none. What is logged is answered, so that a kill
loses nothing: a line of the log is a message, or how far a queue has got.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar

from micro_core import BackendUnavailable, Broker, Message
from micro_core.broker.base import (
    BrokerFeatures,
    Deliveries,
    Delivery,
    PublishOptions,
    SubscribeRequest,
)

Json = dict[str, Any]
LIMIT = 64 << 20


# -- the server ------------------------------------------------------------------------------


class Queue:
    """Numbers of messages that wait, and the consumers that may have one more."""

    def __init__(self, name: str | None, position: int) -> None:
        self.name = name
        self.begin = position
        self.waiting: deque[int] = deque()
        self.consumers: list[Consumer] = []
        self.acked: set[int] = set()


class Consumer:
    def __init__(self, peer: Peer, id: int, queue: Queue, prefetch: int) -> None:
        self.peer = peer
        self.id = id
        self.queue = queue
        self.prefetch = prefetch
        self.held: set[int] = set()


class Server:
    def __init__(self, path: str) -> None:
        self.log: dict[str, list[Json]] = {}
        self.queues: dict[str, dict[str, Queue]] = {}
        self.live: dict[str, list[Queue]] = {}
        self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        with open(path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self.replay(json.loads(line))
        for topic, queues in self.queues.items():
            for queue in queues.values():
                numbers = range(queue.begin, len(self.log.get(topic, [])))
                queue.waiting.extend(n for n in numbers if n not in queue.acked)

    def replay(self, entry: Json) -> None:
        topic = entry["topic"]
        if entry["op"] == "pub":
            self.log.setdefault(topic, []).append(entry)
        elif entry["op"] == "queue":
            name = entry["queue"]
            self.queues.setdefault(topic, {})[name] = Queue(name, entry["begin"])
        else:
            self.queues[topic][entry["queue"]].acked.add(entry["number"])

    def write(self, entry: Json) -> None:
        os.write(self.file, json.dumps(entry).encode() + b"\n")

    def publish(self, entry: Json) -> None:
        self.write(entry)
        topic = entry["topic"]
        log = self.log.setdefault(topic, [])
        log.append(entry)
        for queue in [*self.queues.get(topic, {}).values(), *self.live.get(topic, [])]:
            queue.waiting.append(len(log) - 1)
            self.pump(topic, queue)

    def queue(self, topic: str, name: str | None, start: str) -> Queue:
        size = len(self.log.get(topic, []))
        begin = 0 if start == "earliest" else size
        if name is None:
            queue = Queue(None, begin)
            self.live.setdefault(topic, []).append(queue)
        elif name in self.queues.get(topic, {}):
            return self.queues[topic][name]
        else:
            self.write({"op": "queue", "topic": topic, "queue": name, "begin": begin})
            queue = self.queues.setdefault(topic, {})[name] = Queue(name, begin)
        queue.waiting.extend(range(begin, size))
        return queue

    def pump(self, topic: str, queue: Queue) -> None:
        while queue.waiting:
            free = [c for c in queue.consumers if len(c.held) < c.prefetch]
            if not free:
                return
            consumer = min(free, key=lambda c: len(c.held))
            number = queue.waiting.popleft()
            consumer.held.add(number)
            entry = self.log[topic][number]
            consumer.peer.send({**entry, "op": "msg", "sub": consumer.id, "number": number})

    def settle(self, topic: str, consumer: Consumer, number: int, ack: bool) -> None:
        if number not in consumer.held:
            return
        consumer.held.discard(number)
        queue = consumer.queue
        if ack and queue.name is not None:
            self.write({"op": "ack", "topic": topic, "queue": queue.name, "number": number})
        elif not ack and queue.name is not None:
            queue.waiting.append(number)
        self.pump(topic, queue)

    def leave(self, topic: str, consumer: Consumer) -> None:
        queue = consumer.queue
        queue.consumers.remove(consumer)
        if queue.name is None:
            self.live[topic].remove(queue)
        else:
            queue.waiting.extendleft(sorted(consumer.held, reverse=True))
            self.pump(topic, queue)


class Peer:
    """One connection to the server."""

    def __init__(self, server: Server, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.writer = writer
        self.subscribed: dict[int, tuple[str, Consumer]] = {}

    def send(self, answer: Json) -> None:
        self.writer.write(json.dumps(answer).encode() + b"\n")

    async def serve(self, reader: asyncio.StreamReader) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                request = json.loads(line)
                late = self.take(request)
                self.send({"answer": request.pop("request")})
                if late:
                    self.server.pump(*late)
                await self.writer.drain()
        except OSError:
            pass
        finally:
            for topic, consumer in self.subscribed.values():
                self.server.leave(topic, consumer)
            self.writer.close()

    def take(self, request: Json) -> tuple[str, Queue] | None:
        topic, op = request["topic"], request["op"]
        match op:
            case "pub":
                self.server.publish({k: v for k, v in request.items() if k != "request"})
            case "sub":
                queue = self.server.queue(topic, request["queue"], request["start"])
                consumer = Consumer(self, request["sub"], queue, request["prefetch"])
                queue.consumers.append(consumer)
                self.subscribed[consumer.id] = topic, consumer
                return topic, queue
            case "leave":
                if found := self.subscribed.pop(request["sub"], None):
                    self.server.leave(*found)
            case _:
                if found := self.subscribed.get(request["sub"]):
                    self.server.settle(*found, request["number"], op == "ack")
        return None


async def serve(port: int, path: str) -> None:
    server = Server(path)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Peer(server, writer).serve(reader)

    listening = await asyncio.start_server(accept, "127.0.0.1", port, limit=LIMIT)
    async with listening:
        await listening.serve_forever()


# -- the plugin ------------------------------------------------------------------------------


class ToyBroker(Broker):
    """Speaks to the server above."""

    name: ClassVar[str] = "toy"
    default_address: ClassVar[str] = "127.0.0.1:7777"
    features = BrokerFeatures(queue=True, replay=True, at_least_once=True, survives_server=True)

    async def _connect(self) -> None:
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._subscribed: dict[int, Subscribed] = {}
        self._count = 0
        self._link: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._opening = asyncio.Lock()
        await self._linked()

    async def _linked(self) -> asyncio.StreamWriter:
        async with self._opening:
            if self._writer is None:
                host, _, port = self.addresses[0].rpartition(":")
                reader, self._writer = await asyncio.open_connection(host, int(port), limit=LIMIT)
                self._link = asyncio.create_task(self._read(reader, self._writer), name="toy-link")
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                self._take(json.loads(line))
        except OSError:
            pass
        finally:
            self._writer = None
            writer.transport.abort()
            lost = self._waiting
            self._waiting = {}
            for future in lost.values():
                if not future.done():
                    future.set_exception(TimeoutError("the connection was lost"))
            for subscribed in self._subscribed.values():
                subscribed.queue.put_nowait(None)
            self._subscribed = {}

    def _take(self, answer: Json) -> None:
        if "answer" in answer:
            future = self._waiting.pop(answer["answer"], None)
            if future is not None and not future.done():
                future.set_result(None)
        elif subscribed := self._subscribed.get(answer["sub"]):
            subscribed.queue.put_nowait(answer)

    async def request(self, **request: Any) -> None:
        writer = await self._linked()
        self._count += 1
        number = self._count
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(json.dumps({**request, "request": number}).encode() + b"\n")
            await future
        finally:
            self._waiting.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        body = base64.b64encode(message.body).decode()
        await self.request(op="pub", topic=topic, header=message.header, body=body)

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        self._count += 1
        made = Subscribed(self, request.topic, self._count)
        self._subscribed[made.id] = made
        try:
            await self.request(
                op="sub",
                topic=request.topic,
                queue=request.queue,
                start=request.start,
                prefetch=request.prefetch,
                sub=made.id,
            )
        except BaseException:
            self._subscribed.pop(made.id, None)
            raise
        return made

    async def _close(self) -> None:
        if self._link is not None:
            self._link.cancel()
            await asyncio.gather(self._link, return_exceptions=True)
        if self._writer is not None:  # the link was cancelled before it began
            self._writer.transport.abort()
            self._writer = None


class Subscribed:
    def __init__(self, broker: ToyBroker, topic: str, id: int) -> None:
        self.queue: asyncio.Queue[Json | None] = asyncio.Queue()
        self.broker = broker
        self.topic = topic
        self.id = id

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        found = await self.queue.get()
        if found is None:
            raise BackendUnavailable("the connection was lost", plugin="toy")
        message = Message(found["header"], base64.b64decode(found["body"]))
        number = found["number"]

        async def ack() -> None:
            await self.settle("ack", number)

        async def nack() -> None:
            await self.settle("nack", number)

        return Delivery(self.topic, message, None, ack, nack)

    async def settle(self, op: str, number: int) -> None:
        if self.id not in self.broker._subscribed:
            raise BackendUnavailable("the connection of this message was lost", plugin="toy")
        await self.broker.request(op=op, topic=self.topic, sub=self.id, number=number)

    async def aclose(self) -> None:
        if self.broker._subscribed.pop(self.id, None) is not None:
            with suppress(OSError):
                await self.broker.request(op="leave", topic=self.topic, sub=self.id)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
