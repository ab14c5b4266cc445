"""The codecs of one client or server, by content type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..errors import CodecError, UnsupportedMediaType
from .base import Codec, Decoder
from .models import is_protobuf

Reader = Callable[[str, bytes], Any]


class CodecSet:
    """Finds the codec of a content type, and keeps the decoders built for each type."""

    def __init__(self, codecs: Iterable[Codec], default: Codec) -> None:
        self._default = default
        self._by_type = {name: codec for codec in codecs for name in codec.content_types}
        self._by_type.update(dict.fromkeys(default.content_types, default))
        self._readers: dict[Any, Reader] = {}
        self._chosen: dict[type, str] = {}

    def codec(self, content_type: str) -> Codec:
        """Parameters such as ``charset`` do not matter. Raises UnsupportedMediaType."""
        return self._by_type[self._known(content_type)]

    def content_type_for(self, value: object) -> str:
        """What a call without a content type uses for this value."""
        kind = type(value)
        return self._chosen.get(kind) or self._choose(kind)

    def encode(self, content_type: str, value: object) -> bytes:
        codec = self._by_type.get(content_type) or self.codec(content_type)
        return codec.encode(value)

    def decode(self, content_type: str, type_: Any, body: bytes) -> Any:
        try:
            read = self._readers.get(type_) or self._keep(type_)
        except TypeError as error:
            raise CodecError(f"{content_type} cannot carry {type_!r}: {error}") from error
        return read(content_type, body)

    def reader(self, type_: Any) -> Reader:
        """A function from content type and body to ``type_``; its decoders are built here.

        Raises TypeError for a type that none of the codecs carries. The function itself raises
        UnsupportedMediaType, and CodecError.
        """
        built, faults = self._build(type_)
        if not built:
            raise TypeError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))

        def read(content_type: str, body: bytes) -> Any:
            decoder = built.get(content_type)
            if decoder is None:
                name = self._known(content_type)
                decoder = built.get(name)
                if decoder is None:
                    raise CodecError(f"{name} cannot carry {type_!r}: {faults[name]}")
            return decoder(body)

        return read

    def _choose(self, kind: type) -> str:
        chosen = self._default.content_types[0]
        if issubclass(kind, bytes | bytearray):
            chosen = "application/octet-stream"
        elif is_protobuf(kind):
            chosen = "application/protobuf"
        self._chosen[kind] = chosen
        return chosen

    def _keep(self, type_: Any) -> Reader:
        read = self._readers[type_] = self.reader(type_)
        return read

    def _build(self, type_: Any) -> tuple[dict[str, Decoder], dict[str, TypeError]]:
        built: dict[str, Decoder] = {}
        faults: dict[str, TypeError] = {}
        for name, codec in self._by_type.items():
            try:
                built[name] = codec.decoder(type_)
            except TypeError as error:
                faults[name] = error
        return built, faults

    def _known(self, content_type: str) -> str:
        if content_type in self._by_type:
            return content_type
        plain = content_type.split(";")[0].strip().lower()
        if plain in self._by_type:
            return plain
        raise UnsupportedMediaType(
            f"content type {content_type[:100]!r}: this side has "
            f"{', '.join(sorted(self._by_type))}",
            happened="no",
        )
