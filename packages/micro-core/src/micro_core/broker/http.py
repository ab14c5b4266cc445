"""The http broker: events posted from one process to another, with the registry in the middle."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from ..advertise import advertised, listen_address
from ..errors import BackendError, BackendUnavailable, BackendUnknown, MessageTooLarge
from ..message import Message
from ..options import Address
from ..registry.base import Registry
from ..registry.cache import RegistryCache
from ..registry.records import Node, ServiceInfo, by_version
from ..transport.http import HttpTransport
from .base import Broker, BrokerFeatures, Deliveries, PublishOptions, SubscribeRequest
from .envelope import encode
from .http_receiver import Inbox, Receiver
from .http_sender import Sender

SERVICE = "micro.http.broker"
BROADCAST = "ff.http.broadcast"
_TTL = 60.0
_CONNECT = 1.0  # seconds, so that another node of a queue can be tried within the same publish

Groups = dict[str, dict[str, list[Node]]]


class HttpBroker(Broker):
    """Go Micro's default broker: no server, each subscription is a node in the registry.

    At most once. ``publish`` returns when the subscribers have the message in their memory: one
    of each queue, where another is tried as long as it was surely not taken, and everybody
    without a queue. A queue that nobody of has taken it is an error. A subscriber without a queue
    that has not is counted in ``health().drops``, unless none has: then that is an error too.
    Where nobody subscribes ``publish`` succeeds, and nothing is kept for later. A subscriber that
    is behind holds the publisher up for a second before it refuses.

    The address is where subscriptions listen: by default loopback if the registry serves this
    host only, else all interfaces, and any free port.

    registry: where subscriptions are found; the service's own
    advertise: the address that publishers are told, if not the bound one
    max_body: most bytes of a message's body
    """

    name: ClassVar[str] = "http"
    features = BrokerFeatures(queue=True)

    def __init__(
        self,
        *addresses: str,
        registry: Registry | None = None,
        advertise: Address | None = None,
        max_body: int = 4 * 1024 * 1024,
    ) -> None:
        super().__init__(*addresses)
        self._given = registry
        self._advertise = advertise
        self._max_body = max_body
        self._turns = 0
        self._gate = asyncio.Lock()

    # -- connection --------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._registry = self._given or _local()
        wire = self._max_body * 4 // 3 + (64 << 10)  # base64, and a header in JSON
        self._transport = HttpTransport(max_body=wire, connect_timeout=_CONNECT)
        self._cache = RegistryCache(self._registry)
        self._sender = Sender(self._transport, self.publish_timeout * 0.8, self._note_drops)
        self._receiver: Receiver | None = None
        self._bound = ""
        await self._registry.acquire(self)
        await self._transport.acquire(self)
