"""Go Micro's envelope of an event: ``{"Header": {...}, "Body": "<base64>"}``."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..message import Message, canonical


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    Header: dict[str, str] | None
    Body: bytes | None


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[_Envelope] = msgspec.json.Decoder(_Envelope)


def encode(message: Message) -> bytes:
    """The bytes that Go's brokers put on the wire."""
    return _encode(_Envelope(message.header, message.body))


def decode(value: bytes) -> Message | None:
    """``None`` for anything but an object whose only keys are Header and Body; both may be null."""
    try:
        envelope = _decoder.decode(value)
    except ValueError:  # msgspec's errors are, and one level deep it does not recurse
        return None
    header = {canonical(name): text for name, text in (envelope.Header or {}).items()}
    return Message(header, envelope.Body or b"")


def read(value: bytes, native: Mapping[str, str]) -> Message:
    """What a backend delivered, in either form.

    ``native`` is the header that the backend itself carried. ``Content-Type`` or ``Micro-Topic``
    in it means that ``value`` is the body; without them Go's envelope is opened, and any other
    value is a body.
    """
    header = {canonical(name): text for name, text in native.items()}
    if "Content-Type" in header or "Micro-Topic" in header:
        return Message(header, value)
    return decode(value) or Message(header, value)
