"""etcd keeps every promise of registries."""

from __future__ import annotations

from micro_conformance import RegistrySuite
from micro_core import Registry
from micro_registry_etcd import EtcdRegistry


class TestEtcd(RegistrySuite):
    server = "etcd"
    port = 2379

    def make(self, address: str) -> EtcdRegistry:
        return EtcdRegistry(address)

    async def backend_version(self, plugin: Registry) -> str:
        async with plugin.native.get(f"http://{plugin.address}/version") as response:
            return str((await response.json(content_type=None))["etcdserver"])
