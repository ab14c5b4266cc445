"""Which node a call goes to, how often, and with which options."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import pkgutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from in_loops import in_loop, until
from network import Network

import micro_core
from micro_core import (
    BackendUnavailable,
    Client,
    Conflict,
    DeadlineExceeded,
    InternalError,
    Node,
    NoNodes,
    ServiceInfo,
    Unavailable,
    current,
    detached,
    endpoint,
    mucp,
    options,
)
from micro_core.client.base import RpcRequest
from micro_core.client.options import Filter
from micro_core.message import Message
from micro_core.selector.base import Selector
from micro_core.selector.p2c import P2CSelector
from micro_core.selector.random import RandomSelector
from micro_core.selector.roundrobin import RoundRobinSelector


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    monkeypatch.setenv("MICRO_GRACE", "1")
    caplog.set_level(logging.CRITICAL, "micro.server")


@dataclass
class Ask:
    text: str


class Handler:
    """Answers with its name and what it was told; fails the first ``failing`` times."""

    def __init__(self, name: str = "", failing: int = 0) -> None:
        self.name = name
        self.failing = failing
        self.attempts: list[int] = []

    async def tell(self, request: Ask) -> dict[str, Any]:
        call = current()
        return {
            "name": self.name,
            "attempt": call.attempt,
            "metadata": dict(call.metadata),
            "remaining": call.remaining(),
        }

    async def risky(self, request: Ask) -> str:
        return self._fail(Unavailable("down"))

    @endpoint(idempotent=True)
    async def safe(self, request: Ask) -> str:
        return self._fail(Unavailable("down"))

    @endpoint(idempotent=True)
    async def refuse(self, request: Ask) -> str:
        return self._fail(Conflict("taken"))

    @endpoint(idempotent=True)
    async def crash(self, request: Ask) -> str:
        return self._fail(RuntimeError("broken"))

    @endpoint(idempotent=True)
    async def slow(self, request: Ask) -> str:
        self.attempts.append(current().attempt)
        await asyncio.sleep(30.0)
        return self.name

    def _fail(self, error: Exception) -> str:
        self.attempts.append(current().attempt)
        if len(self.attempts) <= self.failing:
            raise error
        return self.name


# -- filters -------------------------------------------------------------------------------------


@in_loop
async def test_labels_are_the_nodes_metadata_and_all_must_match() -> None:
    async with Network() as net:
        a = {"zone": "a", "disk": "ssd"}
        await net.service("s", Handler("a"), metadata=a, version="1")
        await net.service("s", Handler("b"), metadata={"zone": "b"}, version="2")
        client = await net.client()

        async def names(**given: Any) -> set[str]:
            replies = [await client.call("s", "Handler.Tell", Ask(""), **given) for _ in range(12)]
            return {reply["name"] for reply in replies}

        assert await names() == {"a", "b"}
        assert await names(labels={"zone": "a"}) == {"a"}
        assert await names(labels={"zone": "a", "disk": "ssd"}, version="1") == {"a"}
        assert await names(labels={}) == {"a", "b"}
        with options(labels={"zone": "b"}):
            assert await names() == {"b"}
            assert await names(labels={"zone": "a"}) == {"a"}
        with pytest.raises(NoNodes, match="no node labelled disk=ssd, zone=b"):
            await names(labels={"zone": "b", "disk": "ssd"})
        with pytest.raises(NoNodes, match="no node labelled zone=a"):
            await names(labels={"zone": "a"}, version="2")
        with pytest.raises(NoNodes, match="no version 3, only 1, 2"):
            await names(version="3")


@in_loop
async def test_a_call_waits_for_a_node_that_fits() -> None:
    async with Network() as net:
        await net.service("s", Handler("a"), metadata={"zone": "a"})
        client = await net.client()
        call = asyncio.create_task(
            client.call("s", "Handler.Tell", Ask(""), labels={"zone": "b"}, wait=True)
        )
        await until(lambda: client._cache.get("s") is not None)
        await net.service("s", Handler("b"), metadata={"zone": "b"})
        assert (await call)["name"] == "b"


@in_loop
async def test_nodes_are_filtered_once_for_each_filter() -> None:
    async with Network() as net:
        await net.service("s", Handler("a"), metadata={"zone": "a", "x": "1"})
        client = await net.client()
        await client.call("s", "Handler.Tell", Ask(""))
        attempts = client._attempts
        one = Filter.of({"labels": {"zone": "a", "x": "1"}})
        other = Filter.of({"labels": {"x": "1", "zone": "a"}})
        assert attempts._known("s", one) is attempts._known("s", other)
        assert attempts._known("s", None) is attempts._known("s", None)


def least(measure: Callable[[], object], rounds: int = 30, times: int = 200) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(times):
            measure()
        best = min(best, time.process_time() - begin)
    return best / times


@pytest.mark.parametrize("selector", [RandomSelector, RoundRobinSelector, P2CSelector])
def test_finding_a_node_costs_the_same_among_1_or_1000(
    selector: Callable[[], Selector], record_property: pytest.RecordProperty
) -> None:
    costs: dict[int, float] = {}

    @in_loop
    async def body() -> None:
        async with Network("memory") as net:
            for count in (3, 1000):
                nodes = [Node(f"s{count}-{n}", f"h:{n}", {"zone": "a"}) for n in range(count)]
                info = ServiceInfo(f"s{count}", "latest", nodes)
                await net.registry.register(info, ttl=1_000_000.0)
            chosen = selector()
            client = await net.client(selector=chosen)
            attempts = client._attempts

            async def find(count: int) -> None:
                service = f"s{count}"
                await client._cache.load(service)
                for _ in range(5):  # one is ejected
                    attempts.ejection.failed(attempts._known(service, None)[0], 0.0)

                def once() -> None:
                    filter = Filter.of({"labels": {"zone": "a"}})
                    nodes = attempts.ejection.usable(attempts._known(service, filter))
                    node = chosen.choose(nodes)
                    chosen.started(node)
                    chosen.finished(node, None, 0.01)

                costs[count] = least(once)

            await find(3)
            await find(1000)
            assert len(client.health().ejected) == 2

    body()
    ratio = costs[1000] / costs[3]
    print(f"{selector.__name__}: {1e6 * costs[3]:.2f} us, among 1,000 nodes {ratio:.2f} times that")
    record_property("ratio", ratio)
    assert ratio < 2.0


# -- repeats -------------------------------------------------------------------------------------


async def two_nodes(net: Network, failing: int) -> tuple[Handler, Handler]:
    one, other = Handler("one", failing), Handler("other", failing)
    await net.service("s", one)
    await net.service("s", other)
    return one, other


@in_loop
async def test_an_idempotent_call_is_repeated_once_on_another_node() -> None:
    async with Network() as net:
        one, other = await two_nodes(net, failing=2)
        client = await net.client()
        with pytest.raises(Unavailable):
            await client.call("s", "Handler.Safe", Ask(""), str)
        assert (one.attempts, other.attempts) in (([1], [2]), ([2], [1]))
        with pytest.raises(Unavailable):
            await client.call("s", "Handler.Safe", Ask(""), retries=0)
        assert len(one.attempts) + len(other.attempts) == 3
        assert await client.call("s", "Handler.Safe", Ask(""), str) in ("one", "other")


@in_loop
async def test_other_calls_are_repeated_only_when_asked_for() -> None:
    async with Network() as net:
        one, other = await two_nodes(net, failing=2)
        client = await net.client()
        with pytest.raises(Unavailable):
            await client.call("s", "Handler.Risky", Ask(""))
        assert sorted([*one.attempts, *other.attempts]) == [1]
        with options(retries=4):
            assert await client.call("s", "Handler.Risky", Ask(""), str) in ("one", "other")
        assert sorted([*one.attempts, *other.attempts])[:3] == [1, 1, 2]


@in_loop
async def test_one_node_alone_is_tried_again() -> None:
    async with Network() as net:
        handler = Handler("one", failing=2)
        await net.service("s", handler)
        client = await net.client()
        assert await client.call("s", "Handler.Risky", Ask(""), str, retries=3) == "one"
        assert handler.attempts == [1, 2, 3]


@in_loop
async def test_a_crash_is_repeated_and_a_refusal_is_not() -> None:
    async with Network() as net:
        one, other = await two_nodes(net, failing=1)
        client = await net.client()
        with pytest.raises(Conflict):
            await client.call("s", "Handler.Refuse", Ask(""))
        assert len(one.attempts) + len(other.attempts) == 1
        assert await client.call("s", "Handler.Crash", Ask(""), str, retries=2)


@in_loop
async def test_repeats_share_one_deadline() -> None:
    async with Network() as net:
        one, other = await two_nodes(net, failing=0)
        client = await net.client()
        with pytest.raises(DeadlineExceeded):
            await client.call("s", "Handler.Slow", Ask(""), timeout=0.2, retries=5)
        assert one.attempts + other.attempts == [1]


@in_loop
async def test_a_budget_of_nothing_allows_no_repeat() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRO_CLIENT_RETRY_BUDGET", "0")
        patch.setenv("MICRO_CLIENT_RETRY_FLOOR", "0")
        async with Network() as net:
            one, other = await two_nodes(net, failing=1)
            client = await net.client()
            with pytest.raises(Unavailable):
                await client.call("s", "Handler.Safe", Ask(""), retries=5)
            assert len(one.attempts) + len(other.attempts) == 1


@in_loop
async def test_client_retries_is_for_idempotent_endpoints() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRO_CLIENT_RETRIES", "3")
        async with Network() as net:
            handler = Handler("one", failing=3)
            await net.service("s", handler)
            client = await net.client()
            assert await client.call("s", "Handler.Safe", Ask(""), str) == "one"
            assert handler.attempts == [1, 2, 3, 4]


def test_the_attempt_travels_and_is_no_metadata() -> None:
    request = RpcRequest("s", "Say.Hello", "application/json", attempt=3)
    header = mucp.request_header(request, "1", 0.0)
    assert header["Micro-Attempt"] == "3"
    read = mucp.read_request(Message({**header, "Tenant": "7"}), 0.0, "peer")
    assert (read.attempt, read.header) == (3, {"Tenant": "7"})
    assert "Micro-Attempt" not in mucp.request_header(RpcRequest("s", "e", "t"), "1", 0.0)
    for garbage in ("", "0", "-1", "x", "9" * 40, "²"):
        odd = Message({**header, "Micro-Attempt": garbage})
        assert mucp.read_request(odd, 0.0, "").attempt == 1


# -- options -------------------------------------------------------------------------------------


@in_loop
async def test_options_are_for_the_calls_inside_and_an_argument_wins() -> None:
    async with Network() as net:
        await net.service("s", Handler("a"))
        client = await net.client()

        async def told(**given: Any) -> dict[str, Any]:
            reply: dict[str, Any] = await client.call("s", "Handler.Tell", Ask(""), **given)
            return reply

        with options(timeout=1.0, metadata={"tenant": "7", "X-Both": "outer"}):
            inside = await told()
            assert inside["metadata"] == {"Tenant": "7", "X-Both": "outer"}
            assert 0.0 < inside["remaining"] <= 1.0
            assert (await told(timeout=None))["remaining"] is None
            assert (await told(metadata={"x-both": "own"}))["metadata"] == {
                "Tenant": "7",
                "X-Both": "own",
            }
            with options(timeout=2.0, metadata={"tenant": "8"}):
                nested = await told()
                assert nested["metadata"] == {"Tenant": "8", "X-Both": "outer"}
                assert 1.0 < nested["remaining"] <= 2.0
            assert (await told())["metadata"] == inside["metadata"]
        assert (await told())["metadata"] == {}


@in_loop
async def test_an_option_that_is_none_is_refused() -> None:
    async with Network() as net:
        client = await net.client()
        wrong: dict[str, Any] = {"tiemout": 1.0}
        with pytest.raises(TypeError, match="tiemout"):
            await client.call("s", "Handler.Tell", Ask(""), **wrong)
        with pytest.raises(TypeError, match="tiemout"):
            client.stream("s", "Handler.Tell", **wrong)
        with pytest.raises(TypeError, match="tiemout"):
            client.stub("s", Handler, **wrong)
        with pytest.raises(TypeError, match="tiemout"):
            with options(**wrong):
                raise AssertionError


@pytest.mark.parametrize("transport", ["http", "memory"])
@in_loop
async def test_what_a_handler_calls_has_no_options_of_its_caller(transport: str) -> None:
    class Middle:
        client: Client

        async def ask(self, request: Ask) -> Any:
            with detached():
                return await self.client.call("leaf", "Handler.Tell", request)

    async with Network(transport) as net:
        await net.service("leaf", Handler("leaf"))
        middle = Middle()
        middle.client = (await net.service("middle", middle)).client
        client = await net.client()
        with options(timeout=1.0, metadata={"tenant": "7"}):  # also dials in it
            told = await client.call("middle", "Middle.Ask", Ask(""))
        assert told["metadata"] == {"Micro-From-Service": "middle"} or told["metadata"] == {}
        assert told["remaining"] > 3.0


@in_loop
async def test_code_gives_a_timeout_and_a_variable_replaces_it() -> None:
    async with Network() as net:
        await net.service("s", Handler("a"))
        unbound = await net.client(timeout=None)
        assert (await unbound.call("s", "Handler.Tell", Ask("")))["remaining"] is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MICRO_CLIENT_REQUEST_TIMEOUT", "2s")
            bound = await net.client(timeout=None)
        assert (await bound.call("s", "Handler.Tell", Ask("")))["remaining"] <= 2.0


# -- health --------------------------------------------------------------------------------------


@in_loop
async def test_health_says_how_old_what_is_known_is_and_who_is_ejected() -> None:
    async with Network() as net:
        handler = Handler("a", failing=5)
        service = await net.service("s", handler)
        await net.service("t", Handler("t"))
        client = await net.client()
        assert client.health().services == {}
        for _ in range(5):
            with pytest.raises(InternalError):
                await client.call("s", "Handler.Crash", Ask(""), retries=0)
        await client.call("t", "Handler.Tell", Ask(""))
        health = client.health()
        assert {kind: one.state for kind, one in health.components.items()} == {
            "registry": "connected",
            "transport": "connected",
        }
        assert service.node is not None
        assert health.ejected == (service.node.id,)
        assert health.services.keys() == {"s", "t"}
        assert all(0.0 <= age < 10.0 for age in health.services.values())
        await client.publish("topic", Ask("x"))
        assert client.health().components["broker"].state == "connected"
    with pytest.raises(BackendUnavailable, match="not open"):
        client.health()


@in_loop
async def test_a_node_that_refuses_connections_is_ejected_too() -> None:
    async with Network() as net:
        handler = Handler("a")
        service = await net.service("s", handler)
        assert service.node is not None
        gone = Node("gone", "127.0.0.1:1", service.node.metadata)
        await net.registry.register(ServiceInfo("s", "latest", [gone]), ttl=1_000_000.0)
        client = await net.client(selector="roundrobin")
        for _ in range(20):
            await client.call("s", "Handler.Tell", Ask(""))
        assert client.health().ejected == ("gone",)
        await net.registry.deregister(ServiceInfo("s", "latest", [gone]))
        await until(lambda: client.health().ejected == ())


@in_loop
async def test_a_caller_that_leaves_blames_nobody() -> None:
    async with Network() as net:
        handler = Handler("a")
        await net.service("s", handler)
        client = await net.client()
        for number in range(1, 8):
            call = asyncio.create_task(client.call("s", "Handler.Slow", Ask("")))
            await until(lambda number=number: len(handler.attempts) == number)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert client.health().ejected == ()
        for _ in range(5):
            with pytest.raises(DeadlineExceeded):
                await client.call("s", "Handler.Slow", Ask(""), timeout=0.05)
        assert len(client.health().ejected) == 1


def test_selectors_count_what_is_in_flight() -> None:
    seen: Counter[str] = Counter()

    class Counting(RandomSelector):
        def started(self, node: Node) -> None:
            seen["started"] += 1

        def finished(self, node: Node, error: BaseException | None, seconds: float) -> None:
            seen[type(error).__name__] += 1
            assert seconds >= 0.0

    @in_loop
    async def body() -> None:
        async with Network() as net:
            await net.service("s", Handler("a", failing=100))
            client = await net.client(selector=Counting())
            await client.call("s", "Handler.Tell", Ask(""))
            with pytest.raises(Conflict):
                await client.call("s", "Handler.Refuse", Ask(""))
            with pytest.raises(DeadlineExceeded):
                await client.call("s", "Handler.Slow", Ask(""), timeout=0.05)

    body()
    assert seen == {"started": 3, "NoneType": 1, "Conflict": 1, "DeadlineExceeded": 1}


def test_no_module_hides_what_the_package_exports() -> None:
    """Importing a submodule sets the package's attribute of that name."""
    for module in pkgutil.walk_packages(micro_core.__path__, "micro_core."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert all(map(inspect.isfunction, (options, micro_core.options, micro_core.run)))
