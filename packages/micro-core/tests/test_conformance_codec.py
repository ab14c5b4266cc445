"""The codecs of the core keep every promise of codecs."""

from __future__ import annotations

from typing import Any

from protobuf_messages import Item, Order, Strict

from micro_conformance import CodecSuite
from micro_core import Codec
from micro_core.codec.bytes import BytesCodec
from micro_core.codec.json import JsonCodec
from micro_core.codec.protobuf import ProtobufCodec

ORDER = Order(id=7, items=[Item(name="Жанна", price=0.5)], tags=["a", ""], raw=b"\0\xff")


class TestJson(CodecSuite):
    values = (*CodecSuite.values, (bytes, b"\x00\xff"), (Any, {"big": 2**63}))

    def make(self, address: str) -> Codec:
        return JsonCodec()


class TestBytes(CodecSuite):
    values = ((bytes, b""), (bytes, b"\x00\xff\r\n"), (Any, b"any"), (type(None), None))
    translated = ((bytearray(b"ab"), bytes, b"ab"),)
    missing = mistyped = ()

    def make(self, address: str) -> Codec:
        return BytesCodec()


class TestProtobuf(CodecSuite):
    values = ((Item, Item()), (Item, Item(name="x", price=-1.5)), (Order, ORDER))
    translated = ((Item(name="x", price=2), Strict, Strict(name="x")),)
    missing = ((b"", Strict, ("name",)), (Item(price=1), Strict, ("name",)))
    mistyped = ()

    def make(self, address: str) -> Codec:
        return ProtobufCodec()

    def same(self, one: Any, other: Any) -> bool:
        one.DiscardUnknownFields()
        return super().same(one, other)
