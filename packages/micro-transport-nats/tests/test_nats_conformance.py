"""NATS keeps every promise of transports."""

from __future__ import annotations

from typing import ClassVar

from micro_conformance import TransportSuite
from micro_core import Transport
from micro_transport_nats import NatsTransport


class TestNats(TransportSuite):
    server = "nats"
    port = 4222
    bind = ""
    deviations: ClassVar = {
        "test_a_body_of_a_mebibyte_arrives": "a NATS server takes 1 MiB a message unless its "
        "max_payload is raised, and Go's base64 makes four bytes of three",
    }

    def make(self, address: str) -> NatsTransport:
        return NatsTransport(address)

    async def backend_version(self, plugin: Transport) -> str:
        return str(plugin.native.connected_server_version).rpartition("v")[2].rstrip(">")
