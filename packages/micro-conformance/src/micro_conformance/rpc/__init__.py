"""The promises of protocols: a client and a server, and what works on top of them."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import AsyncExitStack
from typing import Any, ClassVar, cast

from micro_core import Transport
from micro_core.client.base import RpcClient
from micro_core.plugin import Plugin
from micro_core.plugins import load, origin
from micro_core.server.base import RpcServer
from micro_core.settings import Settings
from micro_core.transport.memory import MemoryTransport

from ..backend import Backend
from .calls import Calls
from .interop import InteropTests
from .lab import RpcLab
from .lifetime import Lifetime
from .network import Network
from .ontop import OnTop
from .pair import Pair, RpcFeatures
from .streams import Streams


class RpcSuite(Calls, Streams, Lifetime, InteropTests, OnTop, Network):
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

    def configured(self, plugin: type[Any], address: str) -> Pair:
        return InstalledPair(address, client=plugin, server=load("server", plugin.name))

    def identity(self) -> tuple[str, str]:
        protocol = self.make("x").protocol
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.kind}:{protocol.name}{variant}", origin(protocol)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.make is not RpcSuite.make or cls.make_client is not RpcSuite.make_client
        cls.__test__ = own  # type: ignore[attr-defined]


RpcSuite.__test__ = False  # type: ignore[attr-defined]  # it has make, and not yet what that takes


class InstalledPair(Pair):
    """The plugins of one name, configured by variables, over memory."""

    def __init__(self, address: str, *, client: type[Plugin], server: type[Plugin]) -> None:
        super().__init__(address)
        self._client, self._server = client, server

    def make_transport(self) -> Transport:
        return MemoryTransport(self.address)

    def make_client(self, transport: Transport) -> RpcClient:
        return cast(RpcClient, self._configured("client", self._client, transport))

    def make_server(self, transport: Transport) -> RpcServer:
        return cast(RpcServer, self._configured("server", self._server, transport))

    def _configured(self, kind: str, plugin: type[Plugin], transport: Transport) -> Any:
        settings = Settings.read(None, os.environ)
        return settings.configure(kind, plugin, needs={Transport: transport})


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
