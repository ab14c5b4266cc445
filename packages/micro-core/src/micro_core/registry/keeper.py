"""The keeper: a registration that outlives every outage of its registry."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Self

from ..backoff import Backoff
from ..errors import BackendUnavailable, InvalidName, MicroError, OptionError
from ..timing import end, now
from .records import Node, ServiceInfo

if TYPE_CHECKING:
    from .base import Registry

log = logging.getLogger("micro.registry")


class Keeper:
    """Registers on entering, raising what that raises, and again every ``interval`` seconds.

    That is a third of ``ttl`` by default, and at most.

    Whatever happened meanwhile, each beat registers from scratch: a registry that was restarted,
    wiped or out of reach has the nodes again within ``ttl / 3 + 2`` seconds of its return.
    Leaving deregisters; should that fail, the records expire.
    """

    def __init__(
        self, registry: Registry, info: ServiceInfo, ttl: float, interval: float | None = None
    ) -> None:
        if not ttl > 0:
            raise OptionError(f"ttl={ttl} of {info.name}: give more than 0 seconds")
        self.last_ok: float | None = None
        self.last_error: Exception | None = None
        self._registry = registry
        self.info = info
        self._ttl = ttl
        self._interval = min(interval or ttl, ttl / 3)
        self._limit = min(registry.operation_timeout, max(1.0, ttl / 3))
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def registered(self) -> bool:
        """Whether the last success is younger than the TTL; ``last_error`` tells a failed beat.

        ``last_ok`` is that success, a time of the event loop's clock.
        """
        last_ok = self.last_ok if self._task else None
        return last_ok is not None and now() - last_ok < self._ttl

    async def __aenter__(self) -> Self:
        await self._register(self.info)
        self._task = asyncio.create_task(self._beat(), name=f"micro-keep {self.info.name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def update(self, info: ServiceInfo) -> None:
        """Register ``info`` in place of what was; nodes that are left out are deregistered.

        Raises like ``register``; the keeper goes on trying unless ``info`` itself is invalid.
        """
        async with self._lock:
            if self._task is None:
                raise BackendUnavailable(f"{self._named} is not kept any more: enter a new keeper")
            before, self.info = self.info, info
            try:
                await self._register(info)
            except InvalidName:
                self.info = before
                raise
            if gone := _left_out(before, info):
                await self._remove(before.with_nodes(gone))

    async def close(self) -> None:
        """Deregister, bounded by the registry's ``close_timeout``; idempotent, never raises."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(self._registry.close_timeout), self._lock:
                # under the lock, so that no beat on its way can land after the removal
                task.cancel()
                await self._remove(self.info)
        except TimeoutError:
            log.warning("%s was not deregistered in time and will expire", self._named)
        finally:
            await end(task, limit=self._limit)

    async def _remove(self, info: ServiceInfo) -> None:
        try:
            await self._registry.deregister(info)
        except Exception as error:
            log.warning("%s was not deregistered and will expire: %s", self._named, error)

    # -- the task ----------------------------------------------------------------------------

    async def _beat(self) -> None:
        pause = Backoff(0.1, self._longest_pause())
        while True:
            await asyncio.sleep(pause.next() if self.last_error else self._delay())
            try:
                async with self._lock, asyncio.timeout(self._limit):
                    await self._register(self.info)
                pause.reset()
            except Exception as error:
                self._lost(error)

    def _delay(self) -> float:
        return self._interval * random.uniform(0.9, 1.0)

    def _longest_pause(self) -> float:
        """So that an attempt that hung, a pause and the next attempt fit into ttl/3 + 2 s."""
        third = self._ttl / 3
        return min(5.0, third, third + 1.5 - self._limit)

    async def _register(self, info: ServiceInfo) -> None:
        await self._registry.register(info, ttl=self._ttl)
        before, self.last_ok = self.last_ok, now()
        if self.last_error is not None:
            self.last_error = None
            after = self.last_ok - (before or 0.0)
            log.info("%s is registered again after %.1f s", self._named, after)

    def _lost(self, error: Exception) -> None:
        if self.last_error is None:
            bug = None if isinstance(error, MicroError | TimeoutError) else error
            why = str(error) or "timeout"
            log.warning("%s cannot be registered: %s", self._named, why, exc_info=bug)
        self.last_error = error

    @property
    def _named(self) -> str:
        ids = ", ".join(node.id for node in self.info.nodes)
        return f"{self.info.name} ({ids}) at registry {self._registry.name}"


def _left_out(before: ServiceInfo, after: ServiceInfo) -> list[Node]:
    kept = {(after.name, node.id) for node in after.nodes}
    return [node for node in before.nodes if (before.name, node.id) not in kept]
