"""Consul keeps every promise of registries."""

from __future__ import annotations

from micro_conformance import RegistrySuite
from micro_core import Registry
from micro_registry_consul import ConsulRegistry


class TestConsul(RegistrySuite):
    server = "consul"
    port = 8500

    def make(self, address: str) -> ConsulRegistry:
        return ConsulRegistry(address)

    async def backend_version(self, plugin: Registry) -> str:
        async with plugin.native.get(f"http://{plugin.address}/v1/agent/self") as response:
            return str((await response.json())["Config"]["Version"])
