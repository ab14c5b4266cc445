"""The real servers, spoken to in their own protocols over plain sockets, without client libraries.

``SERVERS[name].ask`` is what a ``ComposeBackend`` of that server needs as ``ready``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Server:
    """``ask`` makes one round trip, and raises unless the server serves.

    ``put`` leaves a name that outlives the connection, and ``has`` tells whether it is there.
    """

    port: int
    ask: Callable[[str], Awaitable[None]]
    put: Callable[[str, str], Awaitable[None]]
    has: Callable[[str, str], Awaitable[bool]]
    survives: str = "kill"  # the harshest end after which what was put is still there


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Streams]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


# -- Consul and etcd: HTTP and JSON ------------------------------------------------------------


async def http(address: str, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """The status and the parsed answer."""
    async with connected(address) as (reader, writer):
        head = f"{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
    head, _, content = answer.decode().partition("\r\n\r\n")
    if not head:
        raise ConnectionError("closed before it answered")
    return int(head.split()[1]), json.loads(content) if content.strip() else None


async def consul_ask(address: str) -> None:
    # A new leader answers other reads before it has applied its log: what was put looks lost.
    status, nodes = await http(address, "GET", "/v1/catalog/nodes?consistent")
    assert status == 200 and nodes


async def consul_put(address: str, name: str) -> None:
    assert await http(address, "PUT", f"/v1/kv/{name}", b"1") == (200, True)


async def consul_has(address: str, name: str) -> bool:
    status, _ = await http(address, "GET", f"/v1/kv/{name}")
    return status == 200


async def etcd(address: str, what: str, **request: str) -> Any:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in request.items()}
    status, answer = await http(address, "POST", f"/v3/kv/{what}", json.dumps(encoded).encode())
    assert status == 200, answer
    return answer


async def etcd_ask(address: str) -> None:
    await etcd_put(address, "asked")
    assert await etcd_has(address, "asked")


async def etcd_put(address: str, name: str) -> None:
    await etcd(address, "put", key=name, value="1")


async def etcd_has(address: str, name: str) -> bool:
    return "kvs" in await etcd(address, "range", key=name)


# -- ZooKeeper: four-letter words, and length-prefixed records ---------------------------------


async def zookeeper_ask(address: str) -> None:
    async with connected(address) as (reader, writer):
        writer.write(b"srvr")
        answer = await reader.read()
    assert b"\nMode: standalone\n" in answer, answer


def text(value: str) -> bytes:
    return struct.pack(">i", len(value)) + value.encode()


async def zookeeper(address: str, kind: int, body: bytes) -> int:
    """The error code of one request in a session of its own."""
    async with connected(address) as (reader, writer):
        hello = struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, b"", False)
        for record in (hello, struct.pack(">ii", 1, kind) + body, struct.pack(">ii", 2, -11)):
            writer.write(struct.pack(">i", len(record)) + record)
        await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])
        _, _, _, error = struct.unpack(">iiqi", await reader.readexactly(20))
        return int(error)


async def zookeeper_put(address: str, name: str) -> None:
    everybody = struct.pack(">ii", 1, 31) + text("world") + text("anyone")
    body = text(f"/{name}") + text("1") + everybody + struct.pack(">i", 0)
    assert await zookeeper(address, 1, body) == 0


async def zookeeper_has(address: str, name: str) -> bool:
    error = await zookeeper(address, 3, text(f"/{name}") + b"\0")
    assert error in (0, -101), error
    return error == 0


# -- Redis and NATS: lines ---------------------------------------------------------------------


async def redis(address: str, command: str) -> str:
    async with connected(address) as (reader, writer):
        writer.write(f"{command}\r\n".encode())
        return (await reader.readline()).decode().strip()


async def redis_ask(address: str) -> None:
    assert await redis(address, "PING") == "+PONG"
    await redis_put(address, "asked")
    assert await redis_has(address, "asked")


async def redis_put(address: str, name: str) -> None:
    assert await redis(address, f"SET {name} 1") == "+OK"


async def redis_has(address: str, name: str) -> bool:
    return await redis(address, f"GET {name}") == "$1"


async def nats_ask(address: str) -> None:
    async with connected(address) as (reader, writer):
        kind, _, info = (await reader.readline()).partition(b" ")
        assert kind == b"INFO"
        assert json.loads(info)["jetstream"] is True
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"PONG\r\n"


async def jetstream(address: str, what: str, request: dict[str, Any]) -> Any:
    body = json.dumps(request)
    async with connected(address) as (reader, writer):
        writer.write(b'CONNECT {"verbose":false}\r\nSUB answer 1\r\n')
        writer.write(f"PUB $JS.API.{what} answer {len(body)}\r\n{body}\r\n".encode())
        await reader.readuntil(b"MSG answer 1 ")
        size = int(await reader.readline())
        return json.loads(await reader.readexactly(size))


async def nats_put(address: str, name: str) -> None:
    answer = await jetstream(address, f"STREAM.CREATE.{name}", {"name": name, "subjects": [name]})
    assert "error" not in answer, answer


async def nats_has(address: str, name: str) -> bool:
    answer = await jetstream(address, f"STREAM.INFO.{name}", {})
    assert answer.get("error", {"code": 404})["code"] == 404, answer
    return "error" not in answer


# -- RabbitMQ: AMQP 0-9-1 ----------------------------------------------------------------------

START, START_OK, TUNE, TUNE_OK = (10, 10), (10, 11), (10, 30), (10, 31)
OPEN, OPEN_OK, CHANNEL, CHANNEL_OK, CHANNEL_CLOSE = (10, 40), (10, 41), (20, 10), (20, 11), (20, 40)
DECLARE, DECLARE_OK = (50, 10), (50, 11)
PASSIVE, DURABLE = 1, 2


def short(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def method(channel: int, number: tuple[int, int], arguments: bytes) -> bytes:
    payload = struct.pack(">HH", *number) + arguments
    return struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce"


async def received(reader: asyncio.StreamReader) -> tuple[tuple[int, int], bytes]:
    kind, _, size = struct.unpack(">BHI", await reader.readexactly(7))
    payload = await reader.readexactly(size + 1)
    assert kind == 1
    assert payload[-1] == 0xCE
    return struct.unpack(">HH", payload[:4]), payload[4:-1]


async def amqp_start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"AMQP\0\0\x09\x01")
    assert (await received(reader))[0] == START


async def rabbitmq_ask(address: str) -> None:
    async with connected(address) as streams:
        await amqp_start(*streams)


async def declare(address: str, queue: str, bits: int) -> tuple[int, int]:
    """The server's answer to the declaration of a queue."""
    login = bytes(4) + short("PLAIN") + text("\0guest\0guest") + short("en_US")
    async with connected(address) as (reader, writer):
        await amqp_start(reader, writer)
        writer.write(method(0, START_OK, login))
        number, limits = await received(reader)
        assert number == TUNE
        writer.write(method(0, TUNE_OK, limits[:6] + bytes(2)))
        writer.write(method(0, OPEN, short("/") + bytes(2)))
        writer.write(method(1, CHANNEL, bytes(1)))
        writer.write(method(1, DECLARE, bytes(2) + short(queue) + bytes([bits]) + bytes(4)))
        assert (await received(reader))[0] == OPEN_OK
        assert (await received(reader))[0] == CHANNEL_OK
        return (await received(reader))[0]


async def rabbitmq_put(address: str, name: str) -> None:
    assert await declare(address, name, DURABLE) == DECLARE_OK


async def rabbitmq_has(address: str, name: str) -> bool:
    answer = await declare(address, name, PASSIVE)
    assert answer in (DECLARE_OK, CHANNEL_CLOSE), answer
    return answer == DECLARE_OK


# -- Mosquitto: MQTT 3.1.1 ---------------------------------------------------------------------

PUBLISH_RETAINED, PUBACK, SUBSCRIBE, SUBACK = (
    0x33,
    b"\x40\x02\x00\x01",
    0x82,
    b"\x90\x03\x00\x02\x00",
)


def packet(kind: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


def topic(name: str) -> bytes:
    return struct.pack(">H", len(name)) + name.encode()


@asynccontextmanager
async def mqtt(address: str) -> AsyncIterator[Streams]:
    async with connected(address) as (reader, writer):
        clean_for_a_minute = b"\x04\x02\x00\x3c"
        writer.write(packet(0x10, topic("MQTT") + clean_for_a_minute + topic("")))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        yield reader, writer


async def mosquitto_ask(address: str) -> None:
    async with mqtt(address):
        pass


async def mosquitto_put(address: str, name: str) -> None:
    async with mqtt(address) as (reader, writer):
        writer.write(packet(PUBLISH_RETAINED, topic(name) + b"\0\x01" + b"1"))
        assert await reader.readexactly(4) == PUBACK


async def mosquitto_has(address: str, name: str) -> bool:
    async with mqtt(address) as (reader, writer):
        ping = b"\xc0\x00"
        writer.write(packet(SUBSCRIBE, b"\0\x02" + topic(name) + b"\0") + ping)
        assert await reader.readexactly(5) == SUBACK
        return (await reader.readexactly(1))[0] >> 4 == 3  # the message before the answer to ping


# -- Kafka -------------------------------------------------------------------------------------

METADATA, API_VERSIONS = 3, 18


async def kafka(address: str, api: int, version: int, body: bytes) -> bytes:
    """The answer without its size and number."""
    request = struct.pack(">hhih", api, version, 1, -1) + body
    async with connected(address) as (reader, writer):
        writer.write(struct.pack(">i", len(request)) + request)
        size, number = struct.unpack(">ii", await reader.readexactly(8))
        assert number == 1
        return await reader.readexactly(size - 4)


async def kafka_topic(address: str, name: str, create: bool) -> int:
    """The error code of the topic."""
    body = struct.pack(">i", 1) + topic(name) + bytes([create])
    answer = await kafka(address, METADATA, 4, body)
    at = answer.index(topic(name))
    return int(struct.unpack(">h", answer[at - 2 : at])[0])


async def kafka_brokers(address: str) -> list[str]:
    """Where the broker's clients are told to connect."""
    answer = await kafka(address, METADATA, 4, bytes(5))
    count, at, brokers = struct.unpack(">i", answer[4:8])[0], 8, []
    for _ in range(count):
        length = struct.unpack(">h", answer[at + 4 : at + 6])[0]
        at += 6 + length
        host, port = answer[at - length : at].decode(), struct.unpack(">i", answer[at : at + 4])[0]
        brokers.append(f"{host}:{port}")
        at += 6  # the port, and no rack
    return brokers


async def kafka_ask(address: str) -> None:
    error = (await kafka(address, API_VERSIONS, 0, b""))[:2]
    assert error == bytes(2), error
    assert await kafka_brokers(address) == [address]


async def kafka_put(address: str, name: str) -> None:
    async with asyncio.timeout(20):
        while await kafka_topic(address, name, True):
            await asyncio.sleep(0.05)


async def kafka_has(address: str, name: str) -> bool:
    return await kafka_topic(address, name, False) == 0


SERVERS = {
    "consul": Server(8500, consul_ask, consul_put, consul_has),
    "etcd": Server(2379, etcd_ask, etcd_put, etcd_has),
    "zookeeper": Server(2181, zookeeper_ask, zookeeper_put, zookeeper_has),
    "redis": Server(6379, redis_ask, redis_put, redis_has),
    "rabbitmq": Server(5672, rabbitmq_ask, rabbitmq_put, rabbitmq_has),
    "nats": Server(4222, nats_ask, nats_put, nats_has),
    "mosquitto": Server(1883, mosquitto_ask, mosquitto_put, mosquitto_has, survives="stop"),
    "kafka": Server(9092, kafka_ask, kafka_put, kafka_has),
}
