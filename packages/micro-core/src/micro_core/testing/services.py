"""Services started for a test, on memory plugins that nobody else meets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar, Self

from ..broker.base import PublishOptions
from ..broker.memory import MemoryBroker
from ..client.client import Client
from ..codec.set import CodecSet
from ..compose import compose
from ..defaults import CORE
from ..message import Message
from ..plugin import Plugin
from ..registry.memory import MemoryRegistry
from ..service import Service
from ..settings import Code, Needs, Settings
from ..store.memory import MemoryStore
from ..transport.memory import MemoryTransport

_FLAGS = (
    "--drain_delay=0",
    "--subscriber_backoff=0",
    "--subscriber_backoff_max=0",
)
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Published:
    """A message that the broker has taken, as it is on the wire."""

    topic: str
    message: Message
    key: bytes | None = None
    _codecs: CodecSet = field(kw_only=True, repr=False, compare=False)

    def decode(self, type_: Any = Any) -> Any:
        """The body as ``type_``, or as plain values. Raises CodecError."""
        content_type = self.message.header.get("Content-Type", "application/json")
        return self._codecs.decode(content_type, type_, self.message.body)


class _RecordingBroker(MemoryBroker):
    name: ClassVar[str] = "memory"

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.sent: list[tuple[str, Message, bytes | None]] = []

    async def _send(
        self, topic: str, message: Message, key: bytes | None, options: PublishOptions | None
    ) -> None:
        self.sent.append((topic, message, key))
        await super()._send(topic, message, key, options)

    @property
    def busy(self) -> bool:
        """Whether a message waits for a handler that exists, or is being handled."""
        if any(subscription._busy for subscription in self._subscriptions):
            return True
        queues = [q for of in self._exchange.queues.values() for q in of.values() if q.consumers]
        live = [buffer for of in self._exchange.live.values() for buffer in of]
        return any(map(len, [*queues, *live]))


class _HubSettings(Settings):
    """Nothing from outside, and the same memory plugins whatever code names."""

    def __init__(self, address: str) -> None:
        super().__init__(_FLAGS, {}, CORE)
        self._plugins: Mapping[str, Plugin] = {
            "registry": MemoryRegistry(address),
            "transport": MemoryTransport(address),
            "broker": _RecordingBroker(address),
            "store": MemoryStore(address),
        }

    def choose(
        self, kind: str, code: Code = None, default: str = "", *, needs: Needs = None
    ) -> Any:
        if kind in self._plugins:
            return self._plugins[kind]
        own = code if kind in ("selector", "codec") else None
        return super().choose(kind, own, default, needs=needs)

    def core(self, name: str, code: Any = None, default: Any = None) -> Any:
        if name in ("server_address", "server_advertise"):
            return None  # real ones mean nothing to the memory transport
        return super().core(name, code, default)


class ServiceClient(Client):
    """A Client of the services that run with it; see :func:`running`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    async def __aenter__(self) -> Self:
        await self.open(compose(self._settings, {}))
        return self

    @property
    def published(self) -> list[Published]:
        """What services and this client have published, dead letters too, the oldest first."""
        parts, broker = self._opened(), self._broker
        return [Published(*sent, _codecs=parts.codecs) for sent in broker.sent]

    async def handled(self, *, timeout: float = 5.0) -> None:
        """Wait until every message has been through its handlers, those of handlers too.

        Raises TimeoutError after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while self._broker.busy:  # noqa: ASYNC110 -- nobody tells that all is done
                await asyncio.sleep(0.001)

    @property
    def _broker(self) -> _RecordingBroker:
        broker = self._opened().broker
        assert isinstance(broker, _RecordingBroker)  # noqa: S101 -- _HubSettings made it
        return broker


@asynccontextmanager
async def running(*services: Service) -> AsyncGenerator[ServiceClient, None]:
    """Start ``services``, in this order, and give a client of theirs; stop them at the end.

    They meet each other and nobody else: registry, transport, broker and store are in memory,
    whatever plugins the code names, and neither flags nor ``MICRO_*`` are read. Hooks,
    handlers, wrappers, codecs and everything else are the real ones. Failing handlers of
    messages are tried again at once. Raises RuntimeError for a service that runs already.
    """
    for service in services:
        if service._running is not None:
            raise RuntimeError(f"service {service.name} runs already: stop it first")
    settings = _HubSettings(f"testing-{next(_numbers)}")
    async with AsyncExitStack() as stack:
        for service in services:
            await service.start(settings, alone=True)
            stack.push_async_callback(service.stop)
        yield await stack.enter_async_context(ServiceClient(settings))
