"""Where a server listens when nobody says, and which address peers are told."""

from __future__ import annotations

from .errors import OptionError
from .registry.base import Registry
from .transport.address import join_address, split_address


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
    host, port = _parts(advertise or bound)
    if port is None and advertise:
        port = _parts(bound)[1]
    if port is None:
        return advertise or bound  # a queue or a subject
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 -- recognised, not bound
        host = registry.local_host()
    if _is_loopback(host) and not _is_loopback(registry.local_host()):
        raise OptionError(
            f"this service would be advertised as {join_address((host, port))}, which only this "
            f"host reaches, but registry {registry.name} at {registry.address} is on another: "
            "give --server_address :0, or --server_advertise HOST[:PORT]"
        )
    return join_address((host, port))


def _parts(address: str) -> tuple[str, int | None]:
    try:
        return split_address(address)
    except ValueError:
        return address.strip("[]"), None


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
