"""Go Micro's JSON of a service record, which its registries store and send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from .records import Endpoint, ServiceInfo, Value

DEPTH = 32  # of values within values
T = TypeVar("T")
_ORDER: Mapping[Any, Sequence[str]] = {
    ServiceInfo: ("name", "version", "metadata", "endpoints", "nodes")  # others as ours
}


def to_json(info: ServiceInfo) -> str:
    """ASCII without blanks; what is empty is ``null``, as Go writes it."""
    return _dump(info)


def from_json(text: str | bytes) -> ServiceInfo:
    """Raises ValueError that names the path of what is wrong.

    ``null`` and optional keys that are missing are empty; unknown keys are ignored.
    """
    info = _load(text, ServiceInfo, version="")
    for endpoint in info.endpoints:
        _check_depth(endpoint)
    return info


def endpoint_to_json(endpoint: Endpoint) -> str:
    return _dump(endpoint)


def endpoint_from_json(text: str | bytes) -> Endpoint:
    """Raises ValueError like :func:`from_json`."""
    return _check_depth(_load(text, Endpoint))


def _dump(record: Any) -> str:
    import json

    return json.dumps(record, default=_object, separators=(",", ":"))


def _object(record: Any) -> dict[str, Any]:
    if isinstance(record, Mapping):
        return dict(cast(Mapping[str, Any], record))
    names = _ORDER.get(type(record)) or [field.name for field in fields(record)]
    found = {name: getattr(record, name) for name in names}
    return {k: v if v or isinstance(v, str) else None for k, v in found.items()}


def _load(text: str | bytes, type_: type[T], **defaults: str) -> T:
    import json

    from msgspec import ValidationError, convert

    try:
        found: Any = json.loads(text, object_hook=_without_nulls)
        return convert(defaults | found if isinstance(found, dict) else found, type_)
    except RecursionError as error:
        raise ValueError("the record is nested too deeply") from error
    except ValidationError as error:
        raise ValueError(str(error)) from error


def _without_nulls(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value is not None}


def _check_depth(endpoint: Endpoint) -> Endpoint:
    level: list[Value] = [value for value in (endpoint.request, endpoint.response) if value]
    for _ in range(DEPTH):
        level = [inner for value in level for inner in value.values]
    if level:
        raise ValueError(f"a value of endpoint {endpoint.name[:40]!r} is nested too deeply")
    return endpoint
