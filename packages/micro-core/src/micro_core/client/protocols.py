"""Which protocol and transport speak to a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import NoNodes
from ..registry.records import Node, ServiceInfo
from .base import RpcClient
from .options import Filter

Make = Callable[[str, str], "RpcClient | None"]


class Protocols:
    """One RpcClient for each pair of ``protocol`` and ``transport`` that nodes name.

    ``make(protocol, transport)`` builds one, or returns None where a plugin is missing. A node
    without ``protocol`` speaks mucp; one without ``transport`` the client's own.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._clients: dict[tuple[str, str], RpcClient | None] = {}

    def find(self, node: Node) -> RpcClient | None:
        key = (node.metadata.get("protocol") or "mucp", node.metadata.get("transport") or "")
        try:
            return self._clients[key]
        except KeyError:
            client = self._clients[key] = self._make(*key)
            return client

    def of(self, node: Node) -> RpcClient:
        """Raises NoNodes for a node that cannot be spoken to."""
        client = self.find(node)
        if client is None:
            raise NoNodes(f"{node.id} speaks {_spoken(node)}: install {_packages([_spoken(node)])}")
        return client

    def usable(self, info: ServiceInfo, node: Node) -> bool:
        return self.find(node) is not None

    def forget(self, node: Node) -> None:
        """Drop the idle connections of a node that the registry withdrew."""
        client = self.find(node)
        if client is not None:
            client.forget(node.address)

    async def close(self) -> None:
        for client in self._clients.values():
            if client is not None:
                await client.close()
        self._clients.clear()


def no_nodes(service: str, services: Iterable[ServiceInfo], filter: Filter | None) -> NoNodes:
    """The error that says why each node was left out."""
    version, labels = filter or Filter(None, frozenset())
    versions = sorted({info.version for info in services})
    of_version = [info for info in services if version in (None, info.version)]
    if not of_version:
        return NoNodes(f"{service} has no version {version}, only {', '.join(versions)}")
    nodes = [n for info in of_version for n in info.nodes if labels <= n.metadata.items()]
    if not nodes:
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(labels))
        return NoNodes(f"{service} has no node labelled {wanted}")
    spoken = sorted({_spoken(node) for node in nodes})
    count = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    return NoNodes(
        f"{service} has {count}, all speaking {', '.join(spoken)}: install {_packages(spoken)}"
    )


def _spoken(node: Node) -> str:
    protocol = node.metadata.get("protocol") or "mucp"
    transport = node.metadata.get("transport")
    return f"{protocol} over {transport}" if protocol == "mucp" and transport else protocol


def _packages(spoken: Iterable[str]) -> str:
    return " and ".join(
        f"micro-transport-{name.rpartition(' ')[2]}" if " over " in name else f"micro-{name}"
        for name in spoken
    )
