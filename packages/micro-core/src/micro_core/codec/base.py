"""The codec: values to bytes and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from ..plugin import Plugin

Decoder = Callable[[bytes], Any]


class Codec(Plugin):
    """Encodes values of the content types it names; raises nothing but CodecError."""

    kind: ClassVar[str] = "codec"
    content_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, value: object) -> bytes: ...

    @abstractmethod
    def decoder(self, type_: Any) -> Decoder:
        """A function from bytes to ``type_``, built once per endpoint.

        ``Any`` asks for plain values. Raises TypeError for a type the codec cannot carry; the
        function itself raises CodecError that names the path of what is wrong.
        """
