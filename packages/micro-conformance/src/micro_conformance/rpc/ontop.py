"""What a Client and a Server promise over any protocol and any transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from micro_core import (
    Client,
    DeadlineExceeded,
    InternalError,
    InvalidName,
    MicroError,
    Node,
    NoNodes,
    ServiceInfo,
    ServiceNotFound,
    Unavailable,
    current,
)
from micro_core.client.base import RpcRequest

from ..promise import promise
from ..suite import Suite
from .lab import RpcLab
from .pair import Pair
from .wires import Endpoints, Interop, wire

JSON = "application/json"
STEERING = (
    *("Timeout", "Micro-Service", "Micro-Endpoint", "Micro-Method", "Micro-Id", "Micro-Stream"),
    *("Micro-Error", "Micro-Attempt", "Content-Type", "Connection", "Content-Length"),
    *("Transfer-Encoding", "Host", "Accept", "Grpc-Timeout"),
)


class Account:
    """Endpoints Say.Hello, which runs what the test asks for, and what they were called with."""

    def __init__(self, hello: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.attempts: list[int] = []
        self.left: list[float | None] = []
        self._hello = hello

    def endpoints(self) -> Endpoints:
        return {"Say.Hello": self.hello}

    async def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        call = current()
        self.seen.append(request)
        self.attempts.append(call.attempt)
        self.left.append(call.remaining())
        if self._hello is not None:
            await self._hello(request)
        return {"metadata": dict(call.metadata)}


async def hello(client: Client, service: str, **options: Any) -> Any:
    return await client.call(service, "Say.Hello", {}, **options)


class OnTop(Suite[Pair]):
    # -- handlers ----------------------------------------------------------------------------

    @promise()
    async def test_a_plain_exception_says_nothing(self, lab: RpcLab) -> None:
        """An exception that is no MicroError arrives as 500 with an id, and none of its text."""
        handlers, name = Interop(wire(JSON)), lab.name()
        await lab.service(name, handlers.endpoints())
        client = await lab.caller()
        ids: set[str] = set()
        for _ in range(3):
            calling = client.call(name, "Interop.Crash", {"text": "password"})
            error = await lab.fails(calling, InternalError, "it fails")
            assert (error.code, error.happened) == (500, "yes")
            assert "password" not in f"{error!r} {error} {error.id} {error.status}"
            assert "LookupError" not in repr(error)
            ids.add(error.id)
        assert len(ids) == 3, "each has an id of its own"
        assert all(ids)

    @promise()
    async def test_metadata_cannot_break_the_request(self, lab: RpcLab) -> None:
        """Metadata that is no header is InvalidName, and reaches no handler."""
        account, name = Account(), lab.name()
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        for bad in ({"X": "a\r\nY: b"}, {"X\r\nY": "b"}, {"X Y": "b"}, {"": "b"}, {"X:": "b"}):
            await lab.fails(hello(client, name, metadata=bad), InvalidName, "it is refused")
        assert not account.seen

    @promise()
    async def test_metadata_does_not_steer_the_protocol(self, lab: RpcLab) -> None:
        """Metadata under a name of the protocol is refused, or changes nothing of the call."""
        account, name = Account(), lab.name()
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        for steering in STEERING:
            options = {"metadata": {steering: "7", "Tenant": "1"}, "timeout": None}
            try:
                told = await lab.soon(hello(client, name, **options), f"{steering} is harmless")
            except InvalidName:
                continue
            assert told["metadata"].get("Tenant") == "1", steering
            assert (account.left.pop(), account.attempts.pop()) == (None, 1), steering

    @promise()
    async def test_a_nested_call_has_what_is_left(self, lab: RpcLab) -> None:
        """A call that a handler makes has no more time than is left of the handler's own."""
        inner, names = Account(), (lab.name("inner"), lab.name("outer"))
        await lab.service(names[0], inner.endpoints())
        client = await lab.caller()

        async def forward(request: dict[str, Any]) -> None:
            await asyncio.sleep(0.4)
            await hello(client, names[0], timeout=1000)

        await lab.service(names[1], Account(forward).endpoints())
        await lab.soon(hello(client, names[1], timeout=5), "both are answered")
        [left] = inner.left
        assert left is not None
        assert 0 < left < 4.9

    @promise()
    async def test_a_default_deadline(self, lab: RpcLab) -> None:
        """A call has a deadline by default, and none if that is what its caller says."""
        account, name = Account(), lab.name()
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        await lab.soon(hello(client, name), "it is answered")
        await lab.soon(hello(client, name, timeout=None), "it is answered")
        assert account.left[0] is not None
        assert 0 < account.left[0] <= 5
        assert account.left[1] is None

    # -- which may be repeated ---------------------------------------------------------------

    @promise()
    async def test_a_node_that_is_not_there_is_passed_over(self, lab: RpcLab) -> None:
        """Calls are answered though one of two nodes cannot be reached, each by one handler."""
        account, name = Account(), lab.name()
        served = await lab.service(name, account.endpoints())
        gone = Node(lab.name("gone"), "127.0.0.1:1", served.node.metadata)
        await (await lab.registry()).register(ServiceInfo(name, "1", [gone]))
        client = await lab.caller()
        for _ in range(20):
            await lab.soon(hello(client, name), "it is answered")
        assert len(account.seen) == 20

    @promise()
    async def test_a_refused_call_is_repeated_elsewhere(self, lab: RpcLab) -> None:
        """A call that a node refused before any handler ran is answered by another node."""
        refused: list[RpcRequest] = []

        async def refuse(request: RpcRequest) -> None:
            refused.append(request)
            raise Unavailable("full", happened="no")

        full, account, name = Account(), Account(), lab.name()
        await lab.service(name, full.endpoints(), before=refuse)
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        for _ in range(20):
            await lab.soon(hello(client, name), "it is answered")
        assert (len(full.seen), len(account.seen)) == (0, 20)
        assert refused, "some went there first"
        repeated = account.attempts.count(2)
        assert repeated == len(refused), "the handler is told that it is the second attempt"

    @promise()
    async def test_a_repeated_call_has_what_is_left(self, lab: RpcLab) -> None:
        """The second attempt of a call is given what the first has left of its deadline."""
        refused: list[RpcRequest] = []

        async def refuse(request: RpcRequest) -> None:
            refused.append(request)
            await asyncio.sleep(0.4)
            raise Unavailable("full", happened="no")

        account, name = Account(), lab.name()
        await lab.service(name, Account().endpoints(), before=refuse)
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        for _ in range(40):
            begun = len(refused)
            await lab.soon(hello(client, name, timeout=4.0), "it is answered")
            if len(refused) > begun:
                break
        assert refused, "some calls went to the full node first"
        left = account.left[-1]
        assert left is not None
        assert left < 3.9

    @promise()
    async def test_what_may_have_run_is_not_repeated(self, lab: RpcLab) -> None:
        """A call that ran and failed, or was cut off, runs once, on one node."""

        async def fail(request: dict[str, Any]) -> None:
            raise Unavailable("broken")

        accounts, name = [Account(fail), Account(fail)], lab.name()
        for account in accounts:
            await lab.service(name, account.endpoints())
        client = await lab.caller()
        for number in range(1, 5):
            await lab.fails(hello(client, name), Unavailable, "it fails")
            assert sum(len(account.seen) for account in accounts) == number

    @promise()
    async def test_an_idempotent_call_is_repeated(self, lab: RpcLab) -> None:
        """A call to an idempotent endpoint that was cut off is answered by another node."""
        name, begun = lab.name(), asyncio.Event()

        async def wait(request: dict[str, Any]) -> None:
            begun.set()
            await asyncio.Event().wait()

        account = Account(wait)
        served = await lab.service(name, account.endpoints(), idempotent=True)
        client = await lab.caller()
        calling = lab.task(hello(client, name, timeout=None))
        await lab.soon(begun.wait(), "the first attempt runs")
        other = Account()
        await lab.service(name, other.endpoints(), idempotent=True)
        await lab.eventually(lambda: _knows(client, name, 2), "the client knows the other")
        await lab.soon(served.die(), "the first node ends")
        await lab.soon(calling, "the other node answers")
        assert other.attempts == [2]

    @promise()
    async def test_a_failing_node_is_left_alone(self, lab: RpcLab) -> None:
        """A node that fails several times in a row gets no calls for a while; others do."""

        async def fail(request: dict[str, Any]) -> None:
            raise Unavailable("broken", happened="maybe")

        bad, good, name = Account(fail), Account(), lab.name()
        served = await lab.service(name, bad.endpoints())
        await lab.service(name, good.endpoints())
        client = await lab.caller()
        for _ in range(200):
            await asyncio.gather(hello(client, name), return_exceptions=True)
            if client.health().ejected == (served.node.id,):
                break
        assert client.health().ejected == (served.node.id,)
        before = len(bad.seen)
        for _ in range(30):
            await lab.soon(hello(client, name), "it is answered")
        assert len(bad.seen) == before

    # -- which nodes -------------------------------------------------------------------------

    @promise()
    async def test_a_call_may_wait_for_its_service(self, lab: RpcLab) -> None:
        """A call that waits is answered once its service appears, and ends with its deadline."""
        client, name, account = await lab.caller(), lab.name(), Account()
        await lab.fails(hello(client, name), ServiceNotFound, "one that does not wait fails")
        waiting = hello(client, name, wait=True, timeout=0.2)
        await lab.fails(waiting, DeadlineExceeded, "the deadline passes")
        calling = lab.task(hello(client, name, wait=True, timeout=None))
        await asyncio.sleep(0)
        await lab.service(name, account.endpoints())
        await lab.soon(calling, "it is answered")
        assert len(account.seen) == 1

    @promise()
    async def test_a_call_may_ask_for_a_version(self, lab: RpcLab) -> None:
        """A call that names a version goes to nodes of that only; NoNodes says which there are."""
        name, old, new = lab.name(), Account(), Account()
        await lab.service(name, old.endpoints(), version="1.0")
        await lab.service(name, new.endpoints(), version="2.0")
        client = await lab.caller()
        for _ in range(10):
            await lab.soon(hello(client, name, version="2.0"), "it is answered")
        assert (len(old.seen), len(new.seen)) == (0, 10)
        error = await lab.fails(hello(client, name, version="3"), NoNodes, "there is none")
        assert "2.0" in error.detail

    @promise()
    async def test_a_call_may_ask_for_labels(self, lab: RpcLab) -> None:
        """A call that names labels goes to nodes that have them all."""
        name, east, west = lab.name(), Account(), Account()
        await lab.service(name, east.endpoints(), zone="east")
        await lab.service(name, west.endpoints(), zone="west")
        client = await lab.caller()
        for _ in range(10):
            await lab.soon(hello(client, name, labels={"zone": "west"}), "it is answered")
        assert (len(east.seen), len(west.seen)) == (0, 10)
        labels = {"zone": "west", "disk": "ssd"}
        await lab.fails(hello(client, name, labels=labels), NoNodes, "there is none")

    @promise()
    async def test_calls_go_on_while_the_registry_is_away(self, lab: RpcLab) -> None:
        """A client calls the nodes that it knows while the registry cannot be asked."""
        name, account, registry = lab.name(), Account(), await lab.registry()
        await lab.service(name, account.endpoints())
        client = await lab.caller()
        await lab.soon(hello(client, name), "it is answered")
        registry.away = True
        for _ in range(5):
            await lab.soon(hello(client, name), "it is answered")
        error = await lab.fails(hello(client, lab.name()), MicroError, "it cannot be asked")
        assert error.code == 503
        registry.away = False
        await lab.fails(hello(client, lab.name()), ServiceNotFound, "it can be asked again")

    @promise()
    async def test_a_withdrawn_node_is_disconnected(self, lab: RpcLab) -> None:
        """A client ends its idle connections to a node that the registry withdraws."""
        name, account, registry = lab.name(), Account(), await lab.registry()
        served = await lab.service(name, account.endpoints())
        client = await lab.caller()
        await lab.soon(hello(client, name), "it is answered")
        [info] = await registry.get_service(name)
        await registry.deregister(info)
        draining = served.server.drain(10 * self.patience)
        await lab.soon(draining, "no client is connected, and draining ends")
        with pytest.raises(MicroError):
            await lab.soon(hello(client, name), "it fails")


def _knows(client: Client, name: str, nodes: int) -> bool:
    view = client._cache.get(name)
    return view is not None and sum(len(info.nodes) for info in view.services) == nodes
