"""The promises of protocols: a client and a server, and what works on top of them."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from micro_core import Transport
from micro_core.client.base import RpcClient
from micro_core.plugin import Plugin
from micro_core.server.base import RpcServer
from micro_core.transport.memory import MemoryTransport

from ..backend import Backend
from .calls import Calls
from .interop import InteropTests
from .lab import RpcLab
from .lifetime import Lifetime
from .ontop import OnTop
from .pair import Pair, RpcFeatures
from .streams import Streams


class RpcSuite(Calls, Streams, Lifetime, InteropTests, OnTop):
    """Every promise of a protocol. Subclass it, name the class ``Test…``, and write
    ``make_client`` and ``make_server``; ``make_transport`` if it is not to be tried on memory.

    features: what the protocol guarantees on that transport.
    listen: the address that servers are started with, which gives each another one.
    """

    kind: ClassVar[str] = "rpc"
    features: ClassVar[RpcFeatures] = RpcFeatures()
    listen: ClassVar[str] = "127.0.0.1:0"

    @abstractmethod
    def make_client(self, transport: Transport) -> RpcClient: ...

    @abstractmethod
    def make_server(self, transport: Transport) -> RpcServer: ...

    def make_transport(self, address: str) -> Transport:
        """What client and server work on, not connected; one for each. A protocol that does
        without leaves this alone."""
        return MemoryTransport(address)

    def make(self, address: str) -> Pair:
        return SuitePair(address, suite=self)

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> RpcLab:
        return RpcLab(self, backend, stack)

    def subject(self, made: Any) -> type[Plugin]:
        return made.protocol  # type: ignore[no-any-return]


class SuitePair(Pair):
    """Clients and servers as the author of a suite makes them."""

    def __init__(self, address: str, *, suite: RpcSuite) -> None:
        super().__init__(address)
        self._suite = suite
        self.features, self.listen = suite.features, suite.listen

    def make_transport(self) -> Transport:
        return self._suite.make_transport(self.address)

    def make_client(self, transport: Transport) -> RpcClient:
        return self._suite.make_client(transport)

    def make_server(self, transport: Transport) -> RpcServer:
        return self._suite.make_server(transport)


__all__ = ["Pair", "RpcFeatures", "RpcSuite"]
