"""NATS keeps every promise of registries."""

from __future__ import annotations

from micro_conformance import RegistrySuite
from micro_core import Registry
from micro_registry_nats import NatsRegistry


class TestNats(RegistrySuite):
    server = "nats"
    port = 4222

    def make(self, address: str) -> NatsRegistry:
        return NatsRegistry(address)

    async def backend_version(self, plugin: Registry) -> str:
        return str(plugin.native.connected_server_version).rpartition("v")[2].rstrip(">")
