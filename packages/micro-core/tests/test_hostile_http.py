"""Hostile input to the listeners of the http transport and the http broker.

They run in a process of their own, so that what it costs them can be measured.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket as sockets
import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest
from hostile_server import HEADER, IDLE, Victim
from in_loops import in_loop, until

from micro_core.client.base import RpcRequest
from micro_core.client.mucp import MucpClient
from micro_core.errors import InvalidName
from micro_core.message import Message, canonical
from micro_core.registry.records import Node
from micro_core.transport.base import Socket, Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport

MORE = 20 << 20  # bytes of memory that an attack may cost for good
RST = struct.pack("ii", 1, 0)
Which = Literal["rpc", "broker"]
on_both = pytest.mark.parametrize("which", ["rpc", "broker"])
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim()
    yield victim
    assert victim.stop() == 0
    said = victim.said()
    victim.log.close()
    assert said == ""  # peers that misbehave are not our errors


async def connect(victim: Victim, which: Which) -> Pair:
    host, port = getattr(victim, which).split(":")
    return await asyncio.open_connection(host, int(port))


def reset(writer: asyncio.StreamWriter) -> None:
    """No TIME_WAIT: there are not enough ports for that."""
    with suppress(OSError):
        file = writer.get_extra_info("socket")
        file.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, RST)
    writer.transport.abort()


async def status(victim: Victim, which: Which, data: bytes) -> int | None:
    """That of the answer, None for a connection that is closed without one."""
    reader, writer = await connect(victim, which)
    try:
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
            with suppress(ConnectionError):
                line = await reader.readline()
                assert line.startswith(b"HTTP/1.1 ") or not line
                return int(line.split()[1]) if line else None
        return None
    finally:
        reset(writer)


def request(victim: Victim, which: Which) -> bytes:
    """A good one."""
    if which == "rpc":
        head, body = b"POST / HTTP/1.1\r\nHost: x\r\nMicro-Service: s\r\n", b"hello"
        head += b"Micro-Endpoint: S.S\r\nMicro-Id: 1\r\nContent-Type: application/json\r\n"
    else:
        head = f"POST /?id={victim.node} HTTP/1.1\r\nHost: x\r\n".encode()
        body = b'{"Header":{"Micro-Topic":"topic"},"Body":"aGVsbG8="}'
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def answering(victim: Victim, which: Which) -> AsyncIterator[list[float]]:
    """Good requests are answered throughout, and all that was had before is had back."""
    assert await status(victim, which, request(victim, which)) == 200
    await until(lambda: victim.files() <= least[0])
    rss, took = victim.rss(), list[float]()
    calling = asyncio.create_task(call_on(victim, which, took))
    yield took
    calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    assert took
    await until(lambda: victim.files() <= least[0])
    more = victim.rss() - rss
    print(f"memory {more / 1e6:+.1f} MB, {len(took)} good calls, worst {max(took) * 1e3:.0f} ms")
    assert more < MORE
    assert await status(victim, which, request(victim, which)) == 200


async def call_on(victim: Victim, which: Which, took: list[float]) -> None:
    while True:
        start = time.monotonic()
        assert await status(victim, which, request(victim, which)) == 200
        took.append(time.monotonic() - start)
        await asyncio.sleep(0.01)


least = [0]


@pytest.fixture(autouse=True)
def few_files(victim: Victim) -> None:
    """How many descriptors an idle victim has."""
    if not least[0]:
        least[0] = victim.files()


# -- malformed frames ------------------------------------------------------------------------

TRICKS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b": ", b" ", b"\t", b"\r\n\r\n", b"\r\n ", b"%00",
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 1073741824\r\n",
    b"Content-Length: 18446744073709551617\r\n", b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"Origin: x\r\n",
    b"ffffffffffffffff\r\n", b"5;x=y\r\nhello\r\n0\r\n\r\n", b"HTTP/9.9", b"PRI * HTTP/2.0",
    b"Micro-Stream: 1\r\n", b"Micro-Error: EOS\r\n", b"Timeout: 1\r\n", b"X: " + 200 * b"x",
    b"\x16\x03\x01\x02\x00\x01", 20 * b"[", b'{"Header":', b"X: y\r\n" * 120,
)  # fmt: skip


def mutated(dice: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0:
                data[at:at] = dice.choice(TRICKS)
            case 1:
                data[at : at + dice.randint(1, 8)] = dice.randbytes(dice.randint(0, 8))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = data[dice.randrange(len(data) + 1) :][:100]
            case _:
                data[at : at + 1] = bytes([dice.randrange(256)])
    return bytes(data) or b"\0"


async def fuzz(victim: Victim, which: Which, dice: random.Random, count: int) -> None:
    good = request(victim, which)
    chunked = good.replace(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n")
    frames = [
        good,
        chunked[:-5] + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"GET /_live HTTP/1.1\r\n\r\n",
    ]
    while count > 0:
        reader, writer = await connect(victim, which)
        few = min(count, dice.randint(1, 10))
        count -= few
        with suppress(ConnectionError, TimeoutError):
            for _ in range(few):
                writer.write(mutated(dice, dice.choice(frames)))
            await writer.drain()
            async with asyncio.timeout(0.02):
                while await reader.read(1 << 16):
                    pass
        reset(writer)


async def fuzz_all(victim: Victim, which: Which, count: int) -> None:
    seed = int(os.environ.get("MICRO_TEST_SEED", random.randrange(1 << 32)))
    print(f"MICRO_TEST_SEED={seed}")
    async with answering(victim, which):
        await asyncio.gather(
            *[fuzz(victim, which, random.Random(seed + n), count // 20) for n in range(20)],
        )


@on_both
@in_loop
async def test_malformed_frames(victim: Victim, which: Which) -> None:
    await fuzz_all(victim, which, 5_000)


@pytest.mark.full
@pytest.mark.timeout(300)
@on_both
def test_a_hundred_thousand_malformed_frames(victim: Victim, which: Which) -> None:
    asyncio.run(fuzz_all(victim, which, 100_000))


# -- tricks, each with its answer --------------------------------------------------------------

GZIP = zlib.compress(bytes(50 << 20))
BODY = b"Content-Length: 5\r\n\r\nhello"
REFUSED = {
    "1 GB": (b"Content-Length: 1073741824\r\n\r\n", {413}),
    "a length beyond 64 bits": (b"Content-Length: 99999999999999999999\r\n\r\n", {400}),
    "a negative length": (b"Content-Length: -5\r\n\r\nhello", {400}),
    "a signed length": (b"Content-Length: +5\r\n\r\nhello", {400}),
    "a length in hex": (b"Content-Length: 0x5\r\n\r\nhello", {400}),
    "a list of lengths": (b"Content-Length: 5, 5\r\n\r\nhello", {400}),
    "two lengths": (b"Content-Length: 4\r\n" + BODY, {400}),
    "a length and chunks": (
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {400}
    ),
    "chunks and a length": (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {400}
    ),
    "chunks twice": (
        b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", {400, 415}
    ),
    "chunks not last": (b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", {400, 415}),
    "no chunks at all": (b"Transfer-Encoding: identity\r\n\r\nhello", {400, 415}),
    "a blank in a chunk's size": (b"Transfer-Encoding: chunked\r\n\r\n 5\r\nhello", {400}),
    "a chunk beyond 64 bits": (
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", {400}
    ),
    "a chunk longer than it says": (
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", {400}
    ),
    "chunk extensions without end": (
        b"Transfer-Encoding: chunked\r\n\r\n5;" + 200_000 * b"x", {400, 431}
    ),
    "chunks beyond the limit": (
        b"Transfer-Encoding: chunked\r\n\r\n" + 8 * (b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
        {413},
    ),
    "trailers without end": (
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + 16_000 * b"X: yyyyyyyy\r\n", {431}
    ),
    "a bomb": (
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(GZIP) + GZIP, {415}
    ),
    "a bomb in chunks": (
        b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(GZIP) + GZIP, {400, 415}
    ),
    "a lone CR in a value": (b"X: a\rMicro-Id: 9\r\n" + BODY, {400}),
    "a NUL in a value": (b"X: a\0b\r\n" + BODY, {400}),
    "a folded value": (b"X: a\r\n Micro-Id: 9\r\n" + BODY, {400}),
    "a blank before the colon": (b"Content-Length : 5\r\n\r\nhello", {400}),
    "a name with a NUL": (b"X\0: a\r\n" + BODY, {400}),
    "no colon": (b"Nothing\r\n" + BODY, {400}),
    "101 fields": (b"".join(b"X-%d: y\r\n" % n for n in range(101)) + BODY, {431}),
    "a long field": (b"X: " + (17 << 10) * b"x" + b"\r\n" + BODY, {431}),
    "a field without end": (b"X: " + 200_000 * b"x", {431}),
    "an Origin": (b"Origin: https://example.org\r\n" + BODY, {403}),
    "an upgrade": (b"Upgrade: h2c\r\nConnection: upgrade\r\n" + BODY, {400}),
    "another expectation": (b"Expect: tea\r\n" + BODY, {417}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@on_both
@in_loop
async def test_tricks_are_refused(victim: Victim, which: Which, case: str) -> None:
    rest, expected = REFUSED[case]
    before = victim.rss()
    start = f"POST /?id={victim.node} HTTP/1.1\r\nHost: x\r\n".encode()
    assert await status(victim, which, start + rest) in expected
    assert victim.rss() - before < MORE
    assert await status(victim, which, request(victim, which)) == 200


@on_both
@in_loop
async def test_a_long_target_and_other_protocols_are_refused(victim: Victim, which: Which) -> None:
    long = b"POST /" + 200_000 * b"x"
    assert await status(victim, which, long) == 431
    for data in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        assert await status(victim, which, data) in (400, 405)
    assert await status(victim, which, b"GET / HTTP/1.1\r\n\r\n") == 405
    assert await status(victim, which, b"GET /_live HTTP/1.1\r\n\r\n") == 404


# -- those who keep connections ----------------------------------------------------------------

LORIS = (b"", b"P", b"POST / HTTP/1.1\r\nX: y", b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nx")


async def hold(victim: Victim, number: int) -> None:
    """``number`` connections that never finish what they begin; each is closed in time."""
    async with answering(victim, "rpc"):
        pairs = [await connect(victim, "rpc") for _ in range(number)]
        for n, (_, writer) in enumerate(pairs):
            writer.write(LORIS[n % len(LORIS)])
        start = time.monotonic()
        answers = [await closed(reader) for reader, _ in pairs]
        print(f"{number} closed within {time.monotonic() - start:.1f} s")
        assert time.monotonic() - start < 4 * (HEADER + IDLE) + 5
        heads = {n: {a[:12] for a in answers[n :: len(LORIS)]} for n in range(len(LORIS))}
        late = {b"HTTP/1.1 408"}
        assert heads == {0: {b""}, 1: {b""}, 2: late, 3: late}
        for _, writer in pairs:
            reset(writer)


async def closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b"reset"


@in_loop
async def test_half_open_connections(victim: Victim) -> None:
    await hold(victim, 200)


@pytest.mark.full
def test_two_thousand_half_open_connections(victim: Victim) -> None:
    asyncio.run(hold(victim, 2000))


@in_loop
async def test_a_head_that_drips_is_cut_off(victim: Victim) -> None:
    async with answering(victim, "rpc"):
        reader, writer = await connect(victim, "rpc")
        with suppress(ConnectionError):
            for byte in b"POST / HTTP/1.1\r\n" + 1000 * b"X: y\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(HEADER / 20)
                if reader._buffer:  # type: ignore[attr-defined]
                    break
        assert (await closed(reader))[:12] in (b"HTTP/1.1 408", b"reset")
        reset(writer)


@on_both
@in_loop
async def test_a_peer_that_sends_and_never_reads(victim: Victim, which: Which) -> None:
    """Answers nobody takes stop its requests, in bounded memory."""
    async with answering(victim, which):
        _, writer = await connect(victim, which)
        data = request(victim, which)
        if which == "rpc":
            data = data.replace(b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 60000\r\n\r\n")
            data += bytes(60_000)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    writer.write(data)
                    await writer.drain()
        reset(writer)


# -- headers ---------------------------------------------------------------------------------

ALPHABET = "aZ09-_.:;,/ \t\r\n\0\x7f\x1b%\"'\\()<>@[]{}=?é\u0130\u2028\ud800😀"


def odd(dice: random.Random) -> str:
    return "".join(dice.choices(ALPHABET, k=dice.randint(0, 12)))


async def round_trips(transport: Transport, address: str, count: int) -> None:
    """Each header arrives as it is, or is refused before a byte is written."""
    seed = int(os.environ.get("MICRO_TEST_SEED", random.randrange(1 << 32)))
    print(f"MICRO_TEST_SEED={seed}")
    dice = random.Random(seed)
    came: asyncio.Queue[Message] = asyncio.Queue()

    async def serve(socket: Socket) -> None:
        while True:
            came.put_nowait(await socket.recv())

    async with transport:
        listener = await transport.listen(address, serve)
        socket = await transport.dial(listener.address)
        arrived = 0
        for number in range(count):
            name = dice.choice(["X-A", "x", "Micro-Id", odd(dice)])
            header = {name: odd(dice), "N": str(number)}
            try:
                await socket.send(Message(header, b"body"))
            except InvalidName:
                continue
            message = await came.get()
            assert message.body == b"body"
            expected = {canonical(name): value for name, value in header.items()}
            if isinstance(transport, HttpTransport):
                expected = {name: value.strip(" \t") for name, value in expected.items()}
            assert message.header == expected
            arrived += 1
        assert count / 20 < arrived < count
        await socket.close()
        await listener.close()


@pytest.mark.parametrize("kind", ["memory", "http"])
@in_loop
async def test_odd_headers_arrive_whole_or_not_at_all(kind: str) -> None:
    await round_trips(*made(kind), 2_000)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["memory", "http"])
def test_ten_thousand_odd_headers(kind: str) -> None:
    asyncio.run(round_trips(*made(kind), 10_000))


def made(kind: str) -> tuple[Transport, str]:
    return (MemoryTransport(), "") if kind == "memory" else (HttpTransport(), "127.0.0.1:0")


# -- good clients after it all -----------------------------------------------------------------


@in_loop
async def test_a_client_still_gets_its_answers(victim: Victim) -> None:
    async with HttpTransport() as transport:
        client = MucpClient(transport=transport)
        for number in range(100):
            body = str(number).encode()
            node = Node("s-1", victim.rpc)
            assert (await client.call(node, RpcRequest("s", "S.S", "x/y", body))).body == body
        await client.close()
