"""Bytes as they are."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import CodecError
from .base import Codec, Decoder


class BytesCodec(Codec):
    """application/octet-stream: the body is the value; None is an empty body."""

    name: ClassVar[str] = "bytes"
    content_types: ClassVar[tuple[str, ...]] = ("application/octet-stream",)

    def encode(self, value: object) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, bytearray):
            return bytes(value)
        if value is None:
            return b""
        raise CodecError(f"application/octet-stream carries bytes, not {type(value).__name__}")

    def decoder(self, type_: Any) -> Decoder:
        if type_ is type(None):
            return lambda body: None
        if type_ not in (Any, bytes, object):
            raise TypeError(f"application/octet-stream carries bytes, not {type_!r}")
        return bytes
