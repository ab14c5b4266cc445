"""What all plugins share: a kind, a name, and a constructor that only records."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self

_HOST_PORT = r"(?:\[[^\s\[\]]*\]|[^\s:]*)(?::([0-9]{1,5}))?"


class Plugin(ABC):
    """A class that an entry point of group ``micro.<kind>`` names.

    The constructor takes addresses positionally and everything else as typed keyword-only
    options. It records them and does nothing more: no I/O, no task, no thread. So the core can
    build the same plugin again with what a flag or a variable replaces.

    The options of a plugin are the keyword-only parameters of its constructor; their
    annotations say how a flag is read, and the lines ``name: text`` of the class docstring
    are their help.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    _positional: tuple[Any, ...]
    _options: Mapping[str, Any]

    def __new__(cls, *addresses: Any, **options: Any) -> Self:
        self = super().__new__(cls)
        self._positional = addresses
        self._options = options
        return self

    def rebuilt(self, addresses: tuple[str, ...] | None, options: Mapping[str, Any]) -> Self:
        """A new object of the same class; what is not replaced stays as it was given.

        ``addresses=None`` keeps the addresses.
        """
        positional = self._positional if addresses is None else addresses
        return type(self)(*positional, **{**self._options, **options})

    @classmethod
    def check_address(cls, address: str) -> None:
        """Raises ValueError for a text that is no address of this plugin, without repeating it.

        By default ``host``, ``host:port`` and ``[v6]:port`` pass, also after ``scheme://`` and
        before a path; so do names, paths and, for those who listen, ``:port``.
        """
        check_address(address)


def check_address(address: str) -> None:
    """See :meth:`Plugin.check_address`."""
    _, scheme, rest = address.rpartition("://")
    authority = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")[2]
    path = not authority or (not scheme and authority[0] in ".~")
    host_port = re.fullmatch(_HOST_PORT, authority)
    fits = path or (host_port and int(host_port[1] or 0) <= 65535)
    if not fits or not address.strip() or not address.isprintable():
        raise ValueError("host:port is expected, [v6]:port for IPv6, with a port up to 65535")
