"""Registries with one fault each; most were found in real ones."""

from __future__ import annotations

from collections.abc import Sequence

from micro_core import ServiceInfo
from micro_core.registry.memory import MemoryRegistry

from ..mutants import mutant


@mutant("test_one_of_several_can_go", "test_a_leaving_node_is_told")
class DeregistersTheService(MemoryRegistry):
    """Deregistering one node removes every node of its service."""

    async def _deregister(self, info: ServiceInfo) -> None:
        for found in await self._get_service(info.name):
            await super()._deregister(found)


@mutant("test_endpoints_can_change", "test_changed_endpoints_are_told")
class KeepsFirstEndpoints(MemoryRegistry):
    """A node that is registered again keeps the endpoints it had first."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        known = {n.id: i for i in await self._get_service(info.name) for n in i.nodes}
        for node in info.nodes:
            before = known.get(node.id, info)
            kept = ServiceInfo(info.name, info.version, [node], before.endpoints, info.metadata)
            await super()._register(kept, ttl)


@mutant("test_a_silent_node_is_gone_after_its_ttl", "test_an_expired_node_is_told")
class NeverExpires(MemoryRegistry):
    """A node stays for ever, whatever its TTL."""

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        await super()._register(info, 1e9)


@mutant("test_an_unknown_service_is_an_empty_list")
class InventsServices(MemoryRegistry):
    """A name that nobody has ever registered is an error."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._ever: set[str] = set()

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        self._ever.add(info.name)
        await super()._register(info, ttl)

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        found = await super()._get_service(name)
        if not found and name not in self._ever:
            raise LookupError(name)
        return found
