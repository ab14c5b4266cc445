"""mucp over any transport, the client's side."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import ClassVar

from .. import mucp
from ..errors import InternalError, SocketClosed
from ..message import Message
from ..registry.records import Node
from ..transport.base import Socket, Transport
from .base import RpcClient, RpcRequest, RpcResponse, RpcStream
from .pool import SocketPool


class MucpClient(RpcClient):
    """A call takes a socket of the node from a pool for itself; a stream dials its own.

    pool_size: idle sockets kept for each node.
    pool_ttl: seconds after which an idle socket is closed.
    """

    name: ClassVar[str] = "mucp"

    def __init__(
        self, *, transport: Transport, pool_size: int = 100, pool_ttl: float = 60.0
    ) -> None:
        self._transport = transport
        self._pool = SocketPool(transport, pool_size, pool_ttl)
        self._ids = count()

    async def call(self, node: Node, request: RpcRequest) -> RpcResponse:
        id = str(next(self._ids))
        now = asyncio.get_running_loop().time()
        message = Message(mucp.request_header(request, id, now), request.body)
        socket = await self._pool.take(node.address)
        try:
            await socket.send(message)
            reply = await socket.recv()
        except BaseException:
            await socket.abort()
            raise
        header = reply.header
        if header.get("Micro-Id", id) != id:
            await socket.close()
            raise InternalError(f"{node.address} answered another request", happened="maybe")
        if header.get("Connection") == "close":
            await socket.close()
        else:
            self._pool.give(node.address, socket)
        if "Micro-Error" in header:
            mucp.raise_error(header)
        return RpcResponse(header.get("Content-Type", ""), reply.body, header)

    async def open(self, node: Node, request: RpcRequest) -> RpcStream:
        id = str(next(self._ids))
        now = asyncio.get_running_loop().time()
        header = mucp.request_header(request, id, now)
        header["Micro-Stream"] = id
        socket = await self._pool.dial(node.address)
        try:
            await socket.send(Message(header))
        except BaseException:
            await socket.abort()
            raise
        header.pop("Timeout", None)
        return MucpStream(socket, header)

    def forget(self, address: str) -> None:
        self._pool.forget(address)

    async def close(self) -> None:
        await self._pool.close()


class MucpStream(RpcStream):
    """A stream on a socket of its own: leaving it closes the socket."""

    def __init__(self, socket: Socket, header: dict[str, str]) -> None:
        self._socket = socket
        self._header = header
        self._ended = False
        self._finished = False

    async def send(self, body: bytes) -> None:
        if self._ended:
            raise SocketClosed("this side has ended the stream", happened="no")
        await self._socket.send(Message(dict(self._header), body))

    async def end(self) -> None:
        if not self._ended and not self._finished:
            self._ended = True
            await self._socket.send(Message({**self._header, "Micro-Error": mucp.EOS}))

    async def recv(self) -> bytes:
        if self._finished:
            raise StopAsyncIteration
        try:
            message = await self._socket.recv()
        except BaseException:
            self._finished = True
            raise
        if error := message.header.get("Micro-Error"):
            self._finished = True
            await self._socket.close()
            if error == mucp.EOS:
                raise StopAsyncIteration
            mucp.raise_error(message.header)
        return message.body

    async def close(self) -> None:
        self._finished = True
        await self._socket.abort()
