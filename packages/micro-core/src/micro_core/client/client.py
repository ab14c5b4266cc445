"""The client: a name and an endpoint to a reply, over whatever nodes there are."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload

from ..context import TRACE_KEYS, maybe_current
from ..deadlines import Deadline, Deadlines
from ..errors import BackendUnavailable
from ..message import Header, Message, checked_header
from ..registry.cache import RegistryCache
from ..wrapper.base import WrappedRequest, Wrapper, wrapped
from .attempts import Attempts, calling, opening
from .base import RpcRequest
from .blocking import Blocking
from .deadline import UNSET, Unset, deadline_for
from .health import ClientHealth
from .options import CallOptions, with_surrounding
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
        timeout: float | Unset | None = UNSET,
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

    # -- lifecycle ---------------------------------------------------------------------------

    async def open(self, parts: Parts | None = None) -> None:
        """Connect to the registry and the transport. Raises SettingsError or BackendError."""
        if self._parts is not None:
            return
        if parts is None:
            from ..compose import compose
            from ..settings import Settings

            parts = compose(Settings.read(None, os.environ), self._code)
        await parts.registry.acquire(self)
        try:
            await parts.transport.acquire(self)
        except BaseException:
            await parts.registry.release(self)
            raise
        self._protocols = Protocols(parts.rpc_client)
        self._cache = RegistryCache(parts.registry, on_withdrawn=self._withdrawn)
        self._attempts = Attempts(
            self._cache, self._protocols, parts.selector, parts.limits, self._attempt_wrappers
        )
        self._parts = parts
        self.blocking.open()

    async def close(self) -> None:
        """End all connections; bounded and idempotent."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
        await self.blocking.close()
        await self._cache.close()
        await self._protocols.close()
        self._deadlines.close()
        if self._broker_open:
            self._broker_open = False
            await parts.broker.release(self)
        await parts.transport.release(self)
        await parts.registry.release(self)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- calls -------------------------------------------------------------------------------

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        request: object,
        response: type[T],
        **options: Unpack[CallOptions],
    ) -> T: ...

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: None = None,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: type[Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """One request, one reply; without ``response`` a plain value. See :class:`CallOptions`.

        Raises the handler's MicroError whole; ServiceNotFound, NoNodes, BackendError,
        DeadlineExceeded, SocketClosed and CodecError of its own.
        """
        chosen = with_surrounding(options)
        outgoing = self._outgoing(service, endpoint, request, chosen, self._opened().timeout)
        type_ = Any if response is None else response
        with self._deadlines.until(outgoing.deadline) as limit:
            if not self._wrappers:
                return await self._call(outgoing, chosen, limit, request, type_)
            return await self._wrap(
                WrappedRequest("call", service, endpoint, request, outgoing.header),
                lambda value, header: self._call(
                    replace(outgoing, header=header), chosen, limit, value, type_
                ),
            )

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: type[T],
        **options: Unpack[CallOptions],
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[Any]: ...

    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: type[Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[Any]:
        """A stream to one node; ``request``, if given, is its first message.

        See :class:`CallOptions`; only the opening is ever repeated.
        """
        chosen = with_surrounding(options)
        outgoing = self._outgoing(service, endpoint, request, chosen, None)

        def begin(stream: Stream[Any], limit: Deadline) -> Awaitable[Any]:
            def open_(value: Any, header: Header) -> Awaitable[Any]:
                return self._open(stream, replace(outgoing, header=header), chosen, limit, value)

            if not self._wrappers:
                return open_(request, outgoing.header)
            return self._wrap(
                WrappedRequest("call", service, endpoint, request, outgoing.header, True), open_
            )

        return Stream(
            begin,
            self._opened().codecs,
            outgoing.content_type,
            Any if response is None else response,
            self._deadlines,
            outgoing.deadline,
        )

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
        that responds with an iterator is a ``def`` without ``async``, and left early with
        ``contextlib.aclosing``. ``options`` are those of every call and, with ``options(...)``
        around it, set for one. Raises TypeError naming a method that cannot be called so.
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
            codecs = parts.codecs
            header["Content-Type"] = chosen = content_type or codecs.content_type_for(value)
            header["Micro-Topic"] = topic
            header["Micro-Id"] = os.urandom(16).hex()
            outgoing = Message(header, codecs.encode(chosen, value))
            await parts.broker.publish(
                topic, outgoing, key=key.encode() if key else None, options=options
            )

        parts = self._opened()
        if not self._broker_open:
            await parts.broker.acquire(self)
            self._broker_open = True
        header = self._metadata(metadata)
        if self._wrappers:
            await self._wrap(WrappedRequest("publish", self.name, topic, message, header), send)
        else:
            await send(message, header)

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

    def _outgoing(
        self,
        service: str,
        endpoint: str,
        value: object,
        chosen: CallOptions,
        timeout: float | None,
    ) -> RpcRequest:
        content_type = chosen.get("content_type")
        return RpcRequest(
            service,
            endpoint,
            content_type or self._opened().codecs.content_type_for(value),
            header=self._metadata(chosen.get("metadata")),
            deadline=deadline_for(chosen.get("timeout", timeout)),
        )

    def _wrap(
        self, request: WrappedRequest, last: Callable[[Any, Header], Awaitable[Any]]
    ) -> Awaitable[Any]:
        """``last`` inside the wrappers, with the value and the header that they leave."""

        async def innermost(inner: WrappedRequest) -> Any:
            return await last(inner.value, checked_header(inner.header))

        return wrapped(self._wrappers, innermost)(request)

    async def _call(
        self,
        outgoing: RpcRequest,
        chosen: CallOptions,
        limit: Deadline,
        value: object,
        type_: Any,
    ) -> Any:
        codecs = self._opened().codecs
        outgoing.body = codecs.encode(outgoing.content_type, value)
        reply = await self._attempts.run(outgoing, chosen, limit, calling)
        return codecs.decode(reply.content_type or outgoing.content_type, type_, reply.body)

    async def _open(
        self,
        stream: Stream[Any],
        outgoing: RpcRequest,
        chosen: CallOptions,
        limit: Deadline,
        first: object,
    ) -> Stream[Any]:
        opened = await self._attempts.run(outgoing, chosen, limit, opening)
        return await stream.start(opened, first)

    def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
        """What the caller gave, over what is passed on of the call being handled."""
        header: Header = {}
        call = maybe_current()
        if call is not None:
            passed_on = TRACE_KEYS | self._opened().forward
            header = {name: v for name, v in call.metadata.items() if name in passed_on}
        if metadata:
            header.update(checked_header(metadata))
        if self.name:
            header["Micro-From-Service"] = self.name
        return header
