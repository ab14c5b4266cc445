"""Protobuf messages as bytes."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import CodecError
from .base import Codec, Decoder
from .models import is_protobuf

_TYPE = "application/protobuf"


class ProtobufCodec(Codec):
    """application/protobuf. Unknown fields are kept, as protobuf has it; None is an empty body."""

    name: ClassVar[str] = "protobuf"
    content_types: ClassVar[tuple[str, ...]] = (_TYPE,)

    def encode(self, value: Any) -> bytes:
        if value is None:
            return b""
        if not is_protobuf(type(value)):
            raise CodecError(f"{_TYPE} carries protobuf messages, not {type(value).__name__}")
        try:
            return bytes(value.SerializeToString())
        except Exception as error:  # EncodeError, which cannot be named without importing it
            raise CodecError(f"{type(value).__name__} does not encode: {error}") from error

    def decoder(self, type_: Any) -> Decoder:
        if type_ is type(None):
            return lambda body: None
        if type_ in (Any, object):
            return _nothing
        if not is_protobuf(type_):
            raise TypeError("only protobuf messages and None travel as protobuf")

        def decode(body: bytes) -> Any:
            try:
                message = type_.FromString(body)
            except Exception as error:  # DecodeError
                raise CodecError(f"{type_.DESCRIPTOR.full_name}: {error}") from error
            if not message.IsInitialized():
                missing = ", ".join(f"$.{path}" for path in message.FindInitializationErrors())
                raise CodecError(f"{type_.DESCRIPTOR.full_name}: missing {missing}")
            return message

        return decode


def _nothing(body: bytes) -> None:
    if body:
        raise CodecError("protobuf does not say what it is: name the message class as response=")
