"""The service: what it offers, declared; started and stopped as one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .broker.typed import subscriber_plan
from .client.client import Client
from .health import ServiceHealth, health_of
from .lifecycle import Identity, Running, Topic
from .registry.records import Node, check_name
from .server.server import Server

if TYPE_CHECKING:
    from .broker.base import Broker, Start
    from .client.base import RpcClient
    from .codec.base import Codec
    from .registry.base import Registry
    from .selector.base import Selector
    from .server.base import RpcServer
    from .settings import Settings
    from .store.base import Store
    from .transport.base import Transport
    from .wrapper.base import Wrapper

Hook = Callable[[], Awaitable[None] | None]
H = TypeVar("H", bound=Hook)
F = TypeVar("F", bound=Callable[..., Any])


class Service:
    """A named set of endpoints and subscriptions, and a client of its own.

    Each component is an object, the name of an installed plugin, or left to flags, ``MICRO_*``
    and the defaults. ``address`` is where the server listens (``host:port``, port 0 for any free
    one), ``advertise`` what the registry is told instead. ``ttl`` is in seconds: how long the
    registry believes in a node without hearing of it. ``wrappers`` surround its handlers and
    subscribers, and the calls and publishes of its client; ``attempt_wrappers`` each attempt.

    ``run()`` reads the flags, handles signals and returns after a clean stop;
    ``async with service:`` starts and stops without either.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "latest",
        id: str | None = None,
        address: str | None = None,
        advertise: str | None = None,
        metadata: Mapping[str, str] | None = None,
        registry: Registry | str | None = None,
        broker: Broker | str | None = None,
        transport: Transport | str | None = None,
        client: RpcClient | str | None = None,
        server: RpcServer | str | None = None,
        selector: Selector | str | None = None,
        codec: Codec | str | None = None,
        store: Store | str | None = None,
        ttl: float | None = None,
        wrappers: Sequence[Wrapper] = (),
        attempt_wrappers: Sequence[Wrapper] = (),
    ) -> None:
        self.identity = Identity(
            check_name(name),
            check_name(version, "version"),
            id,
            address,
            advertise,
            dict(metadata or {}),
            ttl,
        )
        self.code: Mapping[str, Any] = {
            "registry": registry,
            "broker": broker,
            "transport": transport,
            "client": client,
            "server": server,
            "selector": selector,
            "codec": codec,
            "store": store,
        }
        self.server = Server(name, wrappers=wrappers)
        self.client = Client(name, wrappers=wrappers, attempt_wrappers=attempt_wrappers)
        self.topics: list[Topic] = []
        self.hooks: dict[str, list[Hook]] = {}
        self._running: Running | None = None
        self._started = False

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def node(self) -> Node | None:
        """What the registry was told of this instance; ``None`` while it does not run."""
        if self._running is None or not self._started:
            return None
        return self._running.info.nodes[0]

    @property
    def running(self) -> Running:
        """What the last start opened. Raises LookupError before it and after the stop."""
        if self._running is None or not self._started:
            raise LookupError(f"service {self.name} is not running")
        return self._running

    def health(self) -> ServiceHealth:
        """Whether it is ready, why not, and how its components are; what ``/_ready`` says."""
        return health_of(self._running)

    @property
    def store(self) -> Store:
        """The open store. Raises LookupError when none was chosen, or it does not run."""
        store = self.running.parts.store
        if store is None:
            raise LookupError(f"service {self.name} has no store: choose one with store=")
        return store

    # -- what it offers ----------------------------------------------------------------------

    def handle(self, handler: object, *, name: str | None = None) -> None:
        """Make every public method of ``handler`` an endpoint ``Type.Method``.

        Raises TypeError naming a method whose annotations cannot be used.
        """
        self.server.handle(handler, name=name)

    def endpoint(self, name: str) -> Callable[[F], F]:
        """Make a function the endpoint ``name``, which is ``Type.Method``."""

        def add(function: F) -> F:
            self.server.add(name, function)
            return function

        return add

    def subscribe(
        self,
        topic: str,
        *,
        queue: str | None = None,
        attempts: int | None = None,
        concurrency: int = 1,
        prefetch: int | None = None,
        auto_ack: bool = True,
        start: Start = "new",
    ) -> Callable[[F], F]:
        """Have a function handle the messages of ``topic``.

        With ``queue`` each message goes to one subscriber of that queue, otherwise to all. A
        message whose handler failed ``attempts`` times (5) goes to ``<topic>.dead``.
        ``concurrency`` handlers run at a time, those of one key in order; ``prefetch`` (100)
        bounds what is delivered and not yet acked. Without ``auto_ack`` the handler takes the
        :class:`Event` and whoever holds that acks it. ``start="earliest"`` begins a new queue
        with the oldest message kept, where the broker has replay.
        """

        def add(function: F) -> F:
            plan = subscriber_plan(function)
            self.topics.append(
                Topic(topic, plan, queue, attempts, concurrency, prefetch, auto_ack, start)
            )
            return function

        return add

    def before_start(self, hook: H) -> H:
        """Run before anything is opened. An exception ends the start."""
        return self._add_hook("before_start", hook)

    def after_start(self, hook: H) -> H:
        """Run when the service can be called. An exception ends the start."""
        return self._add_hook("after_start", hook)

    def before_stop(self, hook: H) -> H:
        """Run while the service is still registered. An exception is logged."""
        return self._add_hook("before_stop", hook)

    def after_stop(self, hook: H) -> H:
        """Run when everything is closed. An exception is logged."""
        return self._add_hook("after_stop", hook)

    def _add_hook(self, when: str, hook: H) -> H:
        self.hooks.setdefault(when, []).append(hook)
        return hook

    # -- its life ----------------------------------------------------------------------------

    async def start(self, settings: Settings | None = None, *, alone: bool = False) -> None:
        """Open, listen, subscribe, register. Raises SettingsError or BackendError.

        Without ``settings`` the plugins are read from ``MICRO_*``; nobody's flags are. ``alone``:
        it is the only service of its process, which ``--server_name`` and the like are for.
        """
        if self._running is not None:
            return
        running = self._running = Running(self, settings, alone=alone)
        try:
            await running.start()
            self._started = True
            await running.run_hooks("after_start")
        except BaseException:
            self._running, self._started = None, False
            await running.abort()
            raise

    async def stop(self) -> None:
        """Drain and stop; idempotent. Cancelling it closes at once what is still open."""
        self._started = False
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def run(self, argv: Sequence[str] | None = None) -> None:
        """Run until SIGTERM or SIGINT; a second one stops at once.

        Reads the flags in ``argv``, by default those of the process. Exits the process with 2
        when a choice is wrong or a backend cannot be reached, and returns after a clean stop.
        """
        from .run import run

        run(self, argv=argv)
