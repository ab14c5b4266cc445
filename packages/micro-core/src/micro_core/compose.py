"""From choices to components: what a Client and a Service are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from .broker.base import Broker
from .client.base import RpcClient
from .client.options import Limits
from .codec.base import Codec
from .codec.set import CodecSet
from .component import Component
from .errors import PluginNotFound
from .message import canonical
from .plugins import lacking, load, load_default
from .registry.base import Registry
from .selector.base import Selector
from .server.base import RpcServer
from .settings import Settings
from .store.base import Store
from .transport.base import Transport

DEFAULTS: Mapping[str, str] = {
    "registry": "local",
    "transport": "http",
    "broker": "http",
    "client": "mucp",
    "server": "mucp",
    "selector": "random",
    "codec": "json",
}


@dataclass(slots=True)
class Parts:
    """The components of one client or service, built and not yet connected."""

    registry: Registry
    transport: Transport
    broker: Broker
    selector: Selector
    codecs: CodecSet
    client: RpcClient
    timeout: float | None
    limits: Limits
    make_server: Callable[[], RpcServer]
    forward: frozenset[str] = frozenset()
    store: Store | None = None

    def rpc_client(self, protocol: str, transport: str) -> RpcClient | None:
        """A client for nodes of that protocol and transport, None where a plugin is missing."""
        own = transport in ("", self.transport.name)
        if own and protocol == self.client.name:
            return self.client
        try:
            kind = load("client", protocol)
            over = self.transport if own else cast(Transport, load("transport", transport)())
        except PluginNotFound:
            return None
        if kind is type(self.client):
            return self.client.rebuilt(None, {"transport": over})
        return cast(RpcClient, kind(transport=over))


def compose(settings: Settings, code: Mapping[str, Any]) -> Parts:
    """Build what flag, variable, code and default choose. Raises SettingsError; connects nothing.

    ``code`` holds per kind an object, a name, or None.
    """

    def choose(kind: str, needs: Mapping[type, object] | None = None) -> Any:
        return settings.choose(kind, code.get(kind), default=DEFAULTS[kind], needs=needs or {})

    def anew(kind: str) -> Any:
        """One that is given in code, too: it serves from one opening to its close."""
        return choose(kind, needs).rebuilt(None, {})

    registry: Registry = choose("registry")
    transport: Transport = choose("transport")
    needs: dict[type, object] = {Registry: registry, Transport: transport}
    codec: Codec = choose("codec")
    broker: Broker = choose("broker", needs)
    wants_store = code.get("store") is not None or settings.source("store")
    store = settings.choose("store", code.get("store")) if wants_store else None
    for component in (registry, transport, broker, store):
        _limit(settings, component)
    return Parts(
        registry=registry,
        transport=transport,
        broker=broker,
        selector=choose("selector"),
        codecs=CodecSet(_codecs(), codec),
        client=anew("client"),
        store=store,
        timeout=_timeout(settings, code),
        limits=Limits(**{f.name: settings.core(f"client_{f.name}") for f in fields(Limits)}),
        forward=frozenset(map(canonical, settings.core("client_forward"))),
        make_server=lambda: cast(RpcServer, anew("server")),
    )


_LIMITS = {
    "connect_timeout": "connect_timeout",
    "close_timeout": "close_timeout",
    "watch_resync": "resync_interval",
    "publish_timeout": "publish_timeout",
}


def _limit(settings: Settings, component: Component | None) -> None:
    """What a flag or a variable says of every component, over what its class or code says."""
    for option, attribute in _LIMITS.items():
        if settings.source(option) and hasattr(component, attribute):
            setattr(component, attribute, settings.core(option))


def _timeout(settings: Settings, code: Mapping[str, Any]) -> float | None:
    """``None`` in code says something, unlike that of other options."""
    own = code.get("timeout", "default")
    if own == "default" or settings.source("client_request_timeout"):
        own = settings.core("client_request_timeout")
    return cast("float | None", own)


def _codecs() -> list[Codec]:
    names = [name for name in ("json", "bytes", "protobuf") if not lacking("codec", name)]
    return [cast(Codec, load_default("codec", name)()) for name in names]
