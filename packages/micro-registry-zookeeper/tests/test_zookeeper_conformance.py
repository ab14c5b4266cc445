"""ZooKeeper keeps every promise of registries."""

from __future__ import annotations

import asyncio

from micro_conformance import RegistrySuite
from micro_core import Registry
from micro_registry_zookeeper import ZooKeeperRegistry

SESSION = 4.0  # the shortest that a server grants whose tick is the usual one


class TestZooKeeper(RegistrySuite):
    server = "zookeeper"
    port = 2181
    restart = 2 * SESSION  # after an outage or a loss of data it is two session timeouts

    def make(self, address: str) -> ZooKeeperRegistry:
        return ZooKeeperRegistry(address, session_timeout=SESSION)

    async def backend_version(self, plugin: Registry) -> str:
        found = await asyncio.to_thread(plugin.native.server_version)
        return ".".join(map(str, found))
