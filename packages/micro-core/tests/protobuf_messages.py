"""Messages of protobuf made at run time, in a pool of their own."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_F = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY, _REQUIRED = _F.LABEL_OPTIONAL, _F.LABEL_REPEATED, _F.LABEL_REQUIRED


def _add(message: Any, name: str, number: int, type: int, label: int = _ONE, of: str = "") -> None:
    message.field.add(name=name, number=number, type=type, label=label, type_name=of or None)


def _build() -> dict[str, Any]:
    new = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    item = new.message_type.add(name="Item")
    _add(item, "name", 1, _F.TYPE_STRING)
    _add(item, "price", 2, _F.TYPE_DOUBLE)
    order = new.message_type.add(name="Order")
    _add(order, "id", 1, _F.TYPE_INT64)
    _add(order, "items", 2, _F.TYPE_MESSAGE, _MANY, ".shop.Item")
    _add(order, "note_text", 3, _F.TYPE_STRING)
    _add(order, "first", 4, _F.TYPE_MESSAGE, _ONE, ".shop.Item")
    _add(order, "before", 5, _F.TYPE_MESSAGE, _ONE, ".shop.Order")
    _add(order, "raw", 6, _F.TYPE_BYTES)
    _add(order, "tags", 7, _F.TYPE_STRING, _MANY)
    _add(order, "counts", 8, _F.TYPE_MESSAGE, _MANY, ".shop.Order.CountsEntry")
    _add(order, "state", 9, _F.TYPE_ENUM, _ONE, ".shop.State")
    entry = order.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    _add(entry, "key", 1, _F.TYPE_STRING)
    _add(entry, "value", 2, _F.TYPE_UINT32)
    new.enum_type.add(name="State").value.add(name="NEW", number=0)
    old = descriptor_pb2.FileDescriptorProto(name="old.proto", package="old", syntax="proto2")
    strict = old.message_type.add(name="Strict")
    _add(strict, "name", 1, _F.TYPE_STRING, _REQUIRED)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(new.SerializeToString())
    pool.AddSerializedFile(old.SerializeToString())
    names = ("shop.Item", "shop.Order", "old.Strict")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    }


_made = _build()
Item: Any = _made["shop.Item"]
Order: Any = _made["shop.Order"]
Strict: Any = _made["old.Strict"]
