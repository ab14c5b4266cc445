"""The floor of HTTP RPC in Python: httptools, asyncio protocols, msgspec, and nothing else.

A server answers a POST of a small JSON object with another one, and a client keeps so many
connections busy, one request after another on each. No limits, timeouts, headers or checks.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import time
from typing import Any

import httptools
import msgspec


class Request(msgspec.Struct):
    name: str


class Reply(msgspec.Struct):
    greeting: str


_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(Request).decode
_reply = msgspec.json.Decoder(Reply).decode


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        request = _request(self._body)
        self._body = b""
        body = _encode(Reply(f"Hello {request.name}"))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


class Connection(asyncio.Protocol):
    def __init__(self, host: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = (
            f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: %d\r\n\r\n"
        ).encode()
        self._body = b""
        self._waiter: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if self._waiter is not None:
            self._waiter.set_result(_reply(body))

    def call(self, request: Request) -> asyncio.Future[Reply]:
        body = _encode(request)
        self._transport.write(self._head % len(body) + body)
        self._waiter = self._loop.create_future()
        return self._waiter

    def close(self) -> None:
        self._transport.close()


class Buffered(asyncio.BufferedProtocol):
    """Spares asyncio the 256 KiB that it allocates for every read of a plain Protocol."""

    _buffer = memoryview(bytearray(1 << 16))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes])

    def data_received(self, data: Any) -> None:
        raise NotImplementedError


class BufferedServer(Buffered, Server):
    data_received = Server.data_received


class BufferedConnection(Buffered, Connection):
    data_received = Connection.data_received


async def serve(sock: socket.socket, protocol: type[asyncio.BaseProtocol] = Server) -> None:
    """Serve the bound socket until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, sock=sock, backlog=1024)
    async with server:
        await server.serve_forever()


async def run_client(address: str, in_flight: int, calls: int) -> float:
    """Make ``calls`` calls over ``in_flight`` connections; the seconds that took."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(address), host, int(port)))[1]
        for _ in range(in_flight)
    ]

    async def work(connection: Connection) -> None:
        for _ in range(calls // in_flight):
            reply = await connection.call(Request("John"))
            assert reply.greeting == "Hello John"

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(work(connection))
    seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return seconds


def runner(loop: str) -> Any:
    """``asyncio.run``, or uvloop's."""
    if loop == "asyncio":
        return asyncio.run
    import uvloop

    return uvloop.run


def _serve(sock: socket.socket, loop: str) -> None:
    runner(loop)(serve(sock))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--calls", type=int, default=40_000)
    options = parser.parse_args()
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.get_context("fork").Process(
        target=_serve, args=(sock, options.loop), daemon=True
    )
    server.start()
    address = f"127.0.0.1:{sock.getsockname()[1]}"
    for _ in range(3):
        call = run_client(address, options.in_flight, options.calls)
        seconds = runner(options.loop)(call)
        print(f"{options.loop}: {options.calls / seconds:,.0f} calls/s")
    server.terminate()


if __name__ == "__main__":
    main()
