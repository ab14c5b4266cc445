"""From a type to the tree of Values that the registry shows of it, as Go Micro writes it.

Names are those on the wire, types Go's. Below the message there are two levels of fields; a list
is ``[]Item`` and shows no fields, nor does a type within itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..codec.models import is_protobuf, is_pydantic
from ..registry.records import Value

LEVELS = 3
_GO = {"int": "int64", "float": "float64", "str": "string", "bytes": "[]uint8"}
_LISTS = {"ListType", "SetType", "FrozenSetType", "VarTupleType"}
# by cpp_type; enums and messages have names of their own
_SCALARS = ("int32", "int64", "uint32", "uint64", "float64", "float32", "bool", "", "string")


def value_of(type_: Any) -> Value | None:
    """None for no message at all."""
    if type_ is None or type_ is type(None):
        return None
    return _value("", _inspect(type_), ())


def _inspect(type_: Any) -> Any:
    from msgspec.inspect import AnyType, type_info

    try:
        return type_info(type_)
    except TypeError:  # a union that only pydantic can read, or a forward reference
        return AnyType()


def _value(name: str, info: Any, inside: tuple[Any, ...]) -> Value:
    info = _required(info)
    text = _type_name(info)
    of = getattr(info, "cls", None)
    if of is None or of in inside or len(inside) + 1 == LEVELS:
        return Value(name or text, text)
    if is_protobuf(of):
        return _message(name, of.DESCRIPTOR, inside)
    fields = [_value(field, each, (*inside, of)) for field, each in _fields(info)]
    return Value(name or text, text, fields)


def _required(info: Any) -> Any:
    """``T | None`` as ``T``: Go's pointers are not shown either."""
    members = [m for m in getattr(info, "types", ()) if type(m).__name__ != "NoneType"]
    return members[0] if len(members) == 1 else info


def _fields(info: Any) -> Iterator[tuple[str, Any]]:
    if is_pydantic(info.cls):
        for name, field in info.cls.model_fields.items():
            yield field.alias or name, _inspect(field.annotation)
    for field in getattr(info, "fields", ()):
        yield field.encode_name, field.type


def _type_name(info: Any) -> str:
    info = _required(info)
    kind = type(info).__name__
    if kind in _LISTS:
        return f"[]{_type_name(info.item_type)}"
    if kind == "DictType":
        return f"map[{_type_name(info.key_type)}]{_type_name(info.value_type)}"
    if kind == "UnionType":
        return "|".join(_type_name(member) for member in info.types)
    if (of := getattr(info, "cls", None)) is not None:
        return str(of.__name__)
    name = kind.removesuffix("Type").lower()
    return _GO.get(name, name)


# -- protobuf --------------------------------------------------------------------------------


def _message(name: str, descriptor: Any, inside: tuple[Any, ...]) -> Value:
    inside = (*inside, descriptor)
    fields = [_field(field, inside) for field in descriptor.fields]
    return Value(name or descriptor.name, descriptor.name, fields)


def _field(field: Any, inside: tuple[Any, ...]) -> Value:
    nested = field.message_type
    if _is_list(field) or nested is None or nested in inside or len(inside) == LEVELS - 1:
        return Value(field.name, _field_type(field))
    return _message(field.name, nested, inside)


def _field_type(field: Any) -> str:
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        key, value = nested.fields
        return f"map[{_field_type(key)}]{_field_type(value)}"
    prefix = "[]" if _is_list(field) else ""
    if field.type == field.TYPE_BYTES:
        return f"{prefix}[]uint8"
    named = nested or field.enum_type
    name = _SCALARS[int(field.cpp_type) - 1] if named is None else str(named.name)
    return prefix + name


def _is_list(field: Any) -> bool:
    """``label`` is deprecated where ``is_repeated`` exists."""
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)
