"""The bytes of Go Micro's NATS transport: one JSON object a message, its body in base64."""

from __future__ import annotations

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder, Encoder

from micro_core.errors import BadRequest, InvalidName
from micro_core.message import Header, Message, checked_header

_NAMES = 4096  # that were seen to be canonical, of at most
_canonical: set[str] = set()


class _Frame(Struct):
    Header: dict[str, str] | None = None
    Body: bytes | None = None


_encode = Encoder().encode
_decode = Decoder(_Frame).decode


def checked(header: Header) -> Header:
    """A canonical copy. Names that were seen and values that print need no further look."""
    if header.keys() <= _canonical and "".join(header.values()).isprintable():
        return header.copy()
    canonical = checked_header(header)
    if len(_canonical) < _NAMES:
        _canonical.update(canonical)
    return canonical


def encode(message: Message) -> bytes:
    """Raises InvalidName for a header that is not fit to be sent."""
    try:
        return _encode(_Frame(checked(message.header), message.body))
    except UnicodeError as error:
        raise InvalidName(f"a header value is not Unicode text: {error}") from error


def decode(data: bytes) -> Message:
    """Raises BadRequest for anything else than Go Micro's object."""
    try:
        frame = _decode(data)
        return Message(checked(frame.Header or {}), frame.Body or b"")
    except (MsgspecError, UnicodeError, RecursionError, InvalidName) as error:
        raise BadRequest(f"not a message of Go Micro's NATS transport: {error}") from error
