"""The bytes of Go Micro's NATS transport: one JSON object a message, its body in base64."""

from __future__ import annotations

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder, Encoder

from micro_core.errors import BadRequest, InvalidName
from micro_core.message import Message, checked_header


class _Frame(Struct):
    Header: dict[str, str] | None = None
    Body: bytes | None = None


_encode = Encoder().encode
_decode = Decoder(_Frame).decode


def encode(message: Message) -> bytes:
    """Raises InvalidName for a header that is not fit to be sent."""
    try:
        return _encode(_Frame(checked_header(message.header), message.body))
    except UnicodeError as error:
        raise InvalidName(f"a header value is not Unicode text: {error}") from error


def decode(data: bytes) -> Message:
    """Raises BadRequest for anything else than Go Micro's object."""
    try:
        frame = _decode(data)
        return Message(checked_header(frame.Header or {}), frame.Body or b"")
    except (MsgspecError, UnicodeError, RecursionError, InvalidName) as error:
        raise BadRequest(f"not a message of Go Micro's NATS transport: {error}") from error
