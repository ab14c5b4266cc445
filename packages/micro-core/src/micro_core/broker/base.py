"""The broker: messages by topic, to everybody or to one of a queue."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from ..component import Component
from ..errors import BackendUnknown, NotSupported, PublishUnknown
from ..message import Message, checked_header
from ..registry.records import check_name
from .subscription import Event, Subscription, nothing

Handler = Callable[[Event], Awaitable[None]]
Start = Literal["new", "earliest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFeatures:
    """Abilities, then guarantees. An undeclared ability raises NotSupported when used.

    queue: competing consumers. key: messages of one key stay in order. replay: a subscription
    may start at the earliest message kept. wildcard: topics may be patterns.
    at_least_once: a message accepted for a queue is handled although a consumer dies.
    ordered: one subscription without a queue sees messages in the order of one publisher.
    survives_server: messages and queues outlive the server's death.
    """

    queue: bool = False
    key: bool = False
    replay: bool = False
    wildcard: bool = False
    at_least_once: bool = False
    ordered: bool = True
    survives_server: bool = False


class PublishOptions:
    """Base of the typed options of one plugin, such as a partition."""


@dataclass(frozen=True, slots=True)
class SubscribeRequest:
    """What a driver is asked for. ``prefetch`` bounds what is delivered and not yet acked."""

    topic: str
    queue: str | None = None
    prefetch: int = 100
    start: Start = "new"


@dataclass(slots=True)
class Delivery:
    """One message from the backend. ``ack`` and ``nack`` are awaited at most once in all;
    ``nack`` asks for redelivery where the backend has it."""

    topic: str
    message: Message
    key: bytes | None = None
    ack: Callable[[], Awaitable[None]] = field(default=nothing)
    nack: Callable[[], Awaitable[None]] = field(default=nothing)


class Deliveries(Protocol):
    """An async iterator that can be closed: an async generator, or a class of the driver's.

    Where the backend has no acks, a class may also have ``async def stop(self)``: take nothing
    more, but yield what was accepted before, and then end.
    """

    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    def __anext__(self) -> Awaitable[Delivery]: ...
    def aclose(self) -> Awaitable[None]: ...


class Broker(Component):
    """Publishes and subscribes. A driver implements ``_send`` and ``_receive``."""

    kind: ClassVar[str] = "broker"
    features: BrokerFeatures = BrokerFeatures()
    publish_options: ClassVar[type[PublishOptions]] = PublishOptions
    publish_timeout: float = 5.0

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self._subscriptions: set[Subscription] = set()

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        key: bytes | None = None,
        options: PublishOptions | None = None,
    ) -> None:
        """Returns once the broker has confirmed; never buffers for later.

        Raises BackendUnavailable (surely not sent), PublishUnknown (may have been sent),
        Unroutable, MessageTooLarge, InvalidName, or NotSupported for a key or for options that
        this plugin does not have.
        """
        self._check_home()
        check_name(topic, "topic")
        if key is not None and not self.features.key:
            raise NotSupported(f"broker {self.name} has no keys: publish without one")
        if options is not None and type(options) is not self.publish_options:
            raise NotSupported(
                f"broker {self.name} does not take {type(options).__name__}: "
                f"its options are {self.publish_options.__name__}"
            )
        outgoing = Message(checked_header(message.header), message.body)
        sending = self._send(topic, outgoing, key, options)
        try:
            await self._ask(sending, f"publish {topic}", timeout=self.publish_timeout)
        except PublishUnknown:
            raise
        except BackendUnknown as error:
            raise PublishUnknown(
                error.detail,
                message_id=outgoing.header.get("Micro-Id", ""),
                plugin=self.name,
                address=self.address,
            ) from error

    async def subscribe(
        self,
        topic: str,
        handler: Handler,
        *,
        queue: str | None = None,
        auto_ack: bool = True,
        concurrency: int = 1,
        prefetch: int = 100,
        start: Start = "new",
    ) -> Subscription:
        """Returns once the subscription is effective on the server; see :class:`Subscription`.

        ``auto_ack``: the handler's return acks, its exception nacks. Without it whoever holds the
        event calls ``ack`` or ``nack`` once. A handler cut by a shutdown does neither.
        """
        self._check_home()
        self._check_subscribe(topic, queue, start)
        if concurrency < 1 or prefetch < 1:
            raise ValueError("concurrency and prefetch are at least 1")
        request = SubscribeRequest(topic, queue, prefetch, start)
        subscription = Subscription(self, request, handler, auto_ack, concurrency)
        await subscription.begin()
        return subscription

    def _check_subscribe(self, topic: str, queue: str | None, start: Start) -> None:
        check_name(topic, "topic")
        if queue is not None:
            check_name(queue, "queue")
            if not self.features.queue:
                raise NotSupported(f"broker {self.name} has no queues: subscribe without one")
        if start != "new" and not self.features.replay:
            raise NotSupported(f"broker {self.name} keeps no messages to start from {start}")

    async def _shut(self) -> None:
        """Subscriptions first: what drains has drained before a broker is closed."""
        leaving = [subscription.unsubscribe(grace=1.0) for subscription in self._subscriptions]
        await asyncio.gather(*leaving)
        await super()._shut()

    @abstractmethod
    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        """Send one message and await its confirmation."""

    @abstractmethod
    async def _receive(self, request: SubscribeRequest) -> Deliveries:
        """Subscribe on the server, and return once that is effective.

        The iterator may end or raise at any time; the core closes it and asks again with backoff.
        """
