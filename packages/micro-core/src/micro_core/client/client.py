"""The client: a name and an endpoint to a reply, over whatever nodes there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from ..context import TRACE_KEYS, maybe_current
from ..deadlines import Deadlines
from ..errors import BackendUnavailable
from ..message import Header, Message, checked_header
from ..registry.cache import RegistryCache
from .attempts import Attempts
from .base import RpcRequest
from .deadline import UNSET, Unset, deadline_for
from .protocols import Protocols
from .stream import Stream

if TYPE_CHECKING:
    from ..broker.base import Broker, PublishOptions
    from ..codec.base import Codec
    from ..compose import Parts
    from ..registry.base import Registry
    from ..selector.base import Selector
    from ..transport.base import Transport
    from .base import RpcClient

T = TypeVar("T")


class Client:
    """Calls services by name.

    Nodes come from a cache of the registry, which goes on answering while the registry is away.
    A call that surely reached no handler is tried once more on another node; one that may have
    run is never repeated.

    Each component is an object, the name of an installed plugin, or left to ``MICRO_*`` and the
    defaults. ``timeout`` is in seconds, over all attempts of a call; ``None`` is no deadline.
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
    ) -> None:
        self.name = name
        self._code: dict[str, Any] = {
            "registry": registry,
            "transport": transport,
            "broker": broker,
            "client": client,
            "selector": selector,
            "codec": codec,
        }
        self._timeout = timeout
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
        if self._timeout is UNSET:
            self._timeout = parts.timeout
        self._protocols = Protocols(parts.rpc_client)
        self._cache = RegistryCache(parts.registry, on_withdrawn=self._protocols.forget)
        self._attempts = Attempts(self._cache, self._protocols, parts.selector)
        self._parts = parts

    async def close(self) -> None:
        """End all connections; bounded and idempotent."""
        parts, self._parts = self._parts, None
        if parts is None:
            return
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
        *,
        timeout: float | Unset | None = UNSET,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        wait: bool = False,
        content_type: str | None = None,
    ) -> T: ...

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: None = None,
        *,
        timeout: float | Unset | None = UNSET,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        wait: bool = False,
        content_type: str | None = None,
    ) -> Any: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: type[Any] | None = None,
        *,
        timeout: float | Unset | None = UNSET,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        wait: bool = False,
        content_type: str | None = None,
    ) -> Any:
        """One request, one reply; without ``response`` a plain value.

        ``version`` is an exact match; ``wait`` waits, within the deadline, for the service to
        appear. Raises the handler's MicroError whole; ServiceNotFound, NoNodes, BackendError,
        DeadlineExceeded, SocketClosed and CodecError of its own.
        """
        parts = self._opened()
        outgoing = self._request(parts, service, endpoint, request, metadata, content_type)
        deadline = outgoing.deadline = self._deadline(timeout)
        with self._deadlines.until(deadline):
            reply = await self._attempts.run(
                service, version, wait, lambda rpc, node: rpc.call(node, outgoing)
            )
        content_type = reply.content_type or outgoing.content_type
        return parts.codecs.decode(content_type, Any if response is None else response, reply.body)

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: type[T],
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        content_type: str | None = None,
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        content_type: str | None = None,
    ) -> Stream[Any]: ...

    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: type[Any] | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        content_type: str | None = None,
    ) -> Stream[Any]:
        """A stream to one node; ``request``, if given, is its first message.

        Without ``timeout`` a stream has no deadline of its own.
        """
        parts = self._opened()
        outgoing = self._request(parts, service, endpoint, request, metadata, content_type)
        outgoing.deadline = deadline_for(timeout)
        type_ = Any if response is None else response
        return Stream(
            lambda: self._attempts.run(
                service, version, False, lambda rpc, node: rpc.open(node, outgoing)
            ),
            lambda message: parts.codecs.encode(outgoing.content_type, message),
            lambda body: parts.codecs.decode(outgoing.content_type, type_, body),
            request,
            self._deadlines,
            outgoing.deadline,
        )

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
        parts = self._opened()
        if not self._broker_open:
            await parts.broker.acquire(self)
            self._broker_open = True
        content_type = content_type or parts.codecs.content_type_for(message)
        header = self._metadata(parts, metadata)
        header["Content-Type"] = content_type
        header["Micro-Topic"] = topic
        header["Micro-Id"] = os.urandom(16).hex()
        body = parts.codecs.encode(content_type, message)
        await parts.broker.publish(
            topic, Message(header, body), key=key.encode() if key else None, options=options
        )

    # -- inside ------------------------------------------------------------------------------

    def _opened(self) -> Parts:
        if self._parts is None:
            raise BackendUnavailable("the client is not open: use 'async with' or await open()")
        return self._parts

    def _deadline(self, timeout: float | Unset | None) -> float | None:
        chosen = self._timeout if isinstance(timeout, Unset) else timeout
        return deadline_for(None if isinstance(chosen, Unset) else chosen)

    def _request(
        self,
        parts: Parts,
        service: str,
        endpoint: str,
        value: object,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> RpcRequest:
        content_type = content_type or parts.codecs.content_type_for(value)
        body = parts.codecs.encode(content_type, value)
        return RpcRequest(service, endpoint, content_type, body, self._metadata(parts, metadata))

    def _metadata(self, parts: Parts, metadata: Mapping[str, str] | None) -> Header:
        """What the caller gave, over what is passed on of the call being handled."""
        header: Header = {}
        call = maybe_current()
        if call is not None:
            passed_on = TRACE_KEYS | parts.forward
            header = {name: v for name, v in call.metadata.items() if name in passed_on}
        if metadata:
            header.update(checked_header(metadata))
        if self.name:
            header["Micro-From-Service"] = self.name
        return header
