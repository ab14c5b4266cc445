"""How a service is: whether it can be found and called, and its components one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .component import Component, Health

if TYPE_CHECKING:
    from .lifecycle import Running


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """``reasons`` says why a service is not ready; ``components`` has each by its kind.

    Ready means: registered with a registry that was heard of within the TTL, every subscription
    open, and not stopping. A lost component alone is no reason, since calls go on without the
    registry and a broker that nobody publishes to would never be found again.
    """

    ready: bool
    reasons: tuple[str, ...]
    components: Mapping[str, Health]


def health_of(running: Running | None) -> ServiceHealth:
    if running is None:
        return ServiceHealth(False, ("not running",), {})
    reasons = tuple(_reasons(running))
    components = {one.kind: one.health() for one in _components(running)}
    return ServiceHealth(not reasons, reasons, components)


def probe(running: Running, path: str) -> tuple[int, bytes]:
    """A status and a text for ``/_live`` and ``/_ready``; neither shows addresses or errors."""
    reasons = () if path == "/_live" else tuple(_reasons(running))
    return 503 if reasons else 200, ("\n".join(reasons or ("ok",)) + "\n").encode()


def _reasons(running: Running) -> Iterator[str]:
    if running.stopping:
        yield "stopping"
    elif not running.registered:
        yield "not registered"
    for subscription in running.subscriptions:
        if not subscription.open:
            queue = f" queue {subscription.queue}" if subscription.queue else ""
            yield f"subscription {subscription.topic}{queue} is broken"


def _components(running: Running) -> Iterator[Component]:
    parts = running.parts
    yield from (parts.registry, parts.transport, parts.broker)
    if parts.store is not None:
        yield parts.store
