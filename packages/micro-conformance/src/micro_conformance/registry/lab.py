"""Records to register, and ways to look at them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from micro_core import Endpoint, Node, Registry, ServiceInfo, Value
from micro_core.registry.watcher import Watcher

from ..lab import Lab

ENDPOINT = Endpoint(
    "Say.Hello",
    Value("HelloRequest", "HelloRequest", [Value("name", "string")]),
    Value("HelloReply", "HelloReply", [Value("greeting", "string")]),
    {"stream": "true"},
)


class RegistryLab(Lab[Registry]):
    def node(self, service: str, number: int = 1, **metadata: str) -> Node:
        """A node whose id no other service has. Its address is one that nobody listens on."""
        return Node(f"{service}-{number}", f"127.0.0.1:{10_000 + number}", metadata)

    def info(
        self, name: str = "", *, nodes: Sequence[int] = (1,), version: str = "1.0.0"
    ) -> ServiceInfo:
        name = name or self.name()
        made = [self.node(name, number) for number in nodes]
        return ServiceInfo(name, version, made, [ENDPOINT])

    @asynccontextmanager
    async def watching(self, registry: Registry, name: str) -> AsyncGenerator[Watcher]:
        """A watcher that has read its first lists: what it tells from now on it was told."""
        loop = asyncio.get_running_loop()
        async with registry.watch(name) as watcher:
            begin = loop.time()
            await self.eventually(lambda: loop.time() - watcher.age > begin, "the list was read")
            await asyncio.sleep(0.2)  # it is read again where changes came meanwhile
            yield watcher

    async def sees(self, registry: Registry, name: str, nodes: Sequence[int]) -> None:
        """Return once a list has exactly these nodes."""
        wanted = sorted(self.node(name, number).id for number in nodes)

        async def seen() -> bool:
            return ids(await registry.get_service(name)) == wanted

        await self.eventually(seen, f"{name} has the nodes {wanted}")


def ids(services: Sequence[ServiceInfo]) -> list[str]:
    """The ids of all nodes, sorted."""
    return sorted(node.id for info in services for node in info.nodes)
