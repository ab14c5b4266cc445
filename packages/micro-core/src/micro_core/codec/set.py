"""The codecs of one client or server, by content type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import CodecError, UnsupportedMediaType
from .base import Codec, Decoder


class CodecSet:
    """Finds the codec of a content type, and keeps the decoders built for each type."""

    def __init__(self, codecs: Iterable[Codec], default: Codec) -> None:
        self._default = default
        self._by_type = {name: codec for codec in codecs for name in codec.content_types}
        self._by_type.update(dict.fromkeys(default.content_types, default))
        self._decoders: dict[tuple[str, Any], Decoder] = {}

    def codec(self, content_type: str) -> Codec:
        """Parameters such as ``charset`` do not matter. Raises UnsupportedMediaType."""
        found = self._by_type.get(content_type)
        if found is None:
            found = self._by_type.get(content_type.split(";")[0].strip().lower())
        if found is None:
            known = ", ".join(sorted(self._by_type))
            raise UnsupportedMediaType(
                f"content type {content_type[:100]!r}: this side has {known}", happened="no"
            )
        return found

    def content_type_for(self, value: object) -> str:
        """What a call without a content type uses for this value."""
        if isinstance(value, bytes | bytearray):
            return "application/octet-stream"
        return self._default.content_types[0]

    def encode(self, content_type: str, value: object) -> bytes:
        codec = self._by_type.get(content_type) or self.codec(content_type)
        return codec.encode(value)

    def decode(self, content_type: str, type_: Any, body: bytes) -> Any:
        try:
            decoder = self._decoders.get((content_type, type_))
        except TypeError:  # an unhashable annotation
            return self._build(content_type, type_)(body)
        if decoder is None:
            decoder = self._build(content_type, type_)
            # keyed by what the peer sent, so only exact names of ours are kept
            if content_type in self._by_type:
                self._decoders[content_type, type_] = decoder
        return decoder(body)

    def _build(self, content_type: str, type_: Any) -> Decoder:
        codec = self.codec(content_type)
        try:
            return codec.decoder(type_)
        except TypeError as error:
            raise CodecError(f"{content_type} cannot carry {type_!r}: {error}") from error
