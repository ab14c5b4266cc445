"""The http transport's listener, as bytes on real connections."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import socket as sockets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from in_loops import in_loop, until

from micro_core.errors import BackendUnavailable, BadRequest, MicroError, SocketClosed, TooLarge
from micro_core.message import Message
from micro_core.transport.base import Socket
from micro_core.transport.http import HttpTransport
from micro_core.transport.http_server import HttpListener

CAPTURES = json.loads((Path(__file__).parent / "data/mucp-transport-http.json").read_text())
POST = b"POST / HTTP/1.1\r\n"
HELLO = POST + b"Content-Length: 5\r\nX: 1\r\n\r\nhello"

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter


class Serving:
    """A listener that keeps what it receives and how each socket ended; it answers with echoes."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.ended: list[MicroError] = []
        self.sockets: list[Any] = []
        self.answers = True

    def has(self, count: int) -> bool:
        return len(self.received) >= count

    async def __call__(self, socket: Socket) -> None:
        self.sockets.append(socket)
        try:
            while True:
                message = await socket.recv()
                self.received.append(message)
                if self.answers:
                    await socket.send(Message({"N": str(len(self.received))}, message.body))
        except MicroError as error:
            self.ended.append(error)


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[tuple[Serving, HttpListener]]:
    serving = Serving()
    async with HttpTransport(**options) as transport:
        listener = await transport.listen("127.0.0.1:0", serving)
        assert isinstance(listener, HttpListener)
        yield serving, listener
        await listener.close()


@asynccontextmanager
async def connected(listener: HttpListener) -> AsyncIterator[tuple[Reader, Writer]]:
    host, port = listener.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def exchange(listener: HttpListener, data: bytes) -> bytes:
    """All that comes back until the listener closes."""
    async with connected(listener) as (reader, writer):
        writer.write(data)
        return await reader.read()


async def answers(listener: HttpListener) -> bool:
    async with connected(listener) as (reader, writer):
        writer.write(HELLO)
        return (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")


def parsed(text: bytes) -> Iterator[Message]:
    """The messages of a capture, read the plainest way."""
    while text:
        head, _, text = text.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        fields.pop("Host", None)
        length = int(fields.pop("Content-Length", "0"))
        body, text = text[:length], text[length:]
        if fields.pop("Transfer-Encoding", None):
            assert text.startswith(b"0\r\n\r\n")
            text = text[5:]
        yield Message(fields, body)


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["whole", "bytes", "anywhere"])
@in_loop
async def test_what_go_clients_send_is_understood_however_it_is_cut(cut: str) -> None:
    rng = random.Random(7)
    async with listening() as (serving, listener):
        serving.answers = False
        for capture in CAPTURES:
            for connection in capture["connections"]:
                texts = [
                    part["bytes_latin1"].encode("latin-1")
                    for part in connection
                    if part["from"] == "client"
                ]
                text = b"".join(texts)
                serving.received.clear()
                async with connected(listener) as (_, writer):
                    for piece in pieces(text, cut, rng):
                        writer.write(piece)
                        await asyncio.sleep(0)
                    expected = list(parsed(text))
                    await until(functools.partial(serving.has, len(expected)))
                    assert serving.received == expected
                    assert all("User-Agent" in message.header for message in expected)


def pieces(text: bytes, cut: str, rng: random.Random) -> list[bytes]:
    if cut == "whole":
        return [text]
    cuts = range(1, len(text)) if cut == "bytes" else sorted(rng.sample(range(1, len(text)), 9))
    return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@in_loop
async def test_an_answer_has_only_the_fields_it_was_given() -> None:
    async with listening() as (_, listener), connected(listener) as (reader, writer):
        secret = b"Authorization: Bearer secret\r\nCookie: a=b\r\n"
        writer.write(POST + b"Host: a\r\n" + secret + b"Content-Length: 2\r\n\r\nhi")
        expected = b"HTTP/1.1 200 OK\r\nN: 1\r\nContent-Length: 2\r\n\r\nhi"
        assert await reader.readexactly(len(expected)) == expected


@in_loop
async def test_chunks_extensions_and_trailers() -> None:
    async with listening() as (serving, listener), connected(listener) as (_, writer):
        head = POST + b"transfer-encoding: Chunked\r\nX: 1\r\n\r\n"
        writer.write(
            head + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: evil\r\nTrailer: t\r\n\r\n" + HELLO
        )
        await until(lambda: len(serving.received) == 2)
        assert serving.received == [Message({"X": "1"}, b"abcde"), Message({"X": "1"}, b"hello")]


@in_loop
async def test_odd_but_lawful_headers() -> None:
    cases: list[tuple[bytes, dict[str, str]]] = [
        (b"MICRO-ID: 1\r\nmicro-endpoint: a\r\n", {"Micro-Id": "1", "Micro-Endpoint": "a"}),
        (b"X:1\r\nY: \t 2 \t \r\n", {"X": "1", "Y": "2"}),
        (b"X:\r\nY: \r\nZ: 3\r\n", {"X": "", "Y": "", "Z": "3"}),
        (b"X: 1\r\nX: 2\r\nx: 3\r\n", {"X": "1"}),
        (b"x: 3\r\nX: 1\r\n", {"X": "3"}),
        ("X: Жанна\r\n".encode(), {"X": "Жанна"}),
        (b"X: na\xefve\r\nY: \xc3\xa9 \r\n", {"X": "naïve", "Y": "é"}),
        (b"Connection: keep-alive\r\n", {"Connection": "keep-alive"}),
        (b"Host: h\r\nAccept-Encoding: gzip\r\n", {"Accept-Encoding": "gzip"}),
        (b"", {}),
    ]
    async with listening() as (serving, listener), connected(listener) as (_, writer):
        for fields, header in cases:
            serving.received.clear()
            writer.write(POST + fields + b"\r\n")
            await until(lambda: bool(serving.received))
            assert serving.received == [Message(header)]


@in_loop
async def test_any_path_and_blank_lines_before_a_message() -> None:
    async with listening() as (serving, listener), connected(listener) as (_, writer):
        writer.write(b"POST /greeter/Say.Hello?x=1 HTTP/1.1\r\n\r\n\r\n\r\n" + HELLO)
        await until(lambda: len(serving.received) == 2)


@pytest.mark.parametrize(
    "head",
    [b"POST / HTTP/1.0\r\n", POST + b"Connection: close\r\n", POST + b"connection: Close\r\n"],
)
@in_loop
async def test_a_client_that_wants_one_answer_gets_it_and_the_end(head: bytes) -> None:
    async with listening() as (_, listener):
        answer = await exchange(listener, head + b"Content-Length: 2\r\n\r\nhi")
        assert answer == b"HTTP/1.1 200 OK\r\nN: 1\r\nContent-Length: 2\r\n\r\nhi"


@in_loop
async def test_what_follows_a_last_message_is_not_lost_in_silence() -> None:
    async with listening() as (serving, listener):
        last = POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi"
        answer = await exchange(listener, last + HELLO)
        assert answer.count(b"200 OK") == 2
        assert len(serving.received) == 2


@in_loop
async def test_http_1_0_with_keep_alive_keeps_the_connection() -> None:
    async with listening() as (_, listener), connected(listener) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n!")
            assert (await reader.readuntil(b"!")).startswith(b"HTTP/1.1 200 OK")


@in_loop
async def test_expect_100_continue_is_answered_at_once() -> None:
    async with listening() as (serving, listener), connected(listener) as (reader, writer):
        writer.write(POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert serving.received == []
        writer.write(b"hi")
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 OK")
        assert serving.received == [Message({}, b"hi")]


# -- refusals ------------------------------------------------------------------------------------

LONG = b"X: " + b"a" * 17_000
REFUSED = {
    "get": (b"GET / HTTP/1.1\r\n\r\n", 405, SocketClosed),
    "put": (b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", 405, SocketClosed),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 405, SocketClosed),
    "no probe": (b"GET /_live HTTP/1.1\r\n\r\n", 404, SocketClosed),
    "origin": (POST + b"oRiGiN: https://evil.example\r\n\r\n", 403, SocketClosed),
    "null origin": (POST + b"Origin: null\r\n\r\n", 403, SocketClosed),
    "not http": (b"\x00\x01\x02 hello\r\n\r\n", 400, BadRequest),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, BadRequest),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, BadRequest),
    "h2c": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400, BadRequest),
    "nul": (POST + b"X: a\x00b\r\n\r\n", 400, BadRequest),
    "folded": (POST + b"X: a\r\n b\r\n\r\n", 400, BadRequest),
    "bare lf": (POST + b"X: a\nY: b\r\n\r\n", 400, BadRequest),
    "name": (POST + b"X (: a\r\n\r\n", 400, BadRequest),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, BadRequest),
    "smuggling": (
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        BadRequest,
    ),
    "length": (POST + b"Content-Length: -1\r\n\r\n", 400, BadRequest),
    "huge length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400, BadRequest),
    "chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, BadRequest),
    "1 GB": (POST + b"content-LENGTH: 1000000000\r\n\r\n", 413, TooLarge),
    "1 GB expected": (
        POST + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n",
        413,
        TooLarge,
    ),
    "one too many": (POST + b"Content-Length: 1001\r\n\r\n", 413, TooLarge),
    "chunks": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 201 + b"0\r\n\r\n",
        413,
        TooLarge,
    ),
    "endless chunks": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 201,
        413,
        TooLarge,
    ),
    "long field": (POST + LONG + b"\r\n\r\n", 431, TooLarge),
    "long fields": (
        POST + b"".join(b"X%d: %s\r\n" % (n, b"a" * 180) for n in range(99)) + b"\r\n",
        431,
        TooLarge,
    ),
    "long path": (b"POST /" + b"a" * 17_000 + b" HTTP/1.1\r\n\r\n", 431, TooLarge),
    "many fields": (
        POST + b"".join(b"%d:\r\n" % n for n in range(101)) + b"\r\n",
        431,
        TooLarge,
    ),
    "other expectation": (POST + b"Expect: magic\r\n\r\n", 417, SocketClosed),
}


@pytest.mark.parametrize("case", REFUSED)
@in_loop
async def test_what_is_no_message_is_answered_and_the_connection_closed(case: str) -> None:
    data, status, error = REFUSED[case]
    async with listening(max_body=1000) as (serving, listener):
        answer = await exchange(listener, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        head, body = answer.split(b"\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in head
        assert b"\r\nContent-Length: %d" % len(body) in head
        assert (b"Allow: POST" in head) == (status == 405)
        assert serving.received == []
        await until(lambda: bool(serving.ended))
        assert type(serving.ended[0]) is error
        assert await answers(listener)


@pytest.mark.parametrize(
    "rest",
    [b"X: " + b"a" * 4000, b"a" * 4000, b"X: y\r\n" * 700],
    ids=["one field", "one name", "repeated"],
)
@pytest.mark.parametrize("where", ["head", "path", "trailer"])
@in_loop
async def test_what_grows_without_end_is_cut_off(where: str, rest: bytes) -> None:
    starts = {
        "head": POST,
        "path": b"POST /",
        "trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    }
    async with listening() as (serving, listener), connected(listener) as (reader, writer):
        writer.write(starts[where])
        with suppress(OSError):
            for _ in range(300):
                writer.write(rest)
                await writer.drain()
                await asyncio.sleep(0)
        answer = await reader.read()
        assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer
        assert serving.received == []
        assert sum(map(len, serving.sockets[0]._fields.values())) < 300_000


@in_loop
async def test_limits_are_exact() -> None:
    async with listening(max_body=10, max_headers=3) as (_, listener):
        for size, fields, status in [(10, 2, 200), (11, 2, 413), (10, 3, 431)]:
            head = b"".join(b"X%d: 1\r\n" % n for n in range(fields))
            async with connected(listener) as (reader, writer):
                writer.write(POST + head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
                line = await reader.readline()
                assert line.startswith(b"HTTP/1.1 %d " % status)


@in_loop
async def test_a_good_message_before_garbage_is_handled() -> None:
    async with listening() as (serving, listener):
        answer = await exchange(listener, HELLO + b"garbage\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert [message.body for message in serving.received] == [b"hello"]


@in_loop
async def test_allowed_origins_pass() -> None:
    async with listening(allow_origins=("https://good.example",)) as (serving, listener):
        async with connected(listener) as (reader, writer):
            writer.write(POST + b"Origin: https://good.example\r\nContent-Length: 1\r\n\r\n!")
            assert (await reader.readuntil(b"!")).startswith(b"HTTP/1.1 200 OK")
            assert serving.received[0].header["Origin"] == "https://good.example"
        answer = await exchange(listener, POST + b"Origin: https://good.example.org\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")


@in_loop
async def test_probes_are_answered_by_the_hook() -> None:
    async with listening() as (serving, listener):
        listener.probe = lambda path: (200, b"ok") if path == "/_live" else (503, b"draining")
        live = await exchange(listener, b"GET /_live?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert live.startswith(b"HTTP/1.1 200 OK\r\n")
        assert live.endswith(b"\r\n\r\nok")
        ready = await exchange(listener, b"GET /_ready HTTP/1.1\r\n\r\n")
        assert ready.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert (await exchange(listener, b"GET /_x HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
        assert serving.received == []


@in_loop
async def test_a_listener_takes_the_probe_of_its_transport() -> None:
    async with HttpTransport() as transport:
        transport.probe = lambda _path: (204, b"")
        listener = await transport.listen("127.0.0.1:0", Serving())
        assert isinstance(listener, HttpListener)
        answer = await exchange(listener, b"GET /_ready HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 204 ")


@in_loop
async def test_one_connection_too_many_gets_503() -> None:
    async with listening(max_connections=2) as (serving, listener):
        async with connected(listener), connected(listener) as (reader, writer):
            await until(lambda: len(serving.sockets) == 2)
            assert (await exchange(listener, HELLO)).startswith(b"HTTP/1.1 503 ")
            writer.write(HELLO)
            await reader.readuntil(b"hello")
        await until(lambda: not listener.connections)
        assert await answers(listener)


@in_loop
async def test_a_flood_of_connections_is_cut_without_an_answer() -> None:
    got: list[bytes] = []

    async def read(reader: Reader) -> None:
        try:
            got.append(await reader.read())
        except OSError:
            got.append(b"")

    async with listening(max_connections=2) as (serving, listener):
        host, port = listener.address.split(":")
        flood = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
        reading = [asyncio.create_task(read(reader)) for reader, _ in flood]
        await until(lambda: len(got) == 10)
        assert len(serving.sockets) == 2
        assert sum(text.startswith(b"HTTP/1.1 503 ") for text in got) == 2
        assert got.count(b"") == 8
        for _, writer in flood:
            writer.close()
        await asyncio.wait(reading)
        await until(lambda: len(serving.ended) == 2 and not listener.connections)
        assert await answers(listener)


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"POST /", POST + b"X: ", POST + b"X: 1\r\nY: 2\r\n"])
@in_loop
async def test_a_slow_head_gets_408(sent: bytes) -> None:
    async with listening(header_timeout=0.1) as (serving, listener):
        async with connected(listener) as (reader, writer):
            writer.write(sent[:-1])
            dripping = asyncio.create_task(drip(writer, sent[-1:] + b"z" * 1000))
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            dripping.cancel()
            await asyncio.wait([dripping])
        await until(lambda: bool(serving.ended))


async def drip(writer: Writer, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)


@in_loop
async def test_a_head_after_a_long_pause_has_its_whole_time() -> None:
    async with listening(header_timeout=0.4) as (_, listener):
        async with connected(listener) as (reader, writer):
            await asyncio.sleep(0.6)
            writer.write(HELLO[:30])
            await asyncio.sleep(0.1)
            writer.write(HELLO[30:])
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")


@in_loop
async def test_a_slow_body_gets_408() -> None:
    async with listening(idle_timeout=0.1) as (_, listener):
        async with connected(listener) as (reader, writer):
            writer.write(POST + b"Content-Length: 10000\r\n\r\n")
            dripping = asyncio.create_task(drip(writer, b"z" * 1000))
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            dripping.cancel()
            await asyncio.wait([dripping])


@pytest.mark.parametrize("before", [b"", HELLO])
@in_loop
async def test_an_idle_connection_is_closed(before: bytes) -> None:
    async with listening(idle_timeout=0.1) as (serving, listener):
        answer = await exchange(listener, before)
        assert answer.count(b"HTTP/1.1 ") == bool(before)
        await until(lambda: bool(serving.ended))
        assert "idle" in str(serving.ended[0])


@in_loop
async def test_a_busy_connection_is_not_idle() -> None:
    async with listening(idle_timeout=0.1) as (serving, listener):
        async with connected(listener) as (reader, _):
            await until(lambda: bool(serving.sockets))
            serving.sockets[0].busy = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await reader.read()
            serving.sockets[0].busy = False
            assert await reader.read() == b""


# -- the other side goes away --------------------------------------------------------------------


@in_loop
async def test_a_half_closed_connection_is_closed_whole() -> None:
    async with listening() as (serving, listener):
        serving.answers = False
        async with connected(listener) as (reader, writer):
            writer.write(HELLO)
            writer.write_eof()
            assert await reader.read() == b""
        assert [message.body for message in serving.received] == [b"hello"]
        assert isinstance(serving.ended[0], SocketClosed)
        assert not listener.connections


@in_loop
async def test_a_reset_and_a_cut_message_end_the_socket() -> None:
    async with listening() as (serving, listener):
        host, port = listener.address.split(":")
        raw = sockets.create_connection((host, int(port)))
        raw.sendall(HELLO[:-1])
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await until(lambda: bool(serving.sockets) and serving.sockets[0]._header is not None)
        raw.close()
        await until(lambda: bool(serving.ended))
        assert "in the middle of a message" in str(serving.ended[0])
        assert isinstance(serving.ended[0].__cause__, ConnectionResetError)


@in_loop
async def test_the_kernel_watches_both_ends() -> None:
    async with listening() as (serving, listener), HttpTransport() as transport:
        client: Any = await transport.dial(listener.address)
        await until(lambda: bool(serving.sockets))
        for end in (client, serving.sockets[0]):
            raw = end._transport.get_extra_info("socket")
            assert raw.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE)
            assert raw.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY)
            for name, value in {"KEEPIDLE": 10, "KEEPINTVL": 3, "KEEPCNT": 3}.items():
                option = getattr(sockets, f"TCP_{name}")
                assert raw.getsockopt(sockets.IPPROTO_TCP, option) == value
            assert raw.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT) == 19_000


@in_loop
async def test_an_answer_to_a_peer_that_never_reads_does_not_delay_close_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("micro_core.transport.http_socket._FLUSH", 0.1)
    async with listening(max_body=50_000_000) as (serving, listener):
        async with connected(listener) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await until(lambda: bool(serving.sockets))
            socket = serving.sockets[0]
            await socket.send(Message({}, b"x" * 40_000_000))
            await socket.close()
            assert not listener.connections


@in_loop
async def test_what_was_sent_before_close_arrives() -> None:
    async with listening(max_body=10_000_000) as (serving, listener):
        async with connected(listener) as (reader, _):
            await until(lambda: bool(serving.sockets))
            await serving.sockets[0].send(Message({}, b"x" * 8_000_000))
            closing = asyncio.create_task(serving.sockets[0].close())
            assert (await reader.read()).endswith(b"x" * 8_000_000)
            await closing


# -- much and much of it -------------------------------------------------------------------------


@in_loop
async def test_long_bodies_take_time_in_proportion() -> None:
    async with listening(max_body=50_000_000) as (_, listener):
        async with HttpTransport(max_body=50_000_000) as transport:
            socket = await transport.dial(listener.address)
            took = {}
            for size in (1_000_000, 24_000_000):
                body, best = os.urandom(size), float("inf")
                for _ in range(3):
                    started = time.process_time()
                    await socket.send(Message({}, body))
                    assert (await socket.recv()).body == body
                    best = min(best, time.process_time() - started)
                took[size] = best
            # 24 times the bytes; copying all that came before with each part takes 500 times
            assert took[24_000_000] < 120 * took[1_000_000]


@in_loop
async def test_a_body_in_tiny_chunks_is_put_together() -> None:
    body = os.urandom(60_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with listening() as (serving, listener), connected(listener) as (_, writer):
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        await until(lambda: bool(serving.received))
        assert serving.received == [Message({}, body)]


SEEDS = [
    HELLO,
    HELLO * 3,
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    POST + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
    b"GET /_live HTTP/1.1\r\nHost: a\r\n\r\n",
    *(
        part["bytes_latin1"].encode("latin-1")
        for capture in CAPTURES
        for part in capture["connections"][0]
    ),
]
WORDS = [b"\r\n", b"\n", b"\r", b":", b"\0", b" ", b"0", b"-1", b"\xff", b"Content-Length: 7\r\n"]


def mutated(rng: random.Random) -> bytes:
    text = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0:
                text[at:at] = rng.choice(WORDS)
            case 1:
                del text[at : at + rng.randrange(1, 9)]
            case 2:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                text[at:at] = text[: rng.randrange(40)]
            case _:
                text[at:] = rng.randbytes(rng.randrange(60))
    return bytes(text)


@in_loop
async def test_malformed_input_never_harms_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(20260807)
    corpus = [mutated(rng) for _ in range(3000)] + [rng.randbytes(200) for _ in range(200)]
    impatient = {"idle_timeout": 0.5, "header_timeout": 0.5}
    async with listening(max_body=10_000, **impatient) as (serving, listener):
        assert await answers(listener)
        await until(lambda: not listener.connections)
        before = open_files()

        async def attack(frames: list[bytes]) -> None:
            for frame in frames:
                with suppress(OSError):
                    async with connected(listener) as (reader, writer):
                        writer.write(frame)
                        if rng.random() < 0.5:
                            writer.write_eof()
                            await reader.read()

        async with asyncio.TaskGroup() as group:
            for worker in range(20):
                group.create_task(attack(corpus[worker::20]))
        await until(lambda: not listener.connections)
        assert len(serving.ended) == len(serving.sockets) == len(corpus) + 1
        assert len(serving.received) > 200
        await until(lambda: open_files() == before)
        assert await answers(listener)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("127.0.0.1:0", "127.0.0.1:"),
        ("localhost:0", "127.0.0.1:"),
        ("0.0.0.0:0", "0.0.0.0:"),
        ("[::1]:0", "[::1]:"),
        (":0", "[::]:"),
    ],
)
@in_loop
async def test_a_listener_tells_its_real_address(address: str, bound: str) -> None:
    if ":" in bound.strip("[").split("]")[0] and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    async with HttpTransport() as transport:
        listener = await transport.listen(address, Serving())
        assert listener.address.startswith(bound)
        port = listener.address.rpartition(":")[2]
        assert int(port) > 0
        hosts = {"[::]:": ["127.0.0.1", "[::1]"], "[::1]:": ["[::1]"]}.get(bound, ["127.0.0.1"])
        for host in hosts:
            socket = await transport.dial(f"{host}:{port}")
            await socket.send(Message({}, b"x"))
            assert (await socket.recv()).body == b"x"
            assert socket.peer == f"{host}:{port}"


def has_ipv6() -> bool:
    try:
        with sockets.socket(sockets.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@in_loop
async def test_all_interfaces_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    create = sockets.create_server

    def without(address: tuple[str, int], **options: Any) -> sockets.socket:
        if options.get("family") == sockets.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        return create(address, **options)

    monkeypatch.setattr(sockets, "create_server", without)
    async with HttpTransport() as transport:
        listener = await transport.listen(":0", Serving())
        assert listener.address.startswith("0.0.0.0:")


@pytest.mark.parametrize("address", ["", "nonsense", "1.2.3.4", "h:99999", "a b:1", "192.0.2.1:0"])
@in_loop
async def test_an_address_that_cannot_be_bound_is_unavailable(address: str) -> None:
    async with HttpTransport() as transport:
        with pytest.raises(BackendUnavailable) as caught:
            await transport.listen(address, Serving())
        assert repr(address) in str(caught.value)
        assert caught.value.__cause__ is not None
