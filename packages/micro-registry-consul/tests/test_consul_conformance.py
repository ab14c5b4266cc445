"""Consul keeps every promise of registries."""

from __future__ import annotations

from micro_conformance import RegistrySuite
from micro_registry_consul import ConsulRegistry


class TestConsul(RegistrySuite):
    server = "consul"

    def make(self, address: str) -> ConsulRegistry:
        return ConsulRegistry(address)
