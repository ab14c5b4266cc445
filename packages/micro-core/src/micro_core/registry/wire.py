"""Go Micro's JSON of a service record, which its registries store and send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from .records import Endpoint, Node, ServiceInfo, Value

DEPTH = 32  # of values within values


def to_json(info: ServiceInfo) -> str:
    """ASCII without blanks; what is empty is ``null``, as Go writes it."""
    return _dump(
        {
            "name": info.name,
            "version": info.version,
            "metadata": _metadata(info.metadata),
            "endpoints": [_endpoint(endpoint) for endpoint in info.endpoints] or None,
            "nodes": [_node(node) for node in info.nodes] or None,
        }
    )


def from_json(text: str | bytes) -> ServiceInfo:
    """Raises ValueError that names the path of what is wrong.

    ``null`` and what is missing are empty; unknown keys are ignored.
    """
    record = _load(text)
    return ServiceInfo(
        _read_text(record, "name", ""),
        _read_text(record, "version", ""),
        tuple(_read_node(*item) for item in _read_list(record, "nodes", "")),
        tuple(_read_endpoint(*item) for item in _read_list(record, "endpoints", "")),
        _read_metadata(record, ""),
    )


def endpoint_to_json(endpoint: Endpoint) -> str:
    return _dump(_endpoint(endpoint))


def endpoint_from_json(text: str | bytes) -> Endpoint:
    """Raises ValueError like :func:`from_json`."""
    return _read_endpoint(_load(text), "")


# -- writing ---------------------------------------------------------------------------------


def _dump(record: dict[str, Any]) -> str:
    import json

    return json.dumps(record, separators=(",", ":"))


def _metadata(metadata: Mapping[str, str]) -> dict[str, str] | None:
    return dict(metadata) or None


def _node(node: Node) -> dict[str, Any]:
    return {"id": node.id, "address": node.address, "metadata": _metadata(node.metadata)}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "request": _value(endpoint.request),
        "response": _value(endpoint.response),
        "metadata": _metadata(endpoint.metadata),
    }


def _value(value: Value | None) -> dict[str, Any] | None:
    if value is None:
        return None
    values = [_value(each) for each in value.values] or None
    return {"name": value.name, "type": value.type, "values": values}


# -- reading ---------------------------------------------------------------------------------

_Record = dict[str, object]


def _load(text: str | bytes) -> _Record:
    import json

    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("the record is nested too deeply") from error
    return _object(found, "the record")


def _read_node(value: object, path: str) -> Node:
    node = _object(value, path)
    return Node(
        _read_text(node, "id", path), _read_text(node, "address", path), _read_metadata(node, path)
    )


def _read_endpoint(value: object, path: str) -> Endpoint:
    endpoint = _object(value, path)
    return Endpoint(
        _read_text(endpoint, "name", path),
        _read_value(endpoint.get("request"), _join(path, "request")),
        _read_value(endpoint.get("response"), _join(path, "response")),
        _read_metadata(endpoint, path),
    )


def _read_value(value: object, path: str, depth: int = DEPTH) -> Value | None:
    if value is None:
        return None
    if not depth:
        raise ValueError(f"{path} is nested too deeply")
    found = _object(value, path)
    read = [_read_value(*item, depth - 1) for item in _read_list(found, "values", path)]
    return Value(
        _read_text(found, "name", path),
        _read_text(found, "type", path),
        [each for each in read if each is not None],
    )


def _read_text(record: _Record, key: str, path: str) -> str:
    return _text(record.get(key), _join(path, key))


def _read_metadata(record: _Record, path: str) -> Mapping[str, str]:
    path = _join(path, "metadata")
    value = record.get("metadata")
    items = {} if value is None else _object(value, path)
    return {key: _text(item, f"{path}.{key}") for key, item in items.items()}


def _read_list(record: _Record, key: str, path: str) -> Sequence[tuple[object, str]]:
    """The items of a list, each with its path."""
    value, path = record.get(key), _join(path, key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _wrong(path, "a list", value)
    return [(item, f"{path}[{i}]") for i, item in enumerate(cast(list[object], value))]


def _text(value: object, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(path, "a text", value)
    return value


def _object(value: object, path: str) -> _Record:
    if not isinstance(value, dict):
        raise _wrong(path, "an object", value)
    return cast(_Record, value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(path: str, expected: str, value: object) -> ValueError:
    return ValueError(f"{path}: expected {expected}, got {type(value).__name__}")
