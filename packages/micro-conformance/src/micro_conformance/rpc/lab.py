"""Servers and clients to try, and services and callers on top of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeVar

import pytest

from micro_core import Client, MicroError, Node, Registry, ServiceInfo, Transport
from micro_core.broker.memory import MemoryBroker
from micro_core.client.base import RpcClient, RpcRequest, RpcResponse, RpcStream
from micro_core.client.options import Limits
from micro_core.codec.set import CodecSet
from micro_core.compose import Parts, compose
from micro_core.defaults import CORE
from micro_core.registry.memory import MemoryRegistry
from micro_core.selector.random import RandomSelector
from micro_core.server.base import Dispatch, RpcServer
from micro_core.settings import Settings

from ..backend import Backend
from ..lab import Lab
from ..suite import Suite
from .desk import Desk, Talk, echo_all
from .pair import Pair
from .wires import Endpoints

T = TypeVar("T")
Before = Callable[[RpcRequest], Awaitable[None]]
BYTES = "application/octet-stream"


class Away(MemoryRegistry):
    """A registry that can go ``away``: then it answers nothing, and tells nobody anything."""

    away = False

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        if self.away:
            raise OSError("unplugged")
        return await super()._get_service(name)


@dataclass(slots=True)
class Served:
    """A server that listens, and the node that it is."""

    server: RpcServer
    transport: Transport
    node: Node

    async def die(self) -> None:
        """End as a process does that is given no time."""
        await self.server.stop(0.0)
        await self.transport.close()


@dataclass(slots=True)
class Line:
    """A client, the server that it calls, and the desk behind that."""

    lab: RpcLab
    client: RpcClient
    transport: Transport
    served: Served
    desk: Desk

    def request(
        self,
        method: str = "Echo",
        body: bytes = b"",
        header: Mapping[str, str] | None = None,
        seconds: float | None = None,
        content_type: str = BYTES,
    ) -> RpcRequest:
        """``seconds`` from now is the deadline."""
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        return RpcRequest(
            "desk", f"Desk.{method}", content_type, body, dict(header or {}), deadline
        )

    async def call(self, method: str = "Echo", body: bytes = b"", **more: Any) -> RpcResponse:
        """See :meth:`request`. Fails rather than hang."""
        calling = self.client.call(self.served.node, self.request(method, body, **more))
        return await self.lab.soon(calling, f"the call of {method} ends")

    async def open(self, **more: Any) -> RpcStream:
        """A stream to Talk, left at the end of the test."""
        opening = self.client.open(self.served.node, self.request("Talk", **more))
        stream = await self.lab.soon(opening, "a stream opens")
        self.lab.stack.push_async_callback(stream.close)
        return stream

    def calling(self, method: str = "Wait", body: bytes = b"") -> asyncio.Task[RpcResponse]:
        """A call under way, of a task that ends with the test."""
        calling = self.client.call(self.served.node, self.request(method, body))
        return self.lab.task(calling)

    async def running(self, count: int = 1) -> None:
        """Return once so many handlers run."""
        await self.lab.eventually(lambda: self.desk.running == count, f"{count} handlers run")

    async def die(self) -> None:
        """The client's process ends."""
        await self.client.close()
        await self.transport.close()


class RpcLab(Lab[Pair]):
    def __init__(self, suite: Suite[Pair], backend: Backend | None, stack: AsyncExitStack) -> None:
        super().__init__(suite, backend, stack)
        self._registry: Away | None = None

    @cached_property
    def pair(self) -> Pair:
        return self.make()

    async def soon(self, awaitable: Awaitable[T], what: str) -> T:
        """Await what has to happen; fails after the suite's ``patience``."""
        try:
            async with asyncio.timeout(self.suite.patience):
                return await awaitable
        except TimeoutError as error:
            if isinstance(error, MicroError):
                raise
            raise AssertionError(f"not within {self.suite.patience:g} s: {what}") from None

    async def fails(
        self, awaitable: Awaitable[object], kind: type[MicroError], what: str
    ) -> MicroError:
        """The error, of ``kind``, that ends ``awaitable`` soon."""
        with pytest.raises(kind) as caught:
            await self.soon(awaitable, what)
        return caught.value

    def task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is cancelled at the end of the test."""
        task = asyncio.get_running_loop().create_task(work)
        self.stack.push_async_callback(cancelled, task)
        return task

    # -- one protocol ------------------------------------------------------------------------

    async def connected(self) -> Transport:
        """A transport of its own, as in a process of its own."""
        return await self.stack.enter_async_context(self.pair.make_transport())

    async def serve(self, dispatch: Dispatch, address: str = "") -> Served:
        transport = await self.connected()
        server = self.pair.make_server(transport)
        self.stack.push_async_callback(server.stop, 0.0)
        address = await server.start(address or self.pair.listen, dispatch)
        return Served(server, transport, Node(self.name("node"), address))

    async def line(self, talk: Talk = echo_all) -> Line:
        desk = Desk(talk)
        return await self.line_to(await self.serve(desk.dispatch), desk)

    async def line_to(self, served: Served, desk: Desk) -> Line:
        """Another client of the same server."""
        transport = await self.connected()
        client = self.pair.make_client(transport)
        self.stack.push_async_callback(client.close)
        return Line(self, client, transport, served, desk)

    # -- on top ------------------------------------------------------------------------------

    async def registry(self) -> Away:
        if self._registry is None:
            self._registry = await self.stack.enter_async_context(Away(self.prefix))
        return self._registry

    async def service(
        self,
        name: str,
        endpoints: Endpoints,
        *,
        version: str = "1",
        idempotent: bool = False,
        before: Before | None = None,
        **labels: str,
    ) -> Served:
        """A server of ``endpoints``, registered. ``before`` runs before it looks at a request."""

        async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            if before is not None:
                await before(request)
            return await server.dispatch(request, stream)

        registry = await self.registry()
        server = self.pair.endpoints(name)
        for endpoint, function in endpoints.items():
            server.add(endpoint, function)
        self.stack.callback(server.close)
        transport = await self.connected()
        rpc = self.pair.make_server(transport)
        server.codecs = _codecs()
        self.stack.push_async_callback(rpc.stop, 0.0)
        address = await rpc.start(self.pair.listen, dispatch)
        spoken = {"protocol": rpc.name, "transport": transport.name}
        node = Node(self.name(f"{name}-node"), address, {**spoken, **labels})
        records = server.records()
        if idempotent:
            records = [type(one)(one.name, metadata={"idempotent": "true"}) for one in records]
        await registry.register(ServiceInfo(name, version, [node], records))
        return Served(rpc, transport, node)

    async def caller(self) -> Client:
        """A client of all services of this lab."""
        client = self.pair.caller()
        await client.open(self._parts(await self.registry()))
        self.stack.push_async_callback(client.close)
        return client

    def _parts(self, registry: Registry) -> Parts:
        transport = self.pair.make_transport()
        return Parts(
            registry=registry,
            transport=transport,
            broker=MemoryBroker(self.prefix),
            selector=RandomSelector(),
            codecs=_codecs(),
            client=self.pair.make_client(transport),
            timeout=5.0,
            limits=Limits(1, 0.2, 10.0, 3, 30.0, 300.0),
            make_server=lambda: self.pair.make_server(transport),
        )


@cache
def _codecs() -> CodecSet:
    """Those of every service, as one that is composed has them."""
    return compose(Settings((), {}, CORE), {"registry": "memory", "transport": "memory"}).codecs


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
