"""The client: a name and an endpoint to a reply, over whatever nodes there are."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast

from ..context import TRACE_KEYS, maybe_current, user_metadata
from ..deadlines import Deadline, Deadlines
from ..errors import BackendUnavailable
from ..message import Header, Message, checked_header
from ..registry.cache import RegistryCache
from ..timing import finished
from ..wrapper.base import Kind, WrappedRequest, Wrapper, wrapped
from .attempts import Attempts, calling, opening
from .base import RpcRequest
from .blocking import Blocking
from .deadline import deadline_for
from .health import ClientHealth
from .options import CallOptions, Reply, chosen_options
from .protocols import Protocols
from .stream import Stream

if TYPE_CHECKING:
    from ..broker.base import Broker, PublishOptions
    from ..codec.base import Codec
    from ..compose import Parts
    from ..registry.base import Registry
    from ..registry.records import Node
    from ..selector.base import Selector
    from ..transport.base import Transport
    from .base import RpcClient

T = TypeVar("T")


class Client:
    """Calls services by name.

    Nodes come from a cache of the registry, which goes on answering while the registry is away.
    A call that surely reached no handler is tried once more on another node; one that may have
    run is repeated only if its endpoint is marked idempotent or ``retries`` allows it. A node
    that fails several times in a row is left alone for a while.

    Each component is an object, the name of an installed plugin, or left to ``MICRO_*`` and the
    defaults. ``timeout`` is in seconds, over all attempts of a call; ``None`` is no deadline.
    ``wrappers`` surround calls, streams and publishes, ``attempt_wrappers`` each attempt.

    ``client.blocking`` has ``call`` and ``publish`` for code in threads.
    """

    def __init__(
        self,
        name: str = "",
        *,
        registry: Registry | str | None = None,
        transport: Transport | str | None = None,
        broker: Broker | str | None = None,
        client: RpcClient | str | None = None,
        selector: Selector | str | None = None,
        codec: Codec | str | None = None,
        timeout: float | Literal["default"] | None = "default",
        wrappers: Sequence[Wrapper] = (),
        attempt_wrappers: Sequence[Wrapper] = (),
    ) -> None:
        self.name = name
        self.blocking = Blocking(self)
        self._wrappers = tuple(wrappers)
        self._attempt_wrappers = tuple(attempt_wrappers)
        self._code: dict[str, Any] = {
            "registry": registry,
            "transport": transport,
            "broker": broker,
            "client": client,
            "selector": selector,
            "codec": codec,
            "timeout": timeout,
        }
        self._parts: Parts | None = None
        self._cache: RegistryCache
        self._protocols: Protocols
        self._attempts: Attempts
        self._broker_open = False
        self._deadlines = Deadlines()
        self._closing = AsyncExitStack()

    # -- lifecycle ---------------------------------------------------------------------------

    async def open(self, parts: Parts | None = None) -> None:
        """Connect to the registry and the transport. Raises SettingsError or BackendError."""
        if self._parts is not None:
            return
        if parts is None:
            from ..compose import compose
            from ..settings import Settings

            parts = compose(Settings.read(None, os.environ), self._code)
        async with AsyncExitStack() as opened:
            for component in (parts.registry, parts.transport):
                await component.acquire(self)
                opened.push_async_callback(component.release, self)
            self._protocols = Protocols(parts.rpc_client)
            self._cache = RegistryCache(parts.registry, on_withdrawn=self._withdrawn)
            self._attempts = Attempts(
                self._cache, self._protocols, parts.selector, parts.limits, self._attempt_wrappers
            )
            opened.push_async_callback(self._release_broker, parts.broker)
            opened.callback(self._deadlines.close)
            opened.push_async_callback(self._protocols.close)
            opened.push_async_callback(self._cache.close)
            opened.push_async_callback(self.blocking.close)
            self.blocking.open()
            self._closing = opened.pop_all()
        self._parts = parts

    async def close(self) -> None:
        """End all connections; bounded and idempotent, and not cut short by a cancellation."""
        self._parts = None
        await finished(self._closing.aclose())

    async def _release_broker(self, broker: Broker) -> None:
        if self._broker_open:
            self._broker_open = False
            await broker.release(self)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- calls -------------------------------------------------------------------------------

    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: type[Reply] | None = None,
        **options: Unpack[CallOptions],
    ) -> Reply:
        """One request, one reply; without ``response`` a plain value. See :class:`CallOptions`.

        Raises the handler's MicroError whole; ServiceNotFound, NoNodes, BackendError,
        DeadlineExceeded, SocketClosed and CodecError of its own.
        """

        async def send(value: Any, header: Header) -> Any:
            content_type = chosen.get("content_type") or codecs.content_type_for(value)
            body = codecs.encode(content_type, value)
            outgoing = RpcRequest(service, endpoint, content_type, body, header, deadline)
            reply = await self._attempts.run(outgoing, chosen, limit, calling)
            type_ = Any if response is None else response
            return codecs.decode(reply.content_type or content_type, type_, reply.body)

        parts = self._opened()
        codecs = parts.codecs
        chosen = chosen_options(options)
        deadline = deadline_for(chosen.get("timeout", parts.timeout))
        header = self._metadata(chosen.get("metadata"))
        with self._deadlines.until(deadline) as limit:
            reply: Reply = await self._through("call", service, endpoint, request, header, send)
        return reply

    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: type[Reply] | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[Reply]:
        """A stream to one node; ``request``, if given, is its first message.

        See :class:`CallOptions`; only the opening is ever repeated.
        """

        def begin(stream: Stream[Any], limit: Deadline) -> Awaitable[Any]:
            async def open_(value: Any, header: Header) -> Any:
                outgoing = RpcRequest(service, endpoint, content_type, b"", header, deadline)
                opened = await self._attempts.run(outgoing, chosen, limit, opening)
                return await stream.start(opened, value)

            return self._through("call", service, endpoint, request, header, open_, stream=True)

        codecs = self._opened().codecs
        chosen = chosen_options(options)
        deadline = deadline_for(chosen.get("timeout"))
        header = self._metadata(chosen.get("metadata"))
        content_type = chosen.get("content_type") or codecs.content_type_for(request)
        type_ = Any if response is None else response
        return Stream(begin, codecs, content_type, type_, self._deadlines, deadline)

    def stub(
        self,
        service: str,
        interface: Callable[..., T],
        *,
        name: str | None = None,
        **options: Unpack[CallOptions],
    ) -> T:
        """An object whose methods call ``service``, typed as ``interface``.

        ``interface`` is a class that both sides import, such as a Protocol. Endpoint names are
        made as the server makes them; the Type is ``name``, else the class's name without ``Api``
        at its end: ``SayApi.hello`` is ``Say.Hello``. ``async def hello(self, request: X) -> Y``
        is a call. ``AsyncIterator[X]`` for the request, or the response, or both is a stream; one
        that responds with many is a ``def`` without ``async``, and to be left early through
        ``contextlib.aclosing`` it says ``AsyncGenerator[Y, None]``. ``options`` are those of
        every call; ``with options(...)`` around one sets that one's. Raises TypeError naming a
        method that cannot be called so.
        """
        from .stub import make_stub

        return cast(T, make_stub(self, service, interface, name, options))

    async def publish(
        self,
        topic: str,
        message: object,
        *,
        key: str | None = None,
        options: PublishOptions | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        """Returns once the broker has confirmed; see :meth:`Broker.publish` for its errors."""

        async def send(value: Any, header: Header) -> None:
            chosen = content_type or codecs.content_type_for(value)
            header.update({"Content-Type": chosen, "Micro-Topic": topic})
            header["Micro-Id"] = os.urandom(16).hex()
            outgoing = Message(header, codecs.encode(chosen, value))
            bytes_key = key.encode() if key else None
            await parts.broker.publish(topic, outgoing, key=bytes_key, options=options)

        parts = self._opened()
        codecs = parts.codecs
        if not self._broker_open:
            await parts.broker.acquire(self)
            self._broker_open = True
        header = self._metadata(metadata)
        await self._through("publish", self.name, topic, message, header, send)

    def health(self) -> ClientHealth:
        """How its components are, and how old what it knows of each service is."""
        parts = self._opened()
        components = [parts.registry, parts.transport, *[parts.broker] * self._broker_open]
        return ClientHealth(
            {component.kind: component.health() for component in components},
            self._cache.ages(),
            self._attempts.ejection.ejected,
        )

    # -- inside ------------------------------------------------------------------------------

    def _opened(self) -> Parts:
        if self._parts is None:
            raise BackendUnavailable("the client is not open: use 'async with' or await open()")
        return self._parts

    def _withdrawn(self, node: Node) -> None:
        self._protocols.forget(node)
        self._attempts.ejection.forget(node)

    def _through(
        self,
        kind: Kind,
        service: str,
        name: str,
        value: object,
        header: Header,
        last: Callable[[Any, Header], Awaitable[Any]],
        *,
        stream: bool = False,
    ) -> Awaitable[Any]:
        """``last`` inside the wrappers, with the value and the header that they leave."""
        if not self._wrappers:
            return last(value, header)

        async def innermost(inner: WrappedRequest) -> Any:
            return await last(inner.value, checked_header(inner.header))

        request = WrappedRequest(kind, service, name, value, header, stream)
        return wrapped(self._wrappers, innermost)(request)

    def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
        """What the caller gave, without names of the protocol, over what a handler passes on."""
        header: Header = {}
        call = maybe_current()
        if call is not None:
            passed_on = TRACE_KEYS | self._opened().forward
            header = {name: v for name, v in call.metadata.items() if name in passed_on}
        if metadata:
            header.update(user_metadata(checked_header(metadata)))
        if self.name:
            header["Micro-From-Service"] = self.name
        return header
