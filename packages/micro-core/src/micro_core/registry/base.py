"""The registry: who offers a service, and where."""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..component import Component
from .keeper import Keeper
from .records import RegistryEvent, ServiceInfo, by_node, by_version, check_name
from .watcher import Watcher

Change = Sequence[ServiceInfo] | RegistryEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFeatures:
    """What a registry can do and what it guarantees.

    expiry: a node whose service died is removed without anybody's help.
    changes: changes are pushed; otherwise the core polls.
    survives_restart: records outlive a restart of the server.
    """

    expiry: bool = True
    changes: bool = False
    survives_restart: bool = False


class Registry(Component):
    """Registers nodes, lists them, and tells of changes.

    A driver implements ``_register``, ``_deregister``, ``_get_service``, ``_list_services`` and,
    where the backend can push, ``_changes``. It starts no task: keeping a registration alive,
    watching, resyncing and caching are the core's.
    """

    kind: ClassVar[str] = "registry"
    features: RegistryFeatures = RegistryFeatures()
    reach: ClassVar[Literal["process", "host", "network"]] = "network"
    poll_interval: float = 1.0
    resync_interval: float = 30.0

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._registered: dict[tuple[str, str], ServiceInfo] = {}

    # -- what users call ---------------------------------------------------------------------

    async def register(self, info: ServiceInfo, *, ttl: float = 30.0) -> None:
        """Make every node of ``info`` visible for ``ttl`` seconds, replacing those of its id.

        Calling it again within the time prolongs it; :meth:`keep` does that for you.
        """
        self._check_home()
        _check_record(info)
        await self._ask(self._register(info, ttl), "register")
        for node in info.nodes:
            self._registered[info.name, node.id] = info.with_nodes([node])

    async def deregister(self, info: ServiceInfo) -> None:
        """Remove the nodes of ``info`` by their ids; unknown ones are harmless."""
        self._check_home()
        await self._ask(self._deregister(info), "deregister")
        for node in info.nodes:
            self._registered.pop((info.name, node.id), None)

    async def get_service(self, name: str) -> list[ServiceInfo]:
        """One ServiceInfo per version with its live nodes, ``[]`` for an unknown name.

        Raises BackendError when the registry cannot be asked.
        """
        return by_version((await self.get_nodes(name)).values())

    async def get_nodes(self, name: str) -> dict[str, ServiceInfo]:
        """By node id what each node itself registered; otherwise like :meth:`get_service`."""
        self._check_home()
        check_name(name)
        return by_node(await self._ask(self._get_service(name), f"get {name}"))

    async def list_services(self) -> list[str]:
        """The sorted names of all services with a node."""
        self._check_home()
        return sorted(set(await self._ask(self._list_services(), "list")))

    def watch(self, name: str) -> Watcher:
        """Watch one service; see :class:`Watcher`."""
        return Watcher(self, check_name(name))

    def keep(
        self, info: ServiceInfo, *, ttl: float = 30.0, interval: float | None = None
    ) -> Keeper:
        """Keep ``info`` registered as long as the returned context lasts; see :class:`Keeper`."""
        _check_record(info)
        return Keeper(self, info, ttl, interval)

    # -- what the core calls -----------------------------------------------------------------

    def local_host(self) -> str:
        """The address of this machine that a peer of the registry can reach, IPv4 first."""
        if self.reach != "network":
            return "127.0.0.1"
        from urllib.parse import urlsplit

        for address in self.addresses:
            host = urlsplit(address if "//" in address else f"//{address}").hostname
            if host and (local := _local_address_towards(host)):
                return local
        return "127.0.0.1"

    async def _shut(self) -> None:
        for info in list(self._registered.values()):
            try:
                await self._ask(self._deregister(info), "deregister", timeout=1.0)
            except Exception:
                break  # a registry that cannot be asked lets the records expire
        self._registered.clear()
        await super()._shut()

    # -- what a driver implements ------------------------------------------------------------

    @abstractmethod
    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        """Upsert every node once; endpoints and metadata of a known id may have changed."""

    @abstractmethod
    async def _deregister(self, info: ServiceInfo) -> None:
        """Remove every node of ``info`` by id."""

    @abstractmethod
    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        """Live nodes only, in any grouping; raise when the registry cannot be asked."""

    @abstractmethod
    async def _list_services(self) -> Sequence[str]:
        """Names in any order."""

    def _changes(self, name: str) -> AsyncIterator[Change] | None:
        """Whole lists or single changes of a service, as an async generator.

        It may end or raise at any time: the core then takes a fresh list, treats what is missing
        from it with doubt, and opens the iterator again with backoff. Before single changes it
        yields a whole list, read when they had begun to arrive, so that none is missed in
        between. ``None``: polled.
        """
        return None


def _check_record(info: ServiceInfo) -> None:
    check_name(info.name)
    check_name(info.version, "version")
    for node in info.nodes:
        check_name(node.id, "node id")


def _local_address_towards(host: str) -> str | None:
    import ipaddress

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))  # sends nothing: it only picks the route
                return str(ipaddress.ip_address(probe.getsockname()[0]))
        except (OSError, ValueError):
            continue
    return None
