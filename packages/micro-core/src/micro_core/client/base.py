"""The protocol under a Client: one request to one node, headers and bytes only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from ..message import Header
from ..plugin import Plugin
from ..registry.records import Node


@dataclass(slots=True)
class RpcRequest:
    """A request on its way.

    ``header`` is the metadata, canonical and free of the protocol's own names. ``deadline`` is a
    time of the event loop's clock, ``None`` for none; the protocol sends what is left of it, and
    the number of the attempt. ``peer`` is the address of the other side.
    """

    service: str
    endpoint: str
    content_type: str
    body: bytes = b""
    header: Header = field(default_factory=dict[str, str])
    deadline: float | None = None
    peer: str = ""
    attempt: int = 1


@dataclass(slots=True)
class RpcResponse:
    content_type: str
    body: bytes = b""
    header: Header = field(default_factory=dict[str, str])


class RpcStream(ABC):
    """Both ends of a stream of bodies; one task may send while another receives."""

    @abstractmethod
    async def send(self, body: bytes) -> None:
        """Raises SocketClosed once the other side has ended the stream."""

    @abstractmethod
    async def end(self) -> None:
        """Half close: nothing more will be sent; receiving goes on. Idempotent."""

    @abstractmethod
    async def recv(self) -> bytes:
        """The next body. Raises StopAsyncIteration at the end, the peer's MicroError otherwise."""

    @abstractmethod
    async def close(self) -> None:
        """Leave. An unfinished handler on the other side is cancelled. Idempotent."""


class RpcClient(Plugin):
    """Speaks one protocol to nodes that were chosen already.

    It neither retries nor chooses nor decodes. Each error tells in ``happened`` whether the
    handler can have run; cancelling a call makes the other side cancel its handler.
    """

    kind: ClassVar[str] = "client"

    @abstractmethod
    async def call(self, node: Node, request: RpcRequest) -> RpcResponse: ...

    @abstractmethod
    async def open(self, node: Node, request: RpcRequest) -> RpcStream:
        """A stream to an endpoint; ``request.body`` is not sent."""

    def forget(self, address: str) -> None:
        """The registry withdrew the node at ``address``: drop its idle connections."""

    @abstractmethod
    async def close(self) -> None:
        """End all connections; bounded and idempotent."""
