"""The unit that transports and brokers carry: a header of texts and a body of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InvalidName

Header = dict[str, str]

_CANONICAL: dict[str, str] = {}
_CHECKED: set[str] = set()  # canonical names that were found to be good
_KEPT = 4096  # names, which come from peers, of at most
_KEPT_LENGTH = 64


@dataclass(slots=True)
class Message:
    """What Go Micro calls ``transport.Message`` and ``broker.Message``.

    Header names compare without case; inside the core they are canonical
    (``Micro-Endpoint``), see :func:`canonical`.
    """

    header: Header = field(default_factory=dict[str, str])
    body: bytes = b""


def canonical(name: str) -> str:
    """``micro-id`` as ``Micro-Id``, the way Go's ``textproto`` writes header names."""
    known = _CANONICAL.get(name)
    if known is None:
        known = "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))
        if len(_CANONICAL) >= _KEPT:
            _CANONICAL.clear()  # not full for ever of what somebody made up
        if len(name) <= _KEPT_LENGTH:
            _CANONICAL[name] = known
    return known


def checked_header(header: Mapping[str, str]) -> Header:
    """A canonical copy of a caller's header.

    Raises InvalidName for a name or a value that could not be told apart on the wire: control
    characters in either, a colon or a blank in a name. Names that were seen and values that print
    need no further look.
    """
    if header.keys() <= _CHECKED and "".join(header.values()).isprintable():
        return dict(header)
    checked: Header = {}
    for name, value in header.items():
        if not name.isascii() or not name.isprintable() or not name or set(name) & set(" :"):
            raise InvalidName(f"header name {name!r} is not a token of printable ASCII")
        if "\r" in value or "\n" in value or "\0" in value:
            raise InvalidName(f"header {name} has a line break or a NUL in its value")
        checked[canonical(name)] = value
    if len(_CHECKED) >= _KEPT:
        _CHECKED.clear()
    _CHECKED.update(name for name in checked if len(name) <= _KEPT_LENGTH)
    return checked
