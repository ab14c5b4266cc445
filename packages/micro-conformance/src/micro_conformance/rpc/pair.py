"""What is tried: a client and a server of one protocol."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from micro_core import Client, Transport
from micro_core.client.base import RpcClient
from micro_core.plugin import Plugin
from micro_core.server.base import RpcServer
from micro_core.server.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcFeatures:
    """What a protocol guarantees over the transport that it is tried on.

    backpressure: sending into a stream waits while the other side does not read.
    peer_end_noticed: who waits for the other side learns soon that it has gone.
    reply_metadata: the header of a response reaches the caller.
    """

    backpressure: bool = True
    peer_end_noticed: bool = True
    reply_metadata: bool = False


class Pair(Plugin):
    """Makes clients and servers that reach each other, as their author configures them.

    ``address`` is that of the transport. ``listen`` is what servers are started with.
    """

    kind: ClassVar[str] = "rpc"
    name: ClassVar[str] = "pair"
    features: RpcFeatures = RpcFeatures()
    listen: str = "127.0.0.1:0"
    caller: ClassVar[type[Client]] = Client  # what is put on top
    endpoints: ClassVar[type[Server]] = Server

    def __init__(self, address: str = "pair") -> None:
        self.address = address

    @abstractmethod
    def make_transport(self) -> Transport: ...

    @abstractmethod
    def make_client(self, transport: Transport) -> RpcClient: ...

    @abstractmethod
    def make_server(self, transport: Transport) -> RpcServer: ...

    @property
    def protocol(self) -> type[RpcClient]:
        """The class that a report is about."""
        return type(self.make_client(self.make_transport()))
