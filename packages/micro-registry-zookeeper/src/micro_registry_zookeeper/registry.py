"""The registry driver on ZooKeeper's ephemeral nodes."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.security import CREATOR_ALL_ACL, make_acl

from micro_core.errors import (
    BackendError,
    BackendUnavailable,
    OptionError,
)
from micro_core.optiontypes import Duration
from micro_core.registry.base import Change, Registry, RegistryFeatures
from micro_core.registry.records import ServiceInfo
from micro_core.security import TLS, Secret, secret
from micro_core.timing import end, now

from .layout import Layout, decode, parent
from .session import Session, failure

UNDONE = (RolledBackError, RuntimeInconsistency)  # because of another part of a transaction
RACES = 10  # tries to write a node that others write, too
EXPIRY_RETRY = 0.5  # seconds after which an expired node that could not be removed is tried again
log = logging.getLogger("micro.registry.zookeeper")


class ZooKeeperRegistry(Registry):
    """Services where Go Micro's zookeeper plugin has them, on ephemeral nodes.

    Several addresses are servers of one ensemble; kazoo uses any of them.

    session_timeout: after a service is killed its nodes are gone in this time; the server may
        have a least and a longest one
    username: of a digest; only this user may change what is registered
    password: of the username
    private: let nobody but this user read what is registered
    chroot: the path below which everything is, in ZooKeeper's tree
    tls: how to verify the servers and what to show them
    """

    name: ClassVar[str] = "zookeeper"
    default_address: ClassVar[str] = "127.0.0.1:2181"
    features = RegistryFeatures(expiry=True, changes=True, survives_restart=True)

    def __init__(
        self,
        *addresses: str,
        session_timeout: Duration = 10.0,
        username: str | None = None,
        password: Secret | str | None = None,
        private: bool = False,
        chroot: str = "",
        tls: TLS | None = None,
    ) -> None:
        super().__init__(*addresses)
        if not 1.0 <= session_timeout <= 600.0:
            raise OptionError(
                f"session_timeout={session_timeout} of registry zookeeper: between 1 and 600 s"
            )
        if wrong := [one for one in self.addresses if "/" in one or "@" in one]:
            raise OptionError(
                f"{len(wrong)} addresses of registry zookeeper: give host:port, paths as chroot= "
                "and credentials as username= and password="
            )
        self._layout = Layout(chroot)
        self._tls = tls
        self._private = private
        self._timeout = session_timeout
        self._auth = _digest(username, secret(password))
        if private and self._auth is None:
            raise OptionError("private=True of registry zookeeper: give username= and password=")
        self._session: Session | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._expiry: dict[str, float] = {}
        self._sooner = asyncio.Event()
        self._locks = WeakValueDictionary[str, asyncio.Lock]()
        self._broken: dict[str, int] = {}

    @property
    def native(self) -> KazooClient | None:
        """The client while connected. It is replaced after an outage, and runs threads."""
        return self._session.client if self._session else None

    @property
    def _zookeeper(self) -> Session:
        if self._session is None:
            raise failure(BackendUnavailable, self.address, "the registry is closed")
        return self._session

    async def _connect(self) -> None:
        if self._tls is not None:
            self._tls.client_context()  # raises for files that cannot be used
            if not self._tls.verify:
                log.warning("registry zookeeper at %s: TLS verifies nothing", self.address)
        self._sooner = asyncio.Event()
        auth = self._auth.reveal() if self._auth else ""
        self._session = Session(
            ",".join(self.addresses),
            self._timeout,
            auth,
            self._tls,
            self._layout.folder_of,
            self._told,
        )
        await self._session.connected(0.9 * self.connect_timeout)
        self._reaper = asyncio.create_task(self._reap(), name="micro-zookeeper-expiry")

    async def _close(self) -> None:
        session, self._session = self._session, None
        reaper, self._reaper = self._reaper, None
        self._expiry.clear()
        self._broken.clear()
        await end(reaper, limit=self.close_timeout / 2)
        if session is not None:
            session.must_act_by(None)
            await session.close()

    def _told(self, lost: BackendError | None) -> None:
        if lost is None:
            self._note_success()
        else:
            self._note_failure(lost)

    # -- writing -----------------------------------------------------------------------------

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for path, data in self._layout.entries(info):
            async with self._alone(path):
                self._expires(path, now() + ttl)
                await self._write(path, data)

    async def _deregister(self, info: ServiceInfo) -> None:
        for path, _ in self._layout.entries(info):
            async with self._alone(path):
                self._expiry.pop(path, None)
                with suppress(NoNodeError):
                    await self._zookeeper.ask(methodcaller("delete_async", path))

    def _alone(self, path: str) -> asyncio.Lock:
        """Registering, removing and expiring a node never overlap."""
        return self._locks.setdefault(path, asyncio.Lock())

    async def _write(self, path: str, data: bytes) -> None:
        for _ in range(RACES):
            with suppress(NodeExistsError, NoNodeError, BadVersionError):
                await self._put(path, data)
                return
        raise failure(BackendUnavailable, self.address, f"{path} is written by others all the time")

    async def _put(self, path: str, data: bytes) -> None:
        """Raises what says that the node has changed meanwhile."""
        session = self._zookeeper
        try:
            before, stat = await session.ask(methodcaller("get_async", path))
        except NoNodeError:
            return await self._create(path, data)
        if stat.ephemeralOwner != session.id:
            return await self._take_over(path, data, stat.version)
        if before != data:
            await session.ask(methodcaller("set_async", path, data, stat.version))
        return None

    async def _create(self, path: str, data: bytes) -> None:
        create = methodcaller("create_async", path, data, acl=self._acl(), ephemeral=True)
        try:
            await self._zookeeper.ask(create)
        except NoNodeError:
            await self._make_folder(parent(path))
            raise

    async def _take_over(self, path: str, data: bytes, version: int) -> None:
        """A node of an older session would go with it: it is replaced, and never missing."""

        def request(client: Any) -> Any:
            both = client.transaction()
            both.delete(path, version)
            both.create(path, data, acl=self._acl(), ephemeral=True)
            return both.commit_async()

        for answer in await self._zookeeper.ask(request):
            if isinstance(answer, Exception) and not isinstance(answer, UNDONE):
                raise self._zookeeper.known(answer)

    async def _make_folder(self, path: str) -> None:
        try:
            await self._zookeeper.ask(methodcaller("create_async", path, acl=self._acl(path)))
        except NoNodeError:
            await self._make_folder(parent(path))
            await self._make_folder(path)
        except NodeExistsError:
            return

    def _acl(self, path: str = "") -> Sequence[Any] | None:
        """Everybody may do anything, as in Go; where a user is given only that one may, but all
        may read, and make services of their own."""
        if self._auth is None:
            return None
        if self._private:
            return [*CREATOR_ALL_ACL]
        shared = 0 < len(path) <= len(self._layout.root)
        return [*CREATOR_ALL_ACL, make_acl("world", "anyone", read=True, create=shared)]

    # -- expiring ----------------------------------------------------------------------------

    def _expires(self, path: str, when: float) -> None:
        """ZooKeeper knows the end of sessions only: a TTL is kept here."""
        self._expiry[path] = when
        self._sooner.set()

    async def _reap(self) -> None:
        while True:
            self._sooner.clear()
            due = min(self._expiry.values(), default=None)
            self._zookeeper.must_act_by(due)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._sooner.wait()
            for path in [path for path, when in self._expiry.items() if when <= now()]:
                self._zookeeper.must_act_by(now() + 2 * self.operation_timeout)
                await self._expire(path)

    async def _expire(self, path: str) -> None:
        async with self._alone(path):
            if self._expiry.get(path, now() + 1) > now():
                return
            try:
                await self._ask(self._remove_own(path), f"expire {path}")
            except BackendError as error:
                log.warning("%s has expired and is not removed yet: %s", path, error)
                self._expiry[path] = now() + EXPIRY_RETRY
            else:
                del self._expiry[path]

    async def _remove_own(self, path: str) -> None:
        """Unless another session has it by now; one of ours that is no more takes it along."""
        session = self._zookeeper
        with suppress(NoNodeError):
            _, stat = await session.ask(methodcaller("get_async", path))
            if stat.ephemeralOwner == session.id:
                await session.ask(methodcaller("delete_async", path))

    # -- reading -----------------------------------------------------------------------------

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        return _of(name, (await self._records([self._layout.folder(name)])).values())

    async def _list_services(self) -> Sequence[str]:
        """By the records: a folder outlives its nodes, and its name may not be the service's."""
        [folders] = await self._children([self._layout.root])
        return [info.name for info in (await self._records(folders)).values() if info]

    async def _records(self, folders: Sequence[str]) -> Mapping[str, ServiceInfo | None]:
        children = await self._children(folders)
        return await self._read([path for paths in children for path in paths])

    async def _children(self, paths: Sequence[str]) -> list[list[str]]:
        """As of now, whichever server is asked; none of a path that does not exist."""
        asked = [methodcaller("get_children_async", path) for path in paths]
        sync = methodcaller("sync_async", self._layout.root)
        _, *found = await self._zookeeper.ask_all([sync, *asked])
        return [_below(path, names) for path, names in zip(paths, found, strict=True)]

    async def _read(self, paths: Sequence[str], watch: Any = None) -> dict[str, ServiceInfo | None]:
        """Those that exist; ``None`` for what is no record."""
        asked = [methodcaller("get_async", path, watch) for path in paths]
        found = zip(paths, await self._zookeeper.ask_all(asked), strict=True)
        return {
            path: self._decoded(path, *answer)
            for path, answer in found
            if not isinstance(answer, Exception)
        }

    def _decoded(self, path: str, data: bytes | None, stat: Any) -> ServiceInfo | None:
        try:
            return decode(data)
        except ValueError as error:
            if self._broken.get(path) != stat.mzxid:
                self._broken[path] = stat.mzxid
                log.warning("%s is no record and is left out: %s", path, error)
            return None

    async def _changes(self, name: str) -> AsyncGenerator[Change, None]:
        folder = self._layout.folder(name)
        known: dict[str, ServiceInfo | None] = {}
        session = self._zookeeper
        with session.inbox(folder) as inbox:
            while True:
                changed = inbox.take()
                paths = await self._ask(self._watched(folder), f"watch {name}")
                known = {path: known[path] for path in paths if path in known.keys() - changed}
                fresh = [path for path in paths if path not in known]
                known |= await self._ask(self._read(fresh, session.watch), f"watch {name}")
                yield _of(name, known.values())
                await inbox.filled()

    async def _watched(self, folder: str) -> list[str]:
        """What is in the folder; from the moment of this answer on, changes are told."""
        session = self._zookeeper
        for _ in range(RACES):
            with suppress(NoNodeError):
                request = methodcaller("get_children_async", folder, session.watch)
                return _below(folder, await session.ask(request))
            if await session.ask(methodcaller("exists_async", folder, session.watch)) is None:
                break
        return []


def _below(path: str, names: Any) -> list[str]:
    return [] if isinstance(names, Exception) else [f"{path}/{name}" for name in names]


def _of(name: str, records: Iterable[ServiceInfo | None]) -> list[ServiceInfo]:
    """Without those of a name that has the same folder."""
    return [info for info in records if info and info.name == name]


def _digest(username: str | None, password: Secret | None) -> Secret | None:
    if username is None and password is None:
        return None
    if not username or not password or ":" in username:
        raise OptionError("registry zookeeper: give username= without a colon, and password=")
    return Secret(f"{username}:{password.reveal()}")
