"""Types of pydantic and protobuf, recognised without importing either, as plain JSON values."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def is_protobuf(type_: Any) -> bool:
    return _is(type_, "google.protobuf.message", "Message")


def is_pydantic(type_: Any) -> bool:
    return _is(type_, "pydantic.main", "BaseModel")


def _is(type_: Any, module: str, base: str) -> bool:
    """Whoever made such a type has imported its module."""
    found = sys.modules.get(module)
    return found is not None and isinstance(type_, type) and issubclass(type_, getattr(found, base))


def to_plain(value: Any) -> Any:
    """Plain values of a message. Raises TypeError for a value that JSON cannot carry."""
    if is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    if is_protobuf(type(value)):
        return _json_format().MessageToDict(value)
    raise TypeError(f"{type(value).__qualname__} is no type that JSON carries")


def from_plain(type_: Any, plain: Any) -> Any:
    """A message of plain values. Raises ValueError, with the path as msgspec writes it."""
    if is_pydantic(type_):
        return _to_pydantic(type_, plain)
    if is_protobuf(type_):
        return _to_protobuf(type_, plain)
    if type_ is object:
        return plain
    raise ValueError(f"{type_!r} is no type that JSON carries")


def _to_pydantic(type_: Any, plain: Any) -> Any:
    import msgspec

    try:
        return type_.model_validate_json(msgspec.json.encode(plain))  # as strict as for JSON
    except ValueError as error:
        find: Any = getattr(error, "errors", None)
        if find is None:
            raise
        first = find(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
        raise ValueError(f"{first['msg']} - at `${path}`") from error


def _json_format() -> Any:
    return import_module("google.protobuf.json_format")


def _to_protobuf(type_: Any, plain: Any) -> Any:
    try:
        return _json_format().ParseDict(plain, type_(), ignore_unknown_fields=True)
    except RecursionError:
        raise
    except Exception as error:  # ParseError, and for odd input a dozen others
        raise ValueError(f"{type_.DESCRIPTOR.full_name}: {error}") from error
