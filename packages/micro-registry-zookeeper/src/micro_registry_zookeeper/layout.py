"""Where records are in ZooKeeper's tree, and their bytes: both as Go Micro has them."""

from __future__ import annotations

from collections.abc import Sequence

from micro_core.errors import InvalidName, MessageTooLarge, OptionError
from micro_core.registry.records import ServiceInfo
from micro_core.registry.wire import from_json, to_json

ROOT = "micro-registry"
LIMIT = 1_000_000  # bytes of a record; a server drops the connection of who sends 1 MiB


class Layout:
    """``<chroot>/micro-registry/<service>/<node id>``, where ``/`` in a name is written ``-``."""

    def __init__(self, chroot: str) -> None:
        parts = [part for part in chroot.split("/") if part]
        if (chroot and not chroot.startswith("/")) or not all(map(_fits, parts)):
            raise OptionError(f"chroot={chroot!r} of registry zookeeper: give a path such as /apps")
        self.root = "/".join(["", *parts, ROOT])

    def folder(self, name: str) -> str:
        """The node whose children are the service's. Raises InvalidName for no such node."""
        part = name.replace("/", "-")
        if not _fits(part):
            raise InvalidName(f"{name!r}: ZooKeeper has no such names; take another one")
        return f"{self.root}/{part}"

    def entries(self, info: ServiceInfo) -> Sequence[tuple[str, bytes]]:
        """The path and the bytes of each node. Raises InvalidName or MessageTooLarge."""
        folder, found = self.folder(info.name), list[tuple[str, bytes]]()
        for node in info.nodes:
            data = to_json(info.with_nodes([node])).encode()
            if len(data) > LIMIT:
                raise MessageTooLarge(f"record of {node.id}: {len(data)} bytes, limit {LIMIT}")
            found.append((folder + self.folder(node.id).removeprefix(self.root), data))
        return found

    def folder_of(self, path: str) -> str:
        """The folder that ``path`` is, or is in."""
        return "/".join(path.split("/")[: self.root.count("/") + 2])


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def decode(data: bytes | None) -> ServiceInfo:
    """Raises ValueError for what is no record."""
    return from_json(data or b"")


def _fits(part: str) -> bool:
    """ZooKeeper counts in UTF-16, where surrogates are forbidden, as are the specials."""
    return (
        part not in (".", "..", "")
        and all(c < "\ud800" or "\uf8ff" < c < "\ufff0" for c in part)
        and part.isprintable()
    )
