"""What is measured: each subject's server, and callers of it. All answer the same small JSON."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import floor_http
import floor_memory
import msgspec
from floor_http import Reply, Request

Call = Callable[[], Awaitable[Reply]]
JOHN = Request("John")
TIMEOUT = 5.0  # seconds; the default of micro-core, given to grpc.aio too
_GRPC_METHOD = "/greeter.Greeter/Hello"


@dataclass(frozen=True, slots=True)
class Subject:
    """``serve`` gives the address of a server in this process; ``connect(address, in_flight)``
    gives as many callers. A subject without ``serve`` lives in one process."""

    name: str
    connect: Callable[[str, int], AbstractAsyncContextManager[list[Call]]]
    serve: Callable[[], AbstractAsyncContextManager[str]] | None = None
    loops: frozenset[str] = frozenset({"asyncio", "uvloop"})


# -- the floors ----------------------------------------------------------------------------------


@asynccontextmanager
async def serve_floor_http(
    protocol: type[asyncio.BaseProtocol] = floor_http.Server,
) -> AsyncIterator[str]:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = asyncio.create_task(floor_http.serve(sock, protocol))
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.cancel()
        await asyncio.wait([server])


@asynccontextmanager
async def connect_floor_http(
    address: str, in_flight: int, kind: type[floor_http.Connection] = floor_http.Connection
) -> AsyncIterator[list[Call]]:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: kind(address), host, int(port)))[1]
        for _ in range(in_flight)
    ]
    try:
        yield [lambda each=each: each.call(JOHN) for each in connections]  # type: ignore[misc]
    finally:
        for connection in connections:
            connection.close()


@asynccontextmanager
async def connect_floor_memory(_address: str, in_flight: int) -> AsyncIterator[list[Call]]:
    async with floor_memory.pairs(in_flight) as pairs:
        yield [lambda pair=pair: pair.call(JOHN) for pair in pairs]  # type: ignore[misc]


# -- micro-core ----------------------------------------------------------------------------------


class Greeter:
    async def hello(self, request: Request) -> Reply:
        return Reply(f"Hello {request.name}")


@asynccontextmanager
async def serve_micro(transport: str = "http") -> AsyncIterator[str]:
    from micro_core import Service

    service = Service("greeter", registry="memory", broker="memory", transport=transport)
    service.handle(Greeter())
    async with service:
        assert service.node is not None
        yield service.node.address


@asynccontextmanager
async def connect_micro(
    address: str, in_flight: int, transport: str = "http"
) -> AsyncIterator[list[Call]]:
    from micro_core import Client, Node, ServiceInfo
    from micro_core.registry.memory import MemoryRegistry

    def call() -> Awaitable[Reply]:
        return client.call("greeter", "Greeter.Hello", JOHN, Reply)

    registry = MemoryRegistry(f"bench-{transport}")
    client = Client(registry=registry, broker="memory", transport=transport)
    node = Node("greeter-1", address, {"protocol": "mucp", "transport": transport})
    async with registry, registry.keep(ServiceInfo("greeter", "latest", [node])), client:
        yield [call] * in_flight


@asynccontextmanager
async def connect_micro_memory(_address: str, in_flight: int) -> AsyncIterator[list[Call]]:
    async with (
        serve_micro("memory") as address,
        connect_micro(address, in_flight, "memory") as made,
    ):
        yield made


# -- grpc.aio ------------------------------------------------------------------------------------


def _grpc() -> Any:
    """It has no types, and its threads start with the import."""
    return importlib.import_module("grpc.aio")


@asynccontextmanager
async def serve_grpc() -> AsyncIterator[str]:
    grpc = importlib.import_module("grpc")

    async def hello(request: Request, _context: object) -> Reply:
        return Reply(f"Hello {request.name}")

    server = _grpc().server()
    handler = grpc.unary_unary_rpc_method_handler(
        hello, msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
    )
    service, _, method = _GRPC_METHOD[1:].partition("/")
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def connect_grpc(address: str, in_flight: int) -> AsyncIterator[list[Call]]:
    async with _grpc().insecure_channel(address) as channel:
        hello = channel.unary_unary(
            _GRPC_METHOD, msgspec.json.Encoder().encode, msgspec.json.Decoder(Reply).decode
        )
        yield [lambda: hello(JOHN, timeout=TIMEOUT)] * in_flight


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("floor-http", connect_floor_http, serve_floor_http),
        Subject(
            "floor-buffered",
            partial(connect_floor_http, kind=floor_http.BufferedConnection),
            partial(serve_floor_http, floor_http.BufferedServer),
        ),
        Subject("micro-http", connect_micro, serve_micro),
        Subject("grpc.aio", connect_grpc, serve_grpc, frozenset({"asyncio"})),
        Subject("floor-memory", connect_floor_memory),
        Subject("micro-memory", connect_micro_memory),
    )
}
