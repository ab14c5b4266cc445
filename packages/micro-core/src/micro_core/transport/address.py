"""``host:port`` and ``[v6]:port``, read strictly: addresses come from a registry."""

from __future__ import annotations

import re
from typing import cast

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/@\[\]]*)):([0-9]{1,5})", re.ASCII)


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets and ``""`` for all interfaces, and port; ValueError otherwise."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not address.isprintable() or int(match[3]) > 65535:
        raise ValueError("an address is host:port or [v6]:port")
    return match[1] or match[2] or "", int(match[3])


def join_address(name: object) -> str:
    """A socket's name, as the operating system gives it, as text; ``""`` for none."""
    if not isinstance(name, tuple):
        return ""
    host, port = cast("tuple[object, ...]", name)[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
