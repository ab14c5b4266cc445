"""From choices to components: what a Client and a Service are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from .broker.base import Broker
from .client.base import RpcClient
from .codec.base import Codec
from .codec.set import CodecSet
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
        return cast(RpcClient, kind(transport=over))


def compose(settings: Settings, code: Mapping[str, Any]) -> Parts:
    """Build what flag, variable, code and default choose. Raises SettingsError; connects nothing.

    ``code`` holds per kind an object, a name, or None.
    """

    def choose(kind: str, needs: Mapping[type, object] | None = None) -> Any:
        return settings.choose(kind, code.get(kind), default=DEFAULTS[kind], needs=needs or {})

    registry: Registry = choose("registry")
    transport: Transport = choose("transport")
    needs: dict[type, object] = {Registry: registry, Transport: transport}
    codec: Codec = choose("codec")
    wants_store = code.get("store") is not None or settings.source("store")
    return Parts(
        registry=registry,
        transport=transport,
        broker=choose("broker", needs),
        selector=choose("selector"),
        codecs=CodecSet(_codecs(), codec),
        client=choose("client", needs),
        timeout=settings.core("client_request_timeout", None, 5.0),
        store=settings.choose("store", code.get("store")) if wants_store else None,
        forward=frozenset(map(canonical, settings.core("client_forward"))),
        make_server=lambda: cast(RpcServer, choose("server", needs)),
    )


def _codecs() -> list[Codec]:
    names = [name for name in ("json", "bytes", "protobuf") if not lacking("codec", name)]
    return [cast(Codec, load_default("codec", name)()) for name in names]
