"""JSON, through msgspec: the default content type of calls and events."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ..errors import CodecError
from .base import Codec, Decoder


class JsonCodec(Codec):
    """application/json. Unknown fields are ignored, a missing required one is named by its path.

    Carries plain values, dataclasses, msgspec.Struct and TypedDict. NaN and infinities do not
    decode; an empty body decodes as null.
    """

    name: ClassVar[str] = "json"
    content_types: ClassVar[tuple[str, ...]] = ("application/json",)

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode

    def encode(self, value: object) -> bytes:
        try:
            return self._encode(value)
        except (
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            msgspec.MsgspecError,
        ) as error:
            raise CodecError(f"{type(value).__name__} does not encode as JSON: {error}") from error

    def decoder(self, type_: Any) -> Decoder:
        plan: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type_)
        read = plan.decode

        def decode(body: bytes) -> Any:
            try:
                return read(body or b"null")
            except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
                raise CodecError(f"JSON: {error}") from error

        return decode
