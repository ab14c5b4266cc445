"""The http broker: events posted from one process to another, with the registry in the middle."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from ..advertise import advertised, listen_address
from ..errors import (
    BackendUnavailable,
    BackendUnknown,
    InvalidName,
    MessageTooLarge,
    MicroError,
)
from ..message import Message
from ..optiontypes import Address
from ..registry.base import Registry
from ..registry.cache import RegistryCache
from ..registry.records import Node, ServiceInfo, by_version
from ..security import TLS
from ..transport.http import HttpTransport
from .base import Broker, BrokerFeatures, Deliveries, PublishOptions, SubscribeRequest
from .envelope import encode
from .http_receiver import Inbox, Receiver
from .http_sender import Sender

SERVICE = "micro.http.broker"
BROADCAST = "ff.http.broadcast"
_TTL = 60.0
_CONNECT = 2.0  # seconds, so that another node of a queue can be tried within the same publish

_TURNS = 10_000

Routes = dict[str, dict[str, list[Node]]]
"""By topic and queue, as the registry's version has it."""


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
    tls: TLS of every connection, never without; files that are replaced count for the next one
    """

    name: ClassVar[str] = "http"
    features = BrokerFeatures(queue=True)

    def __init__(
        self,
        *addresses: str,
        registry: Registry | None = None,
        advertise: Address | None = None,
        max_body: int = 4 * 1024 * 1024,
        tls: TLS | None = None,
    ) -> None:
        super().__init__(*addresses)
        self._tls = tls
        self._given = registry
        self._advertise = advertise
        self._max_body = max_body

    async def _connect(self) -> None:
        self._registry = self._given or _local()
        wire = self._max_body * 4 // 3 + (64 << 10)  # base64, and a header in JSON
        self._transport = HttpTransport(max_body=wire, connect_timeout=_CONNECT, tls=self._tls)
        self._cache = RegistryCache(self._registry)
        self._sender = Sender(self._transport, self.publish_timeout * 0.8, self._note_drops)
        self._receiver = Receiver(self._transport._http)
        self._listening = asyncio.Lock()
        self._listens_at = ""
        self._own: dict[str, ServiceInfo] = {}
        self._turns: Counter[tuple[str, str]] = Counter()
        self._routes: Routes = {}
        self._routed: Sequence[ServiceInfo] | None = None
        self._looking: asyncio.Task[Sequence[ServiceInfo]] | None = None
        await self._registry.acquire(self)
        await self._transport.acquire(self)

    async def _close(self) -> None:
        await self._receiver.close()
        await self._sender.close()
        await self._cache.close()
        await self._transport.release(self)
        await self._registry.release(self)

    # -- publish -----------------------------------------------------------------------------

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        body = encode(Message({**message.header, "Micro-Topic": topic}, message.body))
        if len(message.body) > self._max_body or len(body) > self._transport._http.max_body:
            raise MessageTooLarge(
                f"{topic}: {len(message.body)} bytes of body, {len(body)} with the header: the "
                f"limit max_body is {self._max_body}"
            )
        queues = self._route(await self._services(), topic)
        posts = [self._post(topic, queue, nodes, body) for queue, nodes in queues.items()]
        results = [await posts[0]] if len(posts) == 1 else await asyncio.gather(*posts)
        if errors := [result for result in results if result is not None]:
            surely = len(errors) == len(results) and all(e.happened == "no" for e in errors)
            kind = BackendUnavailable if surely else BackendUnknown
            raise kind(
                f"{len(errors)} of {len(results)} queues of {topic} did not take the message: "
                f"{errors[0]}",
                plugin=self.name,
                address=self.address,
            ) from errors[0]

    async def _services(self) -> Sequence[ServiceInfo]:
        if self._registry.reach != "network":  # as quick to ask as to remember, and never late
            if self._looking is None:
                self._looking = asyncio.create_task(self._look(), name="micro-broker-look")
            return await asyncio.shield(self._looking)
        view = self._cache.get(SERVICE) or await self._cache.load(SERVICE)
        return view.services

    async def _look(self) -> Sequence[ServiceInfo]:
        """One for all who publish at the same time; who comes after it has begun needs another."""
        self._looking = None
        return await self._registry.get_service(SERVICE)

    def _route(self, services: Sequence[ServiceInfo], topic: str) -> Mapping[str, list[Node]]:
        if services is not self._routed:
            self._routed = services
            self._routes = _by_topic([*services, *self._own.values()])
        return self._routes.get(topic, {})

    async def _post(
        self, topic: str, queue: str, nodes: list[Node], body: bytes
    ) -> MicroError | None:
        if queue == BROADCAST:
            return await self._sender.to_all(nodes, body)
        if len(self._turns) > _TURNS:
            self._turns.clear()
        self._turns[topic, queue] += 1
        return await self._sender.to_one(nodes, self._turns[topic, queue], body)

    def _note_drops(self, number: int) -> None:
        self._health = replace(self._health, drops=self._health.drops + number)

    # -- subscribe ---------------------------------------------------------------------------

    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        if request.queue == BROADCAST:
            raise InvalidName(f"queue {BROADCAST} means no queue on the wire: take another name")
        secure = "true" if self._tls else "false"
        metadata = {"broker": "http", "secure": secure, "topic": request.topic}
        node = Node(f"{request.topic}-{uuid.uuid4()}", await self._listen(), metadata)
        info = ServiceInfo(SERVICE, request.queue or BROADCAST, [node])
        keeper = self._registry.keep(info, ttl=_TTL)
        inboxes = self._receiver.inboxes

        async def leave() -> None:
            self._own.pop(node.id, None)
            self._routed = None
            try:
                await keeper.close()
            finally:
                inboxes.pop(node.id, None)

        inbox = inboxes[node.id] = Inbox(request.topic, request.prefetch, leave)
        try:
            await keeper.__aenter__()
        except BaseException:
            del inboxes[node.id]
            raise
        self._own[node.id] = info  # whatever the cache says yet
        self._routed = None
        return inbox

    async def _listen(self) -> str:
        """Listen once, and return what publishers are told."""
        async with self._listening:
            if not self._listens_at:
                first = self.addresses[0] if self.addresses else None
                address = listen_address(first, self._registry)
                try:
                    bound = self._receiver.address or await self._receiver.listen(address)
                except (OSError, ValueError) as error:
                    raise BackendUnavailable(
                        f"broker http cannot listen on {address!r}: {error}",
                        plugin=self.name,
                        address=address,
                    ) from error
                self._listens_at = await asyncio.to_thread(
                    advertised, bound, self._advertise, self._registry
                )
            return self._listens_at


def _local() -> Registry:
    from ..registry.local import LocalRegistry

    return LocalRegistry()


def _by_topic(services: Iterable[ServiceInfo]) -> Routes:
    routes: Routes = {}
    for info in by_version(services):
        for node in info.nodes:
            if node.metadata.get("broker") == "http" and (topic := node.metadata.get("topic")):
                routes.setdefault(topic, {}).setdefault(info.version, []).append(node)
    return routes
