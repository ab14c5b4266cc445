"""mucp over memory, with places for a fault: the client, the server, a stream."""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Any, ClassVar

from micro_core import (
    MicroError,
    Node,
    Transport,
)
from micro_core.client.base import RpcClient, RpcRequest, RpcResponse, RpcStream
from micro_core.client.mucp import MucpClient, MucpStream
from micro_core.server.base import Dispatch, RpcServer
from micro_core.server.mucp import MucpServer
from micro_core.transport.memory import MemorySocket, MemoryTransport

from ...rpc.pair import Pair


class Asking(MucpClient):
    """A client whose calls, requests and streams a mutant may spoil."""

    def __init__(self, *, transport: Transport) -> None:
        super().__init__(transport=transport)
        self.flying = 0

    async def call(self, node: Node, request: RpcRequest) -> RpcResponse:
        self.flying += 1
        try:
            return await self.calling(node, self.spoilt(request))
        finally:
            self.flying -= 1

    async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
        return await super().call(node, request)

    async def open(self, node: Node, request: RpcRequest) -> RpcStream:
        opened = await super().open(node, self.spoilt(request))
        assert isinstance(opened, MucpStream)
        return self.stream(opened)

    def spoilt(self, request: RpcRequest) -> RpcRequest:
        return request

    def stream(self, opened: MucpStream) -> RpcStream:
        return opened


class Answering(MucpServer):
    """A server between whose dispatch and the wire a mutant may stand."""

    async def start(self, address: str, dispatch: Dispatch) -> str:
        self.real = dispatch
        return await super().start(address, self.answer)

    async def answer(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
        try:
            return await self.real(request, stream)
        except MicroError as error:
            raise self.raised(copy(error)) from error

    def raised(self, error: MicroError) -> MicroError:
        return error


class Talking(MucpStream):
    """The caller's end of a stream, made of a sound one."""

    def __init__(self, opened: MucpStream) -> None:
        super().__init__(opened._socket, opened._header)

    @property
    def inbox(self) -> deque[Any]:
        assert isinstance(self._socket, MemorySocket)
        return self._socket._inbox


class Mucp(Pair):
    """mucp over memory; a mutant replaces ``Client``, ``Server`` or ``Stream``."""

    name = "mucp"

    Client: ClassVar[type[Asking]] = Asking
    Server: ClassVar[type[Answering]] = Answering
    Stream: ClassVar[type[Talking] | None] = None

    def make_transport(self) -> Transport:
        return MemoryTransport(self.address)

    def make_client(self, transport: Transport) -> RpcClient:
        client = self.Client(transport=transport)
        if self.Stream is not None:
            client.stream = self.Stream  # type: ignore[method-assign]
        return client

    def make_server(self, transport: Transport) -> RpcServer:
        return self.Server(transport=transport)


def leave_all(transport: Transport) -> None:
    assert isinstance(transport, MemoryTransport)
    for one in list(transport._opened):
        if isinstance(one, MemorySocket):
            one.leave()
