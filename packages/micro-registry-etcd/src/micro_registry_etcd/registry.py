"""The registry driver over etcd's JSON gateway."""

from __future__ import annotations

import contextlib
import logging
import math
from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar, NamedTuple

import aiohttp

from micro_core.errors import BackendError, BackendRefused, OptionError
from micro_core.registry.base import Change, Registry, RegistryFeatures
from micro_core.registry.records import ServiceInfo
from micro_core.security import TLS, Secret, secret
from micro_http import AnswerTooLong

from .gateway import Answer, Gateway
from .records import (
    ROOT,
    KeyValue,
    changes_of,
    everything_in,
    folder_of,
    from_value,
    just_after,
    key_of,
    text64,
    to_value,
)

PAGE = 500  # records of one answer
RECORDS = 100_000  # of one list
QUIET = 4.0  # seconds without a message before a watched server is asked whether it lives
QUESTIONS = 10  # of that kind a second, however many watches there are
BROKEN = 1000  # keys of broken records that are remembered, to be logged once
log = logging.getLogger("micro.registry.etcd")


class Listing(NamedTuple):
    member: str
    revision: int
    records: dict[str, ServiceInfo]  # by key in base64


class EtcdRegistry(Registry):
    """Services as Go Micro's etcd registry writes them, in the cluster of some addresses.

    Several addresses are members of one cluster; the first that answers is used, and kept.

    user: of etcd's own, where its authentication is enabled
    password: of that user
    tls: how to verify the server and what to show it; makes https of an address without a scheme
    """

    name: ClassVar[str] = "etcd"
    default_address: ClassVar[str] = "127.0.0.1:2379"
    features = RegistryFeatures(expiry=True, changes=True, survives_restart=True)

    def __init__(
        self,
        *addresses: str,
        user: str | None = None,
        password: Secret | str | None = None,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(*addresses)
        if (user is None) != (password is None):
            raise OptionError("registry etcd: user= and password= go together")
        self._gateway = Gateway(self.name, self.addresses, user, secret(password), tls)
        self._insecure = tls is not None and not tls.verify
        self._leases: dict[str, tuple[str, int]] = {}
        self._broken: dict[str, str] = {}
        self._watched = 0

    @property
    def native(self) -> aiohttp.ClientSession | None:
        """The session of ordinary requests while connected."""
        return self._gateway.session

    async def _connect(self) -> None:
        if self._insecure:
            log.warning("%s at %s: TLS does not verify the server", self.name, self.address)
        self._gateway.open(0.9 * min(self.operation_timeout, self.connect_timeout))
        await self._gateway.ask("kv/range", {"key": text64(ROOT), "keys_only": True})

    async def _close(self) -> None:
        self._leases.clear()
        await self._gateway.close()

    # -- writing -----------------------------------------------------------------------------

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for node in info.nodes:
            key = key_of(info.name, node.id)
            await self._write(text64(key), to_value(info, node), math.ceil(ttl))

    async def _write(self, key: str, value: str, ttl: int) -> None:
        before, granted = lease, _ = self._leases.get(key, ("", 0))
        if granted != ttl or not await self._prolong(lease):
            _, answer = await self._gateway.ask("lease/grant", {"TTL": ttl})
            lease = str(answer["ID"])
            self._leases[key] = lease, ttl
        elif await self._is_there(key, value, lease):
            return
        await self._gateway.ask("kv/put", {"key": key, "value": value, "lease": lease})
        if before not in ("", lease):
            await self._revoke(before)

    async def _prolong(self, lease: str) -> bool:
        _, answer = await self._gateway.ask("lease/keepalive", {"ID": lease})
        return int(answer.get("result", {}).get("TTL", 0)) > 0  # a lost one has none

    async def _is_there(self, key: str, value: str, lease: str) -> bool:
        """A lease that lives says nothing of its key, which anybody may have taken away."""
        _, answer = await self._gateway.ask("kv/range", {"key": key})
        return [(each.get("value"), each.get("lease")) for each in answer.get("kvs", ())] == [
            (value, lease)
        ]

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            key = text64(key_of(info.name, node.id))
            await self._gateway.ask("kv/deleterange", {"key": key})
            lease, _ = self._leases.pop(key, ("", 0))
            if lease:
                await self._revoke(lease)

    async def _revoke(self, lease: str) -> None:
        with contextlib.suppress(BackendError):  # it expires, and nothing hangs on it
            await self._gateway.ask("lease/revoke", {"ID": lease})

    # -- reading -----------------------------------------------------------------------------

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        return list((await self._read(folder_of(name), name)).records.values())

    async def _list_services(self) -> Sequence[str]:
        records = (await self._read(ROOT)).records.values()
        return [info.name for info in records if info.nodes]

    async def _read(self, folder: str, name: str = "") -> Listing:
        """All records of one moment, of one service or of all."""
        page: dict[str, Any] = {**everything_in(folder), "limit": PAGE}
        member, answer = await self._page(page)
        listing = Listing(member, _revision(answer), {})
        self._take(listing, answer, name)
        while answer.get("more"):
            last = answer["kvs"][-1]["key"]
            page |= {"key": just_after(last), "revision": str(listing.revision)}
            _, answer = await self._page(page, at=member)
            self._take(listing, answer, name)
        return listing

    async def _page(self, page: dict[str, Any], at: str = "") -> tuple[str, Answer]:
        """Of fewer records where they are long."""
        while True:
            try:
                return await self._gateway.ask("kv/range", page, at=at)
            except AnswerTooLong:
                if page["limit"] == 1:
                    raise
                page["limit"] = max(1, page["limit"] // 8)

    def _take(self, listing: Listing, answer: Answer, name: str) -> None:
        for pair in answer.get("kvs", ()):
            if info := self._record(pair, name):
                listing.records[pair["key"]] = info
        if len(listing.records) > RECORDS:
            raise self._gateway.failure(
                BackendRefused, listing.member, f"a list of over {RECORDS} records"
            )

    def _record(self, pair: KeyValue, name: str = "") -> ServiceInfo | None:
        """``None`` for another service's, which may share the folder, and for what is none."""
        try:
            info = from_value(pair)
        except ValueError as error:
            self._note_broken(pair, error)
            return None
        return info if name in ("", info.name) else None

    def _note_broken(self, pair: KeyValue, error: ValueError) -> None:
        key, revision = pair["key"], pair["mod_revision"]
        if self._broken.get(key) != revision:
            log.warning("%r is no record and passed over: %s", b64decode(key), error)
        if len(self._broken) >= BROKEN:
            self._broken.clear()
        self._broken[key] = revision

    async def _changes(self, name: str) -> AsyncGenerator[Change, None]:
        """Any doubt ends it: the core begins anew, with a list and the revision after that."""
        listing = await self._read(folder_of(name), name)
        known, member, told = listing.records, listing.member, listing.revision
        yield list(known.values())
        folder, deaf = everything_in(folder_of(name)), False
        request = {**folder, "start_revision": str(told + 1), "fragment": True}
        async with contextlib.aclosing(self._messages(member, request)) as messages:
            async for message in messages:
                if not message:
                    untold = {**folder, "min_mod_revision": str(told + 1), "keys_only": True}
                    _, message = await self._gateway.ask("kv/range", untold, at=member)
                    deaf, missed = "kvs" in message, deaf
                    if deaf and missed:
                        log.warning("%s: the watch at %s is deaf", name, member)
                        return
                if (newest := _revision(message)) < told:
                    log.warning("%s: revision went from %d back to %d", name, told, newest)
                    return
                for event in message.get("events", ()):
                    deaf = False
                    told = max(told, int(event["kv"]["mod_revision"]))
                    for change in self._changed(known, event, name):
                        yield change

    async def _messages(self, member: str, request: Answer) -> AsyncGenerator[Answer, None]:
        self._watched += 1
        quiet = max(QUIET, self._watched / QUESTIONS)
        try:
            async with contextlib.aclosing(self._gateway.watch(member, request, quiet)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._watched -= 1

    def _changed(self, known: dict[str, ServiceInfo], event: Answer, name: str) -> Sequence[Change]:
        pair = event["kv"]
        before = known.pop(pair["key"], None)
        after = None if event.get("type") == "DELETE" else self._record(pair, name)
        if after:
            known[pair["key"]] = after
        return list(changes_of(before, after))


class EtcdV3Registry(EtcdRegistry):
    """The same by the name that Go Micro's plugin has."""

    name: ClassVar[str] = "etcdv3"


def _revision(answer: Answer) -> int:
    return int(answer.get("header", {}).get("revision", 0))
