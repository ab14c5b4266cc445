"""JSON, through msgspec: the default content type of calls and events."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, ClassVar

import msgspec

from ..errors import CodecError
from .base import Codec, Decoder
from .models import from_plain, to_plain

_BAD = (TypeError, ValueError, OverflowError, RecursionError)  # msgspec's errors are ValueErrors
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")


class JsonCodec(Codec):
    """application/json. Unknown fields are ignored, what is missing or wrong is named by its path.

    Carries plain values, dataclasses, msgspec.Struct, TypedDict, and the models of pydantic and
    the messages of protobuf in the mapping that each has to JSON. NaN and infinities are refused
    both ways; of two equal keys the last one counts, as in Go: finding them would make decoding
    several times as slow. An empty body decodes as null.
    """

    name: ClassVar[str] = "json"
    content_types: ClassVar[tuple[str, ...]] = ("application/json",)

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=to_plain).encode
        self._pack = msgspec.msgpack.Encoder(enc_hook=to_plain).encode

    def encode(self, value: object) -> bytes:
        try:
            body = self._encode(value)
            if body.find(b"null") >= 0:  # half as dear as "in"
                self._refuse_nan(value)
        except _BAD as error:
            raise CodecError(f"{type(value).__name__} does not encode as JSON: {error}") from error
        return body

    def _refuse_nan(self, value: object) -> None:
        """msgspec writes NaN and infinities as null; its MessagePack keeps them, and is fast."""
        with contextlib.suppress(OverflowError):  # an integer of more than 64 bits
            if not _NOT_FINITE.search(self._pack(value)):
                return
        json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=to_plain), allow_nan=False)

    def decoder(self, type_: Any) -> Decoder:
        plan: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type_, dec_hook=from_plain)
        read = plan.decode

        def decode(body: bytes) -> Any:
            try:
                return read(body or b"null")
            except _BAD as error:
                raise CodecError(f"JSON: {_located(str(error))}") from error

        return decode


def _located(text: str) -> str:
    """msgspec's text with one whole path; a model within a message adds a path of its own."""
    reason, *paths = text.split(" - at `")
    path = "$" + "".join(path.rstrip("`")[1:] for path in reversed(paths))
    if missing := _MISSING.match(reason):
        path += f".{missing[1]}"
    return reason if path == "$" else f"{reason} at {path}"
