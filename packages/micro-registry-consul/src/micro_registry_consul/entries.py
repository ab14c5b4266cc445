"""Nodes as Consul's service entries, in the bytes of Go Micro.

What Consul has no field for is in tags, each a letter, a dash, and the hex of a zlib stream:
``v-`` the version, each ``e-`` an endpoint as JSON, each ``t-`` one pair of the node's metadata
as a JSON object. ``m-``, the service's metadata, is ours: Go neither writes nor reads it.
"""

from __future__ import annotations

import contextlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from micro_core.errors import TooLarge
from micro_core.registry.records import Endpoint, Node, ServiceInfo
from micro_core.registry.wire import endpoint_from_json, endpoint_to_json
from micro_core.security import inflate

ENTRY_LIMIT = 1 << 20  # decompressed bytes of all tags of one node
ANSWER_LIMIT = 64 << 20  # and of all nodes of one answer

Entry = Mapping[str, Any]
_HOST_PORT = re.compile(r"(?:\[([^]]+)\]|([^:]*)):(\d{1,5})", re.ASCII)


def to_entry(info: ServiceInfo, node: Node, ttl: float, more_tags: Sequence[str]) -> Entry:
    """The body of a registration. An address that is no host and port goes in as it is."""
    match = _HOST_PORT.fullmatch(node.address)
    host, port = (match[1] or match[2], int(match[3])) if match else (node.address, 0)
    critical = max(ttl + 5.0, 65.0)  # Consul waits a minute at least
    check = {"TTL": _duration(ttl), "DeregisterCriticalServiceAfter": _duration(critical)}
    tags = [*to_tags(info, node), *more_tags]
    entry = {"ID": node.id, "Name": info.name, "Tags": tags, "Address": host, "Check": check}
    return {**entry, "Port": port} if port else entry


def from_entries(name: str, found: Sequence[Entry]) -> list[ServiceInfo]:
    """One ServiceInfo an entry. Consul finds names without regard to case; those are left out."""
    limit = min(ENTRY_LIMIT, ANSWER_LIMIT // max(1, len(found)))
    return [_info(entry, limit) for entry in found if entry["Service"]["Service"] == name]


def _info(entry: Entry, limit: int) -> ServiceInfo:
    service = entry["Service"]
    address, port = service.get("Address") or entry["Node"]["Address"], service.get("Port")
    if port:
        address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    version, endpoints, node_metadata, metadata = from_tags(service.get("Tags") or (), limit)
    node = Node(service["ID"], address, node_metadata)
    return ServiceInfo(service["Service"], version, [node], endpoints, metadata)


def _duration(seconds: float) -> str:
    """As Go reads and writes one: ``30s``, ``1m5s``, ``0.5s``."""
    minutes, rest = divmod(max(1, round(seconds * 1000)), 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"


# -- tags ------------------------------------------------------------------------------------


def to_tags(info: ServiceInfo, node: Node) -> list[str]:
    """Go reads them as long as no foreign tag that starts with e, t or v comes first."""
    return [
        *(_pack("t-", _dump({key: value})) for key, value in node.metadata.items()),
        *(_pack("e-", endpoint_to_json(endpoint)) for endpoint in info.endpoints),
        _pack("v-", info.version),
        *([_pack("m-", _dump(dict(info.metadata)))] if info.metadata else []),
    ]


def from_tags(
    tags: Sequence[str], limit: int = ENTRY_LIMIT
) -> tuple[str, list[Endpoint], dict[str, str], dict[str, str]]:
    """Version, endpoints, the node's and the service's metadata: what is ours among the tags.

    Anything else is passed over, and so is what would decompress to more than ``limit`` bytes.
    """
    found: dict[str, list[str]] = {}
    for form, text in _texts(tags, limit):
        found.setdefault(form, []).append(text)
    endpoints = [endpoint for text in _of("e", found) if (endpoint := _endpoint(text))]
    version = next(iter(_of("v", found)), "") or "latest"
    return version, endpoints, _metadata(_of("t", found)), _metadata(_of("m", found))


def _texts(tags: Sequence[str], limit: int) -> Iterator[tuple[str, str]]:
    for tag in tags:
        form, text = tag[:2], tag[2:]
        if form in ("v=", "e=", "t="):
            yield form, text
        elif form in ("v-", "e-", "t-", "m-") and limit > 0:
            with contextlib.suppress(ValueError, TooLarge):
                raw = inflate(bytes.fromhex(text), limit)
                limit -= len(raw)
                yield form, raw.decode()


def _of(kind: str, found: Mapping[str, list[str]]) -> list[str]:
    """Old writers have plain text after ``=``, some in addition: then it says nothing new."""
    return found.get(f"{kind}-") or found.get(f"{kind}=") or []


def _pack(form: str, text: str) -> str:
    return form + zlib.compress(text.encode()).hex()


def _dump(pairs: dict[str, str]) -> str:
    return json.dumps(pairs, separators=(",", ":"))


def _endpoint(text: str) -> Endpoint | None:
    try:
        endpoint = endpoint_from_json(text)
    except ValueError:
        return None
    return endpoint if endpoint.name else None


def _metadata(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(text)
            items = cast(dict[str, Any], data).items() if isinstance(data, dict) else ()
            pairs.update((key, value) for key, value in items if isinstance(value, str))
    return pairs
