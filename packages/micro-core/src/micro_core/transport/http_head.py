"""Header fields of HTTP/1.1 to the header of a Message and back.

Names recur, so both directions look them up among those seen before.
"""

from __future__ import annotations

import re

from ..errors import InvalidName
from ..message import Header, canonical

_KEPT = 1024  # names, which come from peers, of at most
_KEPT_LENGTH = 64
_BLANK = " \t"  # of Unicode's blanks, HTTP trims these
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # a tab fits
_HIDDEN = frozenset({"Host"})
_CODING = {"Content-Encoding", "Content-Length", "Transfer-Encoding"}
_OWNED = _HIDDEN | _CODING | {"Expect", "Te", "Trailer", "Upgrade"}

_received: dict[bytes, str] = {}  # canonical, and "" for the hidden ones
_sent: dict[str, str] = {}  # canonical, with the colon


def encode_head(start: str, header: Header, size: int) -> bytes:
    """``start``, the fields of a message with a body of ``size`` bytes, and the blank line.

    Raises InvalidName for a name or a value that HTTP cannot carry.
    """
    head = start
    for name, value in header.items():
        if not value.isprintable():
            _check(name, value)
        try:
            head += f"{_sent[name]}{value}\r\n"
        except KeyError:
            head += f"{_prefix(name)}{value}\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode()


def _check(name: str, value: str) -> None:
    if _UNFIT.search(value):
        raise InvalidName(f"header {name[:80]} has a control character or a surrogate in its value")


def _prefix(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise InvalidName(f"header name {name[:80]!r} is not a token that HTTP can carry")
    if (known := canonical(name)) in _OWNED:
        raise InvalidName(f"header {known} is HTTP's own: give it another name")
    if len(_sent) >= _KEPT:
        _sent.clear()  # not full for ever of what somebody made up
    if len(name) <= _KEPT_LENGTH:
        _sent[name] = f"{known}: "
    return f"{known}: "


def decode_fields(fields: dict[bytes, bytes]) -> Header:
    """Canonical names and texts, without Host.

    Of a name in several spellings the first counts, as of a repeated field.
    """
    try:
        header: Header = {}
        for name, value in reversed(fields.items()):  # a loop is faster than a comprehension
            header[_received[name]] = value.decode().rstrip(_BLANK)
    except (KeyError, UnicodeDecodeError):
        header = {_name(n): _text(v) for n, v in reversed(fields.items())}
    header.pop("", None)
    return header


def _name(name: bytes) -> str:
    known = canonical(name.decode("latin-1"))
    if known in _HIDDEN:
        known = ""
    if len(_received) >= _KEPT:
        _received.clear()
    if len(name) <= _KEPT_LENGTH:
        _received[name] = known
    return known


def _text(value: bytes) -> str:
    try:
        return value.decode().rstrip(_BLANK)
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip(_BLANK)
