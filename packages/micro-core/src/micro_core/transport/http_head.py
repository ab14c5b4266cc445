"""Header fields of HTTP/1.1 to the header of a Message and back.

Names and their spellings recur, so both directions look them up in a bounded cache.
"""

from __future__ import annotations

import re

from ..errors import InvalidName
from ..message import Header, canonical

_CACHED = 1024  # names, which come from peers, of at most
_CACHED_LENGTH = 64
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = bytes({*range(32), 127} - {9})
_OWNED = frozenset(
    {"Content-Length", "Expect", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}
)


class _Received(dict[bytes, str]):
    def __missing__(self, name: bytes) -> str:
        known = canonical(name.decode("latin-1"))
        if len(self) >= _CACHED:
            self.clear()  # not for ever full of what somebody made up
        if len(name) <= _CACHED_LENGTH:
            self[name] = known
        return known


class _Sent(dict[str, str]):
    def __missing__(self, name: str) -> str:
        if _TOKEN.fullmatch(name) is None:
            raise InvalidName(f"header name {name!r} is not a token that HTTP can carry")
        if (known := canonical(name)) in _OWNED:
            raise InvalidName(f"header {known} is HTTP's own: give it another name")
        if len(self) >= _CACHED:
            self.clear()
        if len(name) <= _CACHED_LENGTH:
            self[name] = f"{known}: "
        return f"{known}: "


_received = _Received()
_sent = _Sent()


def encode_fields(header: Header, size: int) -> bytes:
    """The fields of a message with a body of ``size`` bytes, and the blank line.

    Raises InvalidName for a name or a value that HTTP cannot carry.
    """
    fields = [f"{_sent[name]}{value}\r\n" for name, value in header.items()]
    try:
        head = f"{''.join(fields)}Content-Length: {size}\r\n\r\n".encode()
    except UnicodeEncodeError:
        raise _unfit(header) from None
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * len(fields) + 4:
        raise _unfit(header)
    return head


def _unfit(header: Header) -> InvalidName:
    for name, value in header.items():
        text = value.encode(errors="replace")
        if text != value.encode(errors="ignore") or text.translate(None, _CONTROLS) != text:
            return InvalidName(f"header {name} has a control character or a surrogate in its value")
    return InvalidName("a header value has a control character")


def decode_fields(fields: dict[bytes, bytes]) -> Header:
    """Canonical names and texts; of a name in several spellings the first counts, as in Go."""
    try:
        header = {_received[name]: value.decode().rstrip() for name, value in fields.items()}
    except UnicodeDecodeError:
        return _decode_odd(fields)
    return header if len(header) == len(fields) else _decode_odd(fields)


def _decode_odd(fields: dict[bytes, bytes]) -> Header:
    header: Header = {}
    for name, value in fields.items():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        header.setdefault(_received[name], text.rstrip(" \t"))
    return header
