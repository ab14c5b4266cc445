"""The registry ``nats``: whoever has registered a node answers for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar, Literal

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    OptionError,
)
from micro_core.optiontypes import Duration
from micro_core.registry.base import Change, Registry, RegistryFeatures
from micro_core.registry.records import RegistryEvent, ServiceInfo, by_node, by_version
from micro_core.security import TLS, Secret, secret
from micro_core.timing import now
from micro_nats import Connection, Link, LinkOptions, server_url

from .wire import LIST, Notice, answer, broadcast, get, read_answer, read_notice

_ANSWERS = 10_000  # to one question, of at most
_UNREAD = 10_000  # changes that a watch may be behind before it begins again
_LATE = 1.0  # seconds after which an expiry says more about this process than about the node
log = logging.getLogger("micro.registry.nats")
Known = dict[str, tuple[ServiceInfo, float]]  # by node id, and when each expires


class NatsRegistry(Registry):
    """Go Micro's NATS registry. There are no records on the server: services answer questions.

    A reader knows the nodes that answer within ``wait``, which is how long each look-up takes,
    but for one that nobody could answer. A watch hears what is broadcast, and removes a node
    that has not been heard of for its TTL; one that only answers late stays.

    username: of the account on the server
    password: of the account on the server
    token: instead of username and password
    tls: how to verify the server and what to show it; a server without TLS is refused then
    wait: time that answers are waited for
    foreign_ttl: time after which a watch removes a node of Go's that it no longer hears of
    query_topic: subject of questions
    watch_topic: subject of broadcasts
    ping_interval: time between two looks whether the server is there
    """

    name: ClassVar[str] = "nats"
    default_address: ClassVar[str] = "127.0.0.1:4222"
    features = RegistryFeatures(expiry=True, changes=True, survives_restart=False)

    def __init__(
        self,
        *addresses: str,
        username: str | None = None,
        password: Secret | str | None = None,
        token: Secret | str | None = None,
        tls: TLS | None = None,
        wait: Duration = 0.25,
        foreign_ttl: Duration = 90.0,
        query_topic: str = "micro.registry.nats.query",
        watch_topic: str = "micro.registry.nats.watch",
        ping_interval: Duration = 2.5,
    ) -> None:
        super().__init__(*addresses)
        if not 0.0 < wait < self.operation_timeout:
            raise OptionError(f"wait={wait} of registry nats: over 0, below 5 seconds")
        for address in self.addresses:
            server_url(address, tls)
        self._wait, self._foreign_ttl = wait, foreign_ttl
        self._query_topic, self._watch_topic = query_topic, watch_topic
        self._link_options = LinkOptions(
            addresses=self.addresses,
            username=username,
            password=secret(password),
            token=secret(token),
            tls=tls,
            interval=ping_interval,
            connect_timeout=self.connect_timeout,
        )
        self._link: Link | None = None
        self._answering: Connection | None = None
        self._own: dict[str, Known] = {}
        self._feeds: dict[str, set[Feed]] = {}

    @property
    def native(self) -> Client | None:
        """The client of the connection at hand; another one after each reconnect."""
        return self._link.connection if self._link else None

    async def _connect(self) -> None:
        if self._link_options.tls is not None and not self._link_options.tls.verify:
            log.warning("registry nats at %s: TLS does not verify the server", self.address)
        self._link = Link(self._link_options, self._up, self._down, self._failure)
        await self._link.open()

    async def _close(self) -> None:
        self._own.clear()
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._down(BackendUnavailable("the registry is closed"))

    # -- the link ----------------------------------------------------------------------------

    async def _up(self, connection: Connection) -> None:
        await connection.hear(self._watch_topic, self._on_broadcast)
        for name in self._own:
            for info, ttl in self._live(name):
                await self._answer_on(connection)
                await self._publish(connection, self._watch_topic, broadcast("create", info, ttl))
        await self._ask(self._confirm(connection), "subscribe")

    def _down(self, error: Exception) -> None:
        self._answering = None
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.fail(error)

    def _connected(self) -> Connection:
        connection = self._link.connection if self._link else None
        if connection is None:
            raise BackendUnavailable(
                f"registry nats has lost its connection to {self.address}, and goes on trying",
                plugin=self.name,
                address=self.address,
            )
        return connection

    async def _publish(
        self, connection: Connection, subject: str, data: bytes, reply: str = ""
    ) -> None:
        try:
            await connection.publish(subject, data, reply)
        except errors.MaxPayloadError as error:
            text = f"{len(data)} bytes: the server takes {connection.max_payload}"
            raise self._failure(BackendRefused, text, error) from error
        except errors.Error as error:
            raise self._failure(BackendUnavailable, f"not sent: {error}", error) from error

    async def _confirm(self, connection: Connection) -> None:
        """Wait for the server's word on what was published."""
        before = connection.last_error
        try:
            await connection.settle()
        except (errors.Error, OSError) as error:
            raise self._failure(BackendUnknown, f"connection lost: {error}", error) from error
        if (word := connection.last_error) is not before and word is not None:
            raise self._failure(BackendRefused, str(word), word) from word

    # -- what this registry answers for ------------------------------------------------------

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        connection = self._connected()
        await self._answer_on(connection)
        for id, alone in by_node([info]).items():
            self._own.setdefault(info.name, {})[id] = alone, now() + ttl
        await self._publish(connection, self._watch_topic, broadcast("create", info, ttl))
        await self._confirm(connection)

    async def _deregister(self, info: ServiceInfo) -> None:
        mine = self._own.get(info.name, {})
        for node in info.nodes:
            mine.pop(node.id, None)
        if not mine:
            self._own.pop(info.name, None)
        connection = self._connected()
        gone = ServiceInfo(info.name, info.version, info.nodes, (), info.metadata)
        await self._publish(connection, self._watch_topic, broadcast("delete", gone, 0.0))
        await self._confirm(connection)

    async def _answer_on(self, connection: Connection) -> None:
        """Who has nothing to say does not listen, so that the server can tell who asks in vain."""
        if self._answering is not connection:
            self._answering = connection
            await connection.hear(self._query_topic, self._on_query)

    def _live(self, name: str) -> list[tuple[ServiceInfo, float]]:
        """The versions of a service that are registered here, with the seconds they have left."""
        time, mine = now(), self._own.get(name, {})
        for id in [id for id, (_, expiry) in mine.items() if expiry <= time]:
            del mine[id]
        versions = by_version(info for info, _ in mine.values())
        return [(v, min(mine[node.id][1] for node in v.nodes) - time) for v in versions]

    async def _on_query(self, message: Msg) -> None:
        try:
            asked = read_notice(message.data)
        except ValueError as error:
            log.debug("a question that cannot be read: %s", error)
            return
        if asked.action not in ("get", "list") or not message.reply or self._answering is None:
            return
        names = list(self._own) if asked.action == "list" else [_name(asked)]
        for name in names:
            for info, ttl in self._live(name):
                await self._publish(self._answering, message.reply, answer(info, ttl))

    # -- reading -----------------------------------------------------------------------------

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        answered = [info for info, _ in await self._ask_all(get(name)) if info.name == name]
        watched = {id: one for feed in self._feeds.get(name, ()) for id, one in feed.live()}
        return [*answered, *(watched[id] for id in watched.keys() - by_node(answered).keys())]

    async def _list_services(self) -> Sequence[str]:
        return [info.name for info, _ in await self._ask_all(LIST) if info.nodes]

    async def _ask_all(self, question: bytes) -> list[tuple[ServiceInfo, float]]:
        """What is answered within ``wait`` seconds, with when each record expires."""
        connection = self._connected()
        gathering = Gathering(self._foreign_ttl)
        inbox = connection.new_inbox()
        subscription = await connection.hear(inbox, gathering.take)
        try:
            await self._publish(connection, self._query_topic, question, inbox)
            await connection.settle()  # or an empty list might mean a server that is frozen
            ends = (gathering.nobody, connection.gone)
            await asyncio.wait(ends, timeout=self._wait, return_when=asyncio.FIRST_COMPLETED)
            if connection.gone.done():
                raise connection.gone.result()
            return gathering.found
        except (errors.Error, OSError) as error:
            raise self._failure(BackendUnavailable, f"connection lost: {error}", error) from error
        finally:
            if not connection.gone.done():
                await subscription.unsubscribe()

    # -- watching ----------------------------------------------------------------------------

    async def _on_broadcast(self, message: Msg) -> None:
        try:
            notice = read_notice(message.data)
        except ValueError as error:
            log.debug("a broadcast that cannot be read: %s", error)
            return
        for feed in self._feeds.get(_name(notice), ()):
            feed.put(notice)

    async def _changes(self, name: str) -> AsyncGenerator[Change, None]:
        feed = Feed(self._foreign_ttl)
        self._feeds.setdefault(name, set()).add(feed)
        try:
            feed.begin([one for one in await self._ask_all(get(name)) if one[0].name == name])
            yield [info for _, info in feed.live()]
            while (event := await feed.next()) is not None:
                yield event
        finally:
            self._feeds[name].discard(feed)
            if not self._feeds[name]:
                del self._feeds[name]


class Gathering:
    """The answers to one question. ``nobody``: the server says that nobody hears it."""

    def __init__(self, foreign_ttl: float) -> None:
        self.found: list[tuple[ServiceInfo, float]] = []
        self.nobody: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._foreign_ttl = foreign_ttl

    async def take(self, message: Msg) -> None:
        if message.headers is not None and message.headers.get("Status") == "503":
            if not self.nobody.done():
                self.nobody.set_result(None)
            return
        try:
            info, ttl = read_answer(message.data)
        except ValueError as error:
            log.debug("an answer that cannot be read: %s", error)
            return
        if len(self.found) < _ANSWERS:
            self.found.append((info, now() + (self._foreign_ttl if ttl is None else ttl)))


class Feed:
    """The nodes that one watch knows, and what it has yet to be told of them."""

    def __init__(self, foreign_ttl: float) -> None:
        self._foreign_ttl = foreign_ttl
        self._known: Known = {}
        self._early: list[Notice] | None = []  # what came before the list
        self._queue: asyncio.Queue[RegistryEvent | Exception] = asyncio.Queue()

    def begin(self, found: list[tuple[ServiceInfo, float]]) -> None:
        """With the list, and what was broadcast while it was gathered: that is newer."""
        for info, expiry in found:
            self._known |= {id: (one, expiry) for id, one in by_node([info]).items()}
        early, self._early = self._early or [], None
        for notice in early:
            self.put(notice)

    def live(self) -> list[tuple[str, ServiceInfo]]:
        time = now()
        return [(id, info) for id, (info, expiry) in self._known.items() if expiry > time]

    def put(self, notice: Notice) -> None:
        if self._early is not None:
            self._early.append(notice)
        elif notice.service is not None:
            self._hear(notice, by_node([notice.service]))

    def _hear(self, notice: Notice, nodes: dict[str, ServiceInfo]) -> None:
        known = self._known
        if notice.action == "delete":
            self._tell("delete", [known.pop(id, (one, 0.0))[0] for id, one in nodes.items()])
            return
        expiry = now() + (self._foreign_ttl if notice.ttl is None else notice.ttl)
        changed = [one for id, one in nodes.items() if id not in known or known[id][0] != one]
        known |= {id: (one, expiry) for id, one in nodes.items()}
        self._tell("update", changed)

    def fail(self, error: Exception) -> None:
        self._known.clear()
        text = f"the connection to NATS is lost: {error}"
        known = isinstance(error, BackendError)
        self._queue.put_nowait(error if known else BackendUnavailable(text))

    async def next(self) -> RegistryEvent | None:
        """``None`` ends the watch, so that it begins again; other ends are raised."""
        while True:
            expiry = min((end for _, end in self._known.values()), default=None)
            try:
                async with asyncio.timeout_at(expiry):
                    found = await self._queue.get()
            except TimeoutError:
                if expiry is not None and now() - expiry > _LATE:
                    return None  # this process stood still, and nodes spoke meanwhile
                self._expire()
                continue
            if isinstance(found, Exception):
                raise found
            return found

    def _expire(self) -> None:
        live = {id for id, _ in self.live()}
        self._tell("delete", [self._known.pop(id)[0] for id in self._known.keys() - live])

    def _tell(self, action: Literal["update", "delete"], nodes: list[ServiceInfo]) -> None:
        for info in nodes:
            if self._queue.qsize() < _UNREAD:
                self._queue.put_nowait(RegistryEvent(action, info))
            elif self._queue.qsize() == _UNREAD:
                self._queue.put_nowait(BackendUnavailable("nodes change faster than they are read"))


def _name(notice: Notice) -> str:
    return notice.service.name if notice.service else ""
