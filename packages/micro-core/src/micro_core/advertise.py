"""Where a server listens when nobody says, and which address peers are told."""

from __future__ import annotations

import ipaddress

from .errors import OptionError
from .registry.base import Registry


def listen_address(configured: str | None, registry: Registry) -> str:
    """Loopback while the registry serves this host only, else all interfaces; any free port."""
    if configured:
        return configured
    return ":0" if registry.reach == "network" else "127.0.0.1:0"


def advertised(bound: str, advertise: str | None, registry: Registry) -> str:
    """The address for the registry: ``advertise``, else the bound one made reachable.

    May resolve names, so call it in a thread. Raises OptionError for a loopback address that
    peers on other hosts would be given.
    """
    host, port = split_address(advertise or bound)
    if port is None and advertise:
        port = split_address(bound)[1]
    if port is None:
        return advertise or bound  # a queue or a subject
    if _is_wildcard(host):
        host = registry.local_host()
    if _is_loopback(host) and not _is_loopback(registry.local_host()):
        raise OptionError(
            f"this service would be advertised as {join_address(host, port)}, which only this "
            f"host reaches, but registry {registry.name} at {registry.address} is on another: "
            "give --server_address :0, or --server_advertise HOST[:PORT]"
        )
    return join_address(host, port)


def split_address(address: str) -> tuple[str, int | None]:
    """``host:port``, ``[v6]:port`` or ``:port``; the port is None where there is none."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return address.strip("[]"), None
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")  # noqa: S104 -- recognised, not bound


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
