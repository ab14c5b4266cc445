"""One start of a service, and its stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .advertise import advertised, listen_address
from .broker.retry import retrying
from .broker.subscription import Subscription
from .broker.typed import SubscriberPlan
from .component import Component
from .errors import BackendError
from .health import probe
from .registry.keeper import Keeper
from .registry.records import Node, ServiceInfo
from .server.base import RpcServer

if TYPE_CHECKING:
    from .broker.base import Start
    from .compose import Parts
    from .service import Service
    from .settings import Settings

log = logging.getLogger("micro.service")


@dataclass(frozen=True, slots=True)
class Identity:
    """What code says of a service; ``None`` and the empty leave it to flags and defaults."""

    name: str
    version: str
    id: str | None
    address: str | None
    advertise: str | None
    metadata: dict[str, str]
    ttl: float | None


@dataclass(frozen=True, slots=True)
class Topic:
    topic: str
    plan: SubscriberPlan
    queue: str | None
    attempts: int | None
    concurrency: int
    prefetch: int | None
    auto_ack: bool
    start: Start


class Running:
    """Opens in the order of need and stops so that no caller and no message is lost."""

    def __init__(self, service: Service, settings: Settings | None, *, alone: bool) -> None:
        from .compose import compose
        from .settings import Settings

        self.settings = settings or Settings.read(None, os.environ)
        self.parts: Parts = compose(self.settings, service.code)
        self.info: ServiceInfo  # what the registry was told, once started
        self.rpc: RpcServer = self.parts.make_server()
        self.stopping = False
        self.subscriptions: list[Subscription] = []
        self._delay = self.settings.core("drain_delay", None, 2.0)
        self._grace = self.settings.core("grace", None, 10.0)
        self._listening = False
        self._service = service
        self._alone = alone
        self._held: list[Component] = []
        self._keeper: Keeper | None = None

    @property
    def registered(self) -> bool:
        """Whether the registry has taken the registration within the last TTL."""
        return self._keeper is not None and self._keeper.registered

    # -- start -------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.run_hooks("before_start")
        parts = self.parts
        await self._hold(parts.registry)
        await self._hold(parts.transport)
        if parts.store is not None:
            await self._hold(parts.store)
        if self._service.topics:
            await self._hold(parts.broker)
        await self._service.client.open(parts)
        self.info = await self._listen()
        for topic in self._service.topics:
            self.subscriptions.append(await self._subscribe(topic))
        ttl: float = self.settings.core("register_ttl", self._service.identity.ttl)
        interval: float | None = self.settings.core("register_interval")
        self._keeper = parts.registry.keep(self.info, ttl=ttl, interval=interval)
        await self._keeper.__aenter__()

    async def _hold(self, component: Component) -> None:
        await component.acquire(self)
        self._held.append(component)

    async def _listen(self) -> ServiceInfo:
        code, parts, core = self._service.identity, self.parts, self.settings.core
        server = self._service.server
        server.codecs = parts.codecs
        server.threads = core("server_threads")
        server.max_calls = core("server_max_calls")
        server.name = self._own("server_name", code.name)
        server.draining = False
        parts.transport.probe = partial(probe, self)
        listen = listen_address(self._own("server_address", code.address), parts.registry)
        try:
            bound = await self.rpc.start(listen, server.dispatch)
        except BackendError as error:
            error.add_note("The address is set by --server_address or MICRO_SERVER_ADDRESS.")
            raise
        self._listening = True
        advertise = self._own("server_advertise", code.advertise)
        address = await asyncio.to_thread(advertised, bound, advertise, parts.registry)
        id = self._own("server_id", code.id) or os.urandom(8).hex()
        node = Node(f"{server.name}-{id}", address, self._node_metadata())
        version = self._own("server_version", code.version)
        return ServiceInfo(server.name, version, [node], server.records())

    def _node_metadata(self) -> dict[str, str]:
        own = self._own("server_metadata", self._service.identity.metadata)
        return {
            **own,
            "protocol": self.rpc.name,
            "transport": self.parts.transport.name,
            "registry": self.parts.registry.name,
            "broker": self.parts.broker.name,
            "server": self.rpc.name,
        }

    def _own(self, name: str, code: Any) -> Any:
        """An option that names or places one service: from outside only if it runs alone."""
        return self.settings.core(name, code) if self._alone else code

    async def _subscribe(self, topic: Topic) -> Subscription:
        broker, core = self.parts.broker, self.settings.core
        handler = topic.plan.bind(
            self._service.name, self.parts.codecs, self._service.server.wrappers
        )
        attempts = core("subscriber_attempts", topic.attempts)
        backoff = core("subscriber_backoff"), core("subscriber_backoff_max")
        return await broker.subscribe(
            topic.topic,
            retrying(handler, broker, attempts=attempts, backoff=backoff),
            queue=topic.queue,
            auto_ack=topic.auto_ack,
            concurrency=topic.concurrency,
            prefetch=core("subscriber_prefetch", topic.prefetch),
            start=topic.start,
        )

    # -- stop --------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Leave the registry, answer who is still there, finish what runs, close."""
        self.stopping = True
        try:
            await self.run_hooks("before_stop", fatal=False)
            await self._leave()
            if self._listening:
                await self.rpc.drain(self._delay)
            await self._finish()
        finally:
            await self.abort()
        await self.run_hooks("after_stop", fatal=False)

    async def _leave(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.__aexit__(None, None, None)

    async def _finish(self) -> None:
        self._service.server.draining = True
        work: list[Awaitable[None]] = [s.drain(self._grace) for s in self.subscriptions]
        if self._listening:
            work.append(self.rpc.stop(self._grace))
        await asyncio.gather(*work)

    async def abort(self) -> None:
        """Close whatever is open, at once; each step is bounded."""
        await self._leave()
        self._service.server.draining = True
        subscriptions, self.subscriptions = self.subscriptions, []
        await _quietly(*(s.unsubscribe(grace=0.0) for s in subscriptions))
        if self._listening:
            self._listening = False
            await _quietly(self.rpc.stop(0.0))
        await _quietly(self._service.client.close())
        self._service.server.close()
        while self._held:
            await _quietly(self._held.pop().release(self))

    async def run_hooks(self, when: str, *, fatal: bool = True) -> None:
        for hook in self._service.hooks.get(when, ()):
            try:
                result = hook()
                if result is not None:
                    await result
            except Exception:
                if fatal:
                    raise
                log.exception("%s hook %s failed", when, getattr(hook, "__qualname__", hook))


async def _quietly(*steps: Awaitable[None]) -> None:
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, Exception):
            log.warning("while closing: %s", result)
