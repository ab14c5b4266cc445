"""mucp over NATS keeps every promise of protocols, gRPC's interoperability table among them."""

from __future__ import annotations

from typing import ClassVar

from micro_conformance import RpcFeatures, RpcSuite
from micro_core import Transport
from micro_core.client.base import RpcClient
from micro_core.client.mucp import MucpClient
from micro_core.server.base import RpcServer
from micro_core.server.mucp import MucpServer
from micro_transport_nats import NatsTransport

TOO_LARGE = "a NATS server takes 1 MiB a message, and Go's base64 makes four bytes of three"


class TestMucpOverNats(RpcSuite):
    variant = "nats"
    server = "nats"
    port = 4222
    listen = ""
    features = RpcFeatures(backpressure=False)
    deviations: ClassVar = {
        "test_any_body_travels_both_ways": TOO_LARGE,
        "test_any_message_travels": TOO_LARGE,
    }

    def make_transport(self, address: str) -> Transport:
        return NatsTransport(address)

    def make_client(self, transport: Transport) -> RpcClient:
        return MucpClient(transport=transport)

    def make_server(self, transport: Transport) -> RpcServer:
        return MucpServer(transport=transport)
