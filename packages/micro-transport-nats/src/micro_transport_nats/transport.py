"""The transport ``nats``: Go Micro's messages from subject to subject."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import weakref
from itertools import count
from typing import ClassVar

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from micro_core.errors import BackendRefused, BackendUnavailable, SocketClosed
from micro_core.optiontypes import Duration
from micro_core.security import TLS, Secret, secret
from micro_core.timing import end, now
from micro_core.transport.base import Listener, Serve, Socket, Transport, TransportFeatures
from micro_nats import Connection, Link, LinkOptions, server_url

from .listener import NatsListener
from .socket import END, NatsSocket

log = logging.getLogger("micro.transport.nats")
_SUBJECT = re.compile(r"[^\s.*>\0]+(\.[^\s.*>\0]+)*")
_HOME = re.compile(r"(.+\.micro-)[0-9]+", re.ASCII)  # the subject of one of our clients' sockets
_FLUSH = 1.0  # seconds that close gives to what was sent before
_TICK = 0.25  # seconds between two looks whether those who were called live


class NatsTransport(Transport):
    """Go Micro's NATS transport. An address is a subject; ``""`` and ``host:0`` give a fresh one.

    All sockets share one connection, and one subscription for what is sent to those that were
    dialled. When the connection is lost they end, and those dialled after the reconnect work.

    username: of the account on the server
    password: of the account on the server
    token: instead of username and password
    tls: how to verify the server and what to show it; a server without TLS is refused then
    inbox: what the subjects of answers, and of fresh addresses, begin with
    max_body: most bytes of a message's body; base64 in JSON has to fit the server's max_payload
    max_unread: bytes that may wait to be received on one socket before it ends
    max_sockets: most peers of a listener at a time
    idle_timeout: time after which a listener ends a socket on which nothing happens
    ping_interval: time between two looks whether the server, and peers waited for, are there
    """

    name: ClassVar[str] = "nats"
    default_address: ClassVar[str] = "127.0.0.1:4222"
    features = TransportFeatures(peer_end_noticed=True, backpressure=False)

    def __init__(
        self,
        *addresses: str,
        username: str | None = None,
        password: Secret | str | None = None,
        token: Secret | str | None = None,
        tls: TLS | None = None,
        inbox: str = "_INBOX",
        max_body: int = 4 * 1024 * 1024,
        max_unread: int = 8 * 1024 * 1024,
        max_sockets: int = 10_000,
        idle_timeout: Duration = 90.0,
        ping_interval: Duration = 2.5,
    ) -> None:
        super().__init__(*addresses)
        self.max_body, self.max_unread, self.max_sockets = max_body, max_unread, max_sockets
        self._idle_timeout, self._interval = idle_timeout, ping_interval
        for address in self.addresses:
            server_url(address, tls)
        self._link_options = LinkOptions(
            addresses=self.addresses,
            username=username,
            password=secret(password),
            token=secret(token),
            tls=tls,
            inbox=inbox,
            interval=ping_interval,
            connect_timeout=self.connect_timeout,
        )
        self._link: Link | None = None
        self._own_inbox = ""
        self._numbers = count(1)
        self._sockets: weakref.WeakValueDictionary[str, NatsSocket] = weakref.WeakValueDictionary()
        self._probed: dict[str, str] = {}
        self._asked: dict[str, bool] = {}
        self.listeners: set[NatsListener] = set()
        self._looking: asyncio.Task[None] | None = None

    @property
    def native(self) -> Client | None:
        """The client of the connection at hand; another one after each reconnect."""
        return self._link.connection if self._link else None

    async def _connect(self) -> None:
        if self._link_options.tls is not None and not self._link_options.tls.verify:
            log.warning("transport nats at %s: TLS does not verify the server", self.address)
        self._link = Link(self._link_options, self._up, self._down, self._failure)
        await self._link.open()
        self._looking = asyncio.create_task(self._look(), name="micro-nats-look")

    async def _close(self) -> None:
        for listener in list(self.listeners):
            await listener.close()
        for socket in list(self._sockets.values()):
            await socket.close()
        await end(self._looking, limit=1.0)
        if self._link is not None:
            await self._settle(self._link)
            await self._link.close()

    async def _settle(self, link: Link) -> None:
        """Have the server take what was sent before, the ends of sockets too."""
        try:
            if link.connection is not None:
                async with asyncio.timeout(_FLUSH):
                    await link.connection.settle()
        except (errors.Error, OSError) as error:
            log.warning("transport nats was closed with messages unsent: %s", error)

    # -- Transport ---------------------------------------------------------------------------

    async def _dial(self, address: str) -> Socket:
        subject = self._subject(address.removesuffix(":0"))  # Go's watchers append it
        connection = self._connected()
        if not await self._is_heard(connection, subject):
            raise self._unavailable(f"nobody listens at {subject} of transport nats")
        local = self._fresh()
        socket = NatsSocket(self, connection, local=local, peer=subject, reply=local)
        self._sockets[local] = socket
        return socket

    async def _listen(self, address: str, serve: Serve) -> Listener:
        connection = self._connected()
        if not address or address.endswith(":0"):
            address = connection.new_inbox()
        elif await self._is_heard(connection, self._subject(address)) and connection.tells_nobody:
            raise self._unavailable(f'somebody listens at {address}: take "" for a fresh name')
        listener = NatsListener(address, serve, self)
        await listener.begin(connection)
        self.listeners.add(listener)
        try:
            await self._confirm(connection, f"listen on {address}")
        except BaseException:
            await listener.close()
            raise
        return listener

    def _subject(self, address: str) -> str:
        if not _SUBJECT.fullmatch(address):
            raise self._unavailable(
                f"{address!r} is no subject of NATS: no blanks, wildcards, empty parts"
            )
        return address

    def _unavailable(self, text: str) -> BackendUnavailable:
        return BackendUnavailable(text, plugin=self.name, address=self.address)

    def _connected(self) -> Connection:
        connection = self._link.connection if self._link else None
        if connection is None:
            raise self._unavailable(
                f"transport nats has lost its connection to {self.address}, and goes on trying"
            )
        return connection

    async def _is_heard(self, connection: Connection, subject: str) -> bool:
        """Whether somebody listens there; true where the server does not tell."""
        probe = self._fresh()
        self._asked[probe] = True
        try:
            await connection.publish(subject, END, probe)
            await connection.settle()
            return self._asked[probe]
        except (errors.Error, OSError) as error:
            raise self._failure(BackendUnavailable, f"connection lost: {error}", error) from error
        finally:
            del self._asked[probe]

    async def _confirm(self, connection: Connection, what: str) -> None:
        """Wait for the server's word on what was sent."""
        before = connection.last_error
        await self._ask(connection.settle(), what, timeout=self.connect_timeout)
        if (error := connection.last_error) is not before and error is not None:
            raise self._failure(BackendRefused, f"{what}: {error}", error)

    # -- sockets -----------------------------------------------------------------------------

    def _fresh(self) -> str:
        return f"{self._own_inbox}.micro-{next(self._numbers)}"

    def accepted(self, listener: NatsListener, connection: Connection, peer: str) -> NatsSocket:
        """A peer that cannot be asked whether it lives is given a subject for the server's 503."""
        reply = "" if _HOME.fullmatch(peer) else self._fresh()
        local = listener.address
        socket = NatsSocket(listener, connection, local=local, peer=peer, reply=reply)
        if reply:
            self._sockets[reply] = socket
        return socket

    def forget(self, socket: NatsSocket) -> None:
        self._sockets.pop(socket.local, None)

    def drop(self, socket: NatsSocket) -> None:
        """One that a listener had accepted."""
        if socket.reply:
            self._sockets.pop(socket.reply, None)

    async def _on_message(self, message: Msg) -> None:
        """What comes to one of our sockets, or the server's word that nobody listens."""
        headers = message.headers
        if headers is not None and headers.get("Status") == "503":
            self._unheard(message.subject)
        elif (socket := self._sockets.get(message.subject)) is not None:
            await socket.deliver(message.data)

    def _unheard(self, subject: str) -> None:
        socket = self._sockets.get(subject)
        if socket is not None:
            socket.unheard()
        elif subject in self._asked:
            self._asked[subject] = False
        elif probed := self._probed.pop(subject, None):
            for each in self._all():
                if _probe(each) == probed:
                    each.finish(SocketClosed, f"nobody listens at {each.peer} any more")

    def _all(self) -> list[NatsSocket]:
        accepted = [s for listener in self.listeners for s in listener.sockets.values()]
        return [*self._sockets.values(), *accepted]

    # -- the link ----------------------------------------------------------------------------

    async def _up(self, connection: Connection) -> None:
        """Another home each time: whoever asks for one of the former is told that nobody is."""
        self._own_inbox = connection.new_inbox()
        await connection.hear(f"{self._own_inbox}.*", self._on_message)
        for listener in self.listeners:
            await listener.begin(connection)
        await self._confirm(connection, "subscribe")

    def _down(self, error: Exception) -> None:
        for listener in self.listeners:
            listener.lose(error)
        for socket in list(self._sockets.values()):
            socket.finish(SocketClosed, f"the connection to NATS is lost: {error}")
        self._probed.clear()

    # -- looking after sockets ---------------------------------------------------------------

    async def _look(self) -> None:
        tick, looked = min(_TICK, self._interval), 0.0
        while True:
            await asyncio.sleep(tick)
            if self._link is None or self._link.connection is None:
                continue
            with contextlib.suppress(errors.Error):  # the link knows, or will
                if now() - looked < self._interval:
                    await self._ask_for(self._link.connection, self._calling(tick))
                else:
                    looked = now()
                    await self._look_once(self._link.connection)

    async def _look_once(self, connection: Connection) -> None:
        self._probed.clear()
        for listener in self.listeners:
            for socket in list(listener.sockets.values()):
                if not socket.busy and socket.active < now() - self._idle_timeout:
                    await socket.leave("nothing was said for the idle timeout")
        quiet = [s for s in self._all() if s.active < now() - self._interval]
        await self._ask_for(connection, [*quiet, *self._calling(0.0)])

    def _calling(self, tick: float) -> list[NatsSocket]:
        """Those that wait for an answer, and not yet for long."""
        first, last = now() - 2 * self._interval, now() - tick
        return [s for s in self._sockets.values() if s.waiting and first < s.active < last]

    async def _ask_for(self, connection: Connection, sockets: list[NatsSocket]) -> None:
        for subject in {_probe(socket) for socket in sockets} - {""}:
            probe = self._fresh()
            self._probed[probe] = subject
            await connection.publish(subject, END, probe)


def _probe(socket: NatsSocket) -> str:
    """Where to ask whether the peer of a socket lives: an empty message there does no harm.

    An address may be asked by whoever is not its peer. What answers go to may be asked where it
    is one of many subjects of one subscription: for one that no socket has.
    """
    if socket.reply == socket.local:
        return socket.peer if socket.waiting else ""
    home = _HOME.fullmatch(socket.peer)
    return f"{home[1]}0" if home else ""
