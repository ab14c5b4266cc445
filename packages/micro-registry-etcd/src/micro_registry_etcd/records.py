"""Where Go Micro keeps a node in etcd, and what is in there."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from micro_core.registry.records import Node, RegistryEvent, ServiceInfo
from micro_core.registry.wire import from_json, to_json

ROOT = "/micro/registry/"

KeyValue = Mapping[str, Any]
"""As the gateway has it: keys and values in base64, numbers of 64 bits as text."""


def text64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def folder_of(service: str) -> str:
    """Of a service's keys; services whose names differ in ``/`` and ``-`` alone share it."""
    return f"{ROOT}{service.replace('/', '-')}/"


def key_of(service: str, node: str) -> str:
    """Go finds a record by its folder, so that the last part is free to tell apart what shares it:
    it is Go's where no ``/`` is in a name, and else one that no other node has."""
    shared = "/" in service + node
    return folder_of(service) + (quote(f"{service}/{node}", safe="") if shared else node)


def everything_in(folder: str) -> dict[str, str]:
    """The range of all keys that begin with ``folder``."""
    return {"key": text64(folder), "range_end": text64(folder[:-1] + "0")}


def just_after(key: str) -> str:
    return text64(b64decode(key) + b"\0")


def to_value(info: ServiceInfo, node: Node) -> str:
    return text64(to_json(info.with_nodes([node])))


def from_value(pair: KeyValue) -> ServiceInfo:
    """Raises ValueError for what is no record."""
    return from_json(b64decode(pair.get("value", "")))


def changes_of(before: ServiceInfo | None, after: ServiceInfo | None) -> Iterator[RegistryEvent]:
    """What became of the record of one key; nothing where it was written again as it was."""
    if before and (not after or _ids(before) != _ids(after)):
        yield RegistryEvent("delete", before)
    if after and after != before:
        yield RegistryEvent("update" if before else "create", after)


def _ids(info: ServiceInfo) -> set[str]:
    return {node.id for node in info.nodes}
