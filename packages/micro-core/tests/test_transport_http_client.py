"""The http transport's dialling side, against servers that are written in bytes."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop, until

from micro_core.errors import (
    BackendUnavailable,
    BadRequest,
    Forbidden,
    InternalError,
    MicroError,
    NotFound,
    SocketClosed,
    TooLarge,
    Unavailable,
    WrongLoop,
)
from micro_core.message import Message
from micro_core.transport.base import Socket
from micro_core.transport.http import HttpTransport
from micro_core.transport.http_head import _received, _sent

CAPTURES = json.loads((Path(__file__).parent / "data/mucp-transport-http.json").read_text())
OK = b"HTTP/1.1 200 OK\r\n"


class Peer:
    """The other end of a dialled socket, in bytes."""

    def __init__(self, socket: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.socket = socket
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def fails(self, kind: type[MicroError]) -> MicroError:
        with pytest.raises(kind) as caught:
            await self.socket.recv()
        assert type(caught.value) is kind
        assert self.socket.closed
        with pytest.raises(SocketClosed) as unsent:
            await self.socket.send(Message())
        assert unsent.value.happened == "no"
        return caught.value


@asynccontextmanager
async def dialled(**options: Any) -> AsyncIterator[Peer]:
    arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.put_nowait((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, HttpTransport(**options) as transport:
        socket = await transport.dial(address)
        reader, writer = await arrived.get()
        try:
            yield Peer(socket, reader, writer)
        finally:
            await socket.close()
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


# -- messages ------------------------------------------------------------------------------------


@in_loop
async def test_a_request_is_written_as_a_plain_post() -> None:
    async with dialled() as peer:
        await peer.socket.send(Message({"micro-id": "1", "Name": "é"}, b"hi"))
        expected = (
            f"POST / HTTP/1.1\r\nHost: {peer.socket.peer}\r\n"
            "Micro-Id: 1\r\nName: é\r\nContent-Length: 2\r\n\r\nhi"
        ).encode()
        assert await peer.reader.readexactly(len(expected)) == expected
        await peer.socket.send(Message())
        assert (await peer.reader.readuntil(b"\r\n\r\n")).endswith(b"Content-Length: 0\r\n\r\n")


@pytest.mark.parametrize("cut", [False, True])
@in_loop
async def test_what_go_servers_answer_is_understood(cut: bool) -> None:
    rng = random.Random(3)
    for capture in CAPTURES:
        text = b"".join(
            part["bytes_latin1"].encode("latin-1")
            for part in capture["connections"][0]
            if part["from"] == "server"
        )
        async with dialled() as peer:
            at = 0
            while at < len(text):
                step = rng.randrange(1, 40) if cut else len(text)
                peer.write(text[at : at + step])
                at += step
                await asyncio.sleep(0)
            for expected in parsed(text):
                assert await peer.socket.recv() == expected
            assert not peer.socket.closed


def parsed(text: bytes) -> list[Message]:
    messages = []
    while text:
        head, _, text = text.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        length = int(fields.pop("Content-Length"))
        messages.append(Message(fields, text[:length]))
        text = text[length:]
    return messages


@in_loop
async def test_chunked_answers_interim_answers_and_any_case() -> None:
    async with dialled() as peer:
        peer.write(
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\nmicro-id: 5\r\n\r\n"
            b"2\r\nab\r\n1\r\nc\r\n0\r\nX: trailer\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"
        )
        assert await peer.socket.recv() == Message({"Micro-Id": "5"}, b"abc")
        assert await peer.socket.recv() == Message({}, b"")


@in_loop
async def test_connection_close_is_told_and_ends_nothing_by_itself() -> None:
    async with dialled() as peer:
        for number in (b"1", b"2"):
            peer.write(OK + b"Connection: close\r\nContent-Length: 1\r\n\r\n" + number)
            assert await peer.socket.recv() == Message({"Connection": "close"}, number)
            await peer.socket.send(Message({}, b"more"))
        assert not peer.socket.closed


# -- what is no message --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "happened"),
    [
        (400, BadRequest, "no"),
        (403, Forbidden, "no"),
        (404, NotFound, "no"),
        (405, MicroError, "no"),
        (413, TooLarge, "no"),
        (431, MicroError, "no"),
        (500, InternalError, "maybe"),
        (502, MicroError, "maybe"),
        (503, Unavailable, "maybe"),
        (204, MicroError, "maybe"),
        (302, MicroError, "maybe"),
    ],
)
@in_loop
async def test_another_status_is_a_typed_error(
    status: int, kind: type[MicroError], happened: str
) -> None:
    async with dialled() as peer:
        body = b"" if status == 204 else b"because\r\n\r\nof " + b"x" * 5000
        peer.write(b"HTTP/1.1 %d Some\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        error = await peer.fails(kind)
        assert error.code == status
        assert error.happened == happened
        assert str(status) in error.detail
        assert peer.socket.peer in error.detail
        assert status == 204 or "because of xxx" in error.detail
        assert len(error.detail) < 400


@pytest.mark.parametrize("length", [b"Content-Length: 1000\r\n", b""])
@in_loop
async def test_an_error_cut_short_is_still_that_error(length: bytes) -> None:
    async with dialled() as peer:
        peer.write(b"HTTP/1.0 503 Busy\r\n" + length + b"\r\nno room")
        peer.writer.write_eof()
        error = await peer.fails(Unavailable)
        assert error.detail.endswith("503 Service Unavailable: no room")


@in_loop
async def test_messages_before_an_error_come_first_and_none_after_it() -> None:
    async with dialled() as peer:
        good = OK + b"Content-Length: 1\r\n\r\n!"
        peer.write(good + b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" + good)
        assert (await peer.socket.recv()).body == b"!"
        await peer.fails(InternalError)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
    ],
)
@in_loop
async def test_garbage_is_a_bad_request(garbage: bytes) -> None:
    async with dialled() as peer:
        peer.write(garbage)
        error = await peer.fails(BadRequest)
        assert peer.socket.peer in error.detail
        assert error.happened == "maybe"


@in_loop
async def test_an_upgrade_nobody_asked_for_is_refused() -> None:
    async with dialled() as peer:
        peer.write(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI")
        with pytest.raises(MicroError):
            await peer.socket.recv()
        assert peer.socket.closed


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 1001\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"a\r\nhellohello\r\n" * 101,
        OK + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        OK + b"".join(b"X%d: 1\r\n" % n for n in range(120)) + b"\r\n",
    ],
)
@in_loop
async def test_answers_over_a_limit_are_too_large(answer: bytes) -> None:
    async with dialled(max_body=1000) as peer:
        peer.write(answer)
        error = await peer.fails(TooLarge)
        assert "limit" in error.detail or "more than" in error.detail


@in_loop
async def test_an_answer_cut_short_may_have_happened() -> None:
    async with dialled() as peer:
        peer.write(OK + b"Content-Length: 10\r\n\r\nhalf")
        await asyncio.sleep(0)
        peer.writer.close()
        error = await peer.fails(SocketClosed)
        assert "in the middle of a message" in error.detail
        assert error.happened == "maybe"


@in_loop
async def test_a_reset_is_seen_with_nobody_receiving() -> None:
    async with dialled() as peer:
        raw = peer.writer.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.writer.transport.abort()
        await until(lambda: bool(peer.socket.closed))
        with pytest.raises(SocketClosed) as caught:
            await peer.socket.recv()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@in_loop
async def test_the_refusal_of_a_long_body_is_read_although_it_was_being_sent() -> None:
    async def never(socket: Socket) -> None:
        await socket.recv()

    async with HttpTransport() as small, HttpTransport(max_body=50_000_000) as big:
        listener = await small.listen("127.0.0.1:0", never)
        socket = await big.dial(listener.address)
        await socket.send(Message({}, b"x" * 8_000_000))
        with pytest.raises(TooLarge) as caught:
            await socket.recv()
        assert caught.value.code == 413
        assert caught.value.happened == "no"


# -- dialling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:1", "nobody.invalid:80", "a" * 80 + ":80", ":80", "h:99999"]
)
@in_loop
async def test_dialling_in_vain_names_the_address(address: str) -> None:
    async with HttpTransport() as transport:
        with pytest.raises(BackendUnavailable) as caught:
            await transport.dial(address)
        assert caught.value.happened == "no"
        assert repr(address) in caught.value.detail
        assert caught.value.__cause__ is not None


@in_loop
async def test_dialling_a_peer_that_does_not_accept_takes_a_bounded_time() -> None:
    with sockets.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        waiting = []
        try:
            for _ in range(4):  # more than the kernel queues
                waiting.append(raw := sockets.socket())
                raw.setblocking(False)
                raw.connect_ex(full.getsockname())
            async with HttpTransport(connect_timeout=0.2) as transport:
                with pytest.raises(BackendUnavailable, match="within 0.2 s") as caught:
                    await transport.dial(address)
                assert caught.value.happened == "no"
        finally:
            for raw in waiting:
                raw.close()


def test_a_transport_belongs_to_one_loop() -> None:
    transport = HttpTransport()
    with asyncio.Runner() as runner:
        runner.run(transport.connect())
        with pytest.raises(WrongLoop):
            asyncio.run(transport.dial("127.0.0.1:1"))
        runner.run(transport.close())


@in_loop
async def test_a_transport_has_to_be_connected() -> None:
    with pytest.raises(BackendUnavailable, match="not connected"):
        await HttpTransport().dial("127.0.0.1:1")


@in_loop
async def test_names_that_peers_make_up_do_not_fill_the_memory() -> None:
    async with dialled(max_header_bytes=1 << 20, max_headers=10_000) as peer:
        for part in range(5):
            fields = b"".join(b"Made-Up-%d-%d: 1\r\n" % (part, n) for n in range(700))
            peer.write(OK + fields + b"Long-" + b"g" * 5000 + b": 1\r\nContent-Length: 0\r\n\r\n")
            header = (await peer.socket.recv()).header
            assert len(header) == 701
            await peer.socket.send(Message(header))
    assert len(_received) <= 1024
    assert len(_sent) <= 1024
    assert max(map(len, _received)) <= 64


@in_loop
async def test_nothing_is_logged_above_debug_for_a_peer_that_misbehaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(socket: Socket) -> None:
        while True:
            await socket.recv()

    async with HttpTransport() as transport:
        listener = await transport.listen("127.0.0.1:0", serve)
        host, port = listener.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"garbage\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []
