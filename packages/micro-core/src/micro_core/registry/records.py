"""What a registry holds. The field names are the JSON keys of Go Micro's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidName

NAME_LIMIT = 255


@dataclass(frozen=True, slots=True)
class Value:
    """The shape of a request or response: a name, a type name, and the fields below."""

    name: str
    type: str = ""
    values: Sequence[Value] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of a service; ``metadata["stream"]`` is ``"true"`` for a stream."""

    name: str
    request: Value | None = None
    response: Value | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Node:
    """One instance. ``address`` is ``host:port``, ``[v6]:port``, or a bare queue or subject."""

    id: str
    address: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """One version of a service and its nodes. Sequences are kept as tuples."""

    name: str
    version: str = "latest"
    nodes: Sequence[Node] = ()
    endpoints: Sequence[Endpoint] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "endpoints", tuple(self.endpoints))

    def with_nodes(self, nodes: Iterable[Node]) -> ServiceInfo:
        return ServiceInfo(self.name, self.version, tuple(nodes), self.endpoints, self.metadata)


@dataclass(frozen=True, slots=True)
class RegistryEvent:
    """A change of one node: ``service`` carries exactly that node."""

    action: Literal["create", "update", "delete"]
    service: ServiceInfo


def check_name(name: str, what: str = "service name") -> str:
    """Raises InvalidName for a name that is empty, over 255 bytes, or not printable."""
    if not name or not name.isprintable() or name != name.strip():
        raise InvalidName(f"{what} {name!r} must be printable text without blanks around it")
    if len(name.encode()) > NAME_LIMIT:
        raise InvalidName(f"{what} {name[:40]!r}… is longer than {NAME_LIMIT} bytes")
    return name


def by_node(services: Iterable[ServiceInfo]) -> dict[str, ServiceInfo]:
    """By node id, each with exactly that node; the last one read of an id counts."""
    return {node.id: info.with_nodes([node]) for info in services for node in info.nodes}


def by_version(services: Iterable[ServiceInfo]) -> list[ServiceInfo]:
    """One ServiceInfo per version, sorted, the nodes of each merged and sorted by id.

    Where nodes of one version disagree about endpoints or metadata, the greatest id counts.
    """
    merged: dict[str, ServiceInfo] = {}
    nodes: dict[str, list[Node]] = {}
    for _, info in sorted(by_node(services).items()):
        merged[info.version] = info
        nodes.setdefault(info.version, []).extend(info.nodes)
    return [merged[version].with_nodes(found) for version, found in sorted(nodes.items())]
