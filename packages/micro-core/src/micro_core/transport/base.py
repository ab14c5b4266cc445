"""The transport: ordered, full-duplex channels of messages between two peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

from ..component import Component
from ..message import Message

Serve = Callable[["Socket"], Awaitable[None]]
Probe = Callable[[str], tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportFeatures:
    """What a transport can do and what it guarantees.

    peer_end_noticed: ``recv`` raises SocketClosed soon after the other side has gone.
    backpressure: ``send`` waits while the other side does not read.
    """

    peer_end_noticed: bool = True
    backpressure: bool = True


class Socket(ABC):
    """One channel. One task may send while another receives; header names are canonical.

    The receive buffer is bounded: a full one pauses the peer or ends the socket with
    StreamOverflow, and never drops a message. An exception or a cancellation inside ``send`` or
    ``recv`` ends the socket, so that nobody reads an answer meant for another.

    ``busy`` is set by a server while it handles a request or a stream: a listener ends idle
    sockets, and such a one is not idle however long nothing is said.
    """

    local: str = ""
    peer: str = ""
    busy: bool = False

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether this side closed or the other side is known to have gone."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Raises SocketClosed (``happened == "no"`` if nothing was written) or MessageTooLarge."""

    @abstractmethod
    async def recv(self) -> Message:
        """The next message. Raises SocketClosed at the end, TooLarge, BadRequest for garbage."""

    @abstractmethod
    async def close(self) -> None:
        """End the channel. Bounded, idempotent, and safe while others send or receive."""

    async def abort(self) -> None:
        """``close`` that leaves unwritten what the peer has not taken yet, and so is quick."""
        await self.close()


class Listener(ABC):
    """A bound address. ``address`` is what a peer dials: the real port, not 0."""

    address: str

    @abstractmethod
    async def close(self) -> None:
        """Accept no more, end every socket and its ``serve`` task; bounded and idempotent."""


class Transport(Component):
    """Dials and listens. A driver implements ``_dial`` and ``_listen``.

    ``probe`` gives a status and a text for ``/_live`` and ``/_ready``, which a transport that
    speaks HTTP answers; the others leave it alone.
    """

    kind: ClassVar[str] = "transport"
    features: TransportFeatures = TransportFeatures()
    probe: Probe | None = None

    async def dial(self, address: str) -> Socket:
        """A socket to ``address``. Raises BackendUnavailable, surely not connected."""
        self._check_home()
        return await self._dial(address)

    async def listen(self, address: str, serve: Serve) -> Listener:
        """Run ``serve(socket)`` as a task of its own for every peer that comes.

        ``address`` is ``host:port`` with port 0 for any free one; transports over a message queue
        take ``""`` for a fresh name. A ``serve`` that returns or raises ends its socket.
        Raises BackendUnavailable when the address cannot be bound.
        """
        self._check_home()
        return await self._listen(address, serve)

    @abstractmethod
    async def _dial(self, address: str) -> Socket: ...

    @abstractmethod
    async def _listen(self, address: str, serve: Serve) -> Listener: ...
