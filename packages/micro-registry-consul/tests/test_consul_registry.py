"""The driver against a real Consul, and its requests as an agent of the test sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import urllib.parse
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from micro_core.errors import (
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    InvalidName,
    OptionError,
)
from micro_core.registry.records import Endpoint, Node, ServiceInfo, Value
from micro_registry_consul import ConsulRegistry
from micro_registry_consul import registry as module
from micro_registry_consul.entries import to_entry

Consul = Callable[..., Any]


def fresh(node: int = 1, *, name: str = "", version: str = "1.0.0", **metadata: str) -> ServiceInfo:
    name = name or f"py.{secrets.token_hex(4)}"
    return ServiceInfo(
        name,
        version,
        [Node(f"{name}-{node}", f"10.0.0.{node}:9000", {"protocol": "mucp", **metadata})],
        [
            Endpoint(
                "Say.Hello", Value("Req", "Req", [Value("name", "string")]), Value("Rsp", "Rsp")
            )
        ],
    )


async def until(condition: Callable[[], Awaitable[Any]], limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not await condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def registered(
    registry: ConsulRegistry, *infos: ServiceInfo, ttl: float = 30.0
) -> AsyncIterator[None]:
    try:
        for info in infos:
            await registry.register(info, ttl=ttl)
        yield
    finally:
        for info in infos:
            await registry.deregister(info)


# -- a real Consul -----------------------------------------------------------------------------


def test_a_record_comes_back_whole(consul_address: str) -> None:
    async def body() -> None:
        info = ServiceInfo(
            "py.ключ/a b",
            "1.0-β",
            [Node("py.1", "[2001:db8::1]:1", {"a": "b=c", "é": ""}), Node("py.2", "_INBOX.x")],
            [Endpoint("A.B", Value("x", "X", [Value("y", "string")]), None, {"stream": "true"})],
            {"team": "mail"},
        )
        async with ConsulRegistry(consul_address) as registry, registered(registry, info):
            assert await registry.get_service(info.name) == [info]
            assert info.name in await registry.list_services()
        async with ConsulRegistry(consul_address) as registry:
            assert await registry.get_service(info.name) == []
            assert info.name not in await registry.list_services()

    asyncio.run(body())


def test_go_finds_what_we_register(consul_address: str, consul: Consul) -> None:
    info = fresh(zone="z1")

    async def body() -> None:
        async with ConsulRegistry(consul_address, tags=("primary",)) as registry:
            await registry.register(info, ttl=30)
            [entry] = await asyncio.to_thread(consul, "GET", f"/v1/health/service/{info.name}")
        service = entry["Service"]
        assert (service["ID"], service["Address"], service["Port"]) == (
            info.nodes[0].id,
            "10.0.0.1",
            9000,
        )
        decoded = [
            (tag[0], zlib.decompress(bytes.fromhex(tag[2:])).decode())
            for tag in service["Tags"][:-1]
        ]
        assert decoded[:2] == [("t", '{"protocol":"mucp"}'), ("t", '{"zone":"z1"}')]
        assert json.loads(decoded[2][1])["request"]["values"] == [
            {"name": "name", "type": "string", "values": None}
        ]
        assert [decoded[2][0], decoded[3]] == ["e", ("v", "1.0.0")]
        assert service["Tags"][-1] == "primary"
        [check] = [check for check in entry["Checks"] if check["ServiceID"]]
        assert (check["CheckID"], check["Status"], check["Type"]) == (
            f"service:{info.nodes[0].id}",
            "passing",
            "ttl",
        )

    asyncio.run(body())


def test_a_service_of_others_is_found(consul_address: str, consul: Consul) -> None:
    name = f"foreign.{secrets.token_hex(4)}"
    path = "/v1/agent/service"
    consul("PUT", f"{path}/register", {"Name": name, "Port": 80, "Tags": ["e", "env=prod"]})

    async def body() -> None:
        async with ConsulRegistry(consul_address) as registry:
            [info] = await registry.get_service(name)
            assert (info.version, info.endpoints, info.nodes[0].id) == ("latest", (), name)
            assert {name, "consul"} <= set(await registry.list_services())

    try:
        asyncio.run(body())
    finally:
        consul("PUT", f"{path}/deregister/{name}")


@pytest.mark.parametrize("state", ["warn", "fail", "maintenance"])
def test_only_passing_nodes_are_given(consul_address: str, consul: Consul, state: str) -> None:
    async def body() -> None:
        one = fresh(1)
        two = fresh(2, name=one.name)
        id = two.nodes[0].id
        path = {
            "warn": f"/v1/agent/check/warn/service:{id}",
            "fail": f"/v1/agent/check/fail/service:{id}",
            "maintenance": f"/v1/agent/service/maintenance/{id}?enable=true",
        }[state]
        async with ConsulRegistry(consul_address) as registry, registered(registry, one, two):
            await asyncio.to_thread(consul, "PUT", path)

            async def one_is_left() -> bool:
                return await registry.get_service(one.name) == [one]

            await until(one_is_left)
            assert one.name in await registry.list_services()
            await registry.deregister(one)
            assert one.name not in await registry.list_services()

    asyncio.run(body())


def test_a_changed_record_is_written_again(consul_address: str) -> None:
    async def body() -> None:
        info = fresh()
        async with ConsulRegistry(consul_address) as registry, registered(registry, info):
            for changed in (
                info.with_nodes([Node(info.nodes[0].id, "10.9.9.9:1", {"protocol": "grpc"})]),
                info.with_nodes([Node(info.nodes[0].id, "10.9.9.9:2")]),
                ServiceInfo(info.name, "2.0.0", info.nodes, [Endpoint("New.One")], {"a": "b"}),
            ):
                await registry.register(changed)
                assert await registry.get_service(info.name) == [changed]

    asyncio.run(body())


def test_nodes_are_grouped_by_version(consul_address: str) -> None:
    async def body() -> None:
        one, two = fresh(1), fresh(2)
        two = ServiceInfo(one.name, "2.0.0", two.nodes, two.endpoints)
        three = ServiceInfo(one.name, "1.0.0", fresh(3).nodes, one.endpoints)
        async with (
            ConsulRegistry(consul_address) as registry,
            registered(registry, one, two, three),
        ):
            old, new = await registry.get_service(one.name)
            assert (new, old.version) == (two, "1.0.0")
            assert sorted(n.address for n in old.nodes) == ["10.0.0.1:9000", "10.0.0.3:9000"]

    asyncio.run(body())


def test_a_silent_node_is_gone_after_its_ttl(consul_address: str) -> None:
    async def body() -> None:
        info = fresh()
        async with (
            ConsulRegistry(consul_address) as registry,
            registry.watch(info.name) as watcher,
            registered(registry, info, ttl=1.0),
        ):
            assert (await anext(watcher)).action == "create"
            async with asyncio.timeout(3.0):
                assert (await anext(watcher)).action == "delete"
            assert await registry.get_service(info.name) == []
            assert info.name not in await registry.list_services()

    asyncio.run(body())


def test_any_registry_deregisters_and_unknown_nodes_are_harmless(consul_address: str) -> None:
    async def body() -> None:
        info = fresh()
        async with ConsulRegistry(consul_address) as one, ConsulRegistry(consul_address) as two:
            await one.register(info)
            await two.deregister(info)
            await two.deregister(info)
            assert await one.get_service(info.name) == []
            await one.deregister(info)
            await two.deregister(fresh())

    asyncio.run(body())


NAMES = [
    "a b/c",
    "é☃",
    "a%2Fb",
    "a+b&c=d",
    "a?b#c",
    "..x",
    "a.",
    "'\"<>",
    "a;b",
    "a\\b",
    "a/",
    "x" * 255,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_go_as_they_are(consul_address: str, name: str) -> None:
    async def body() -> None:
        info = fresh(name=name)
        info = info.with_nodes([Node(name, "10.0.0.1:1")])
        async with ConsulRegistry(consul_address) as registry, registered(registry, info):
            assert await registry.get_service(name) == [info]
            await registry.register(info)
            assert name in await registry.list_services()
            await registry.deregister(info)
            assert await registry.get_service(name) == []

    asyncio.run(body())


@pytest.mark.parametrize("name", ["..", ".", "a//b", "/a", "a/../b", "a/."])
def test_names_that_a_url_cannot_carry_are_refused(consul_address: str, name: str) -> None:
    async def body() -> None:
        async with ConsulRegistry(consul_address) as registry:
            with pytest.raises(InvalidName):
                await registry.get_service(name)
            with pytest.raises(InvalidName):
                await registry.register(ServiceInfo(name, "1", [Node("x", "h:1")]))
            info = fresh()
            with pytest.raises(InvalidName):
                await registry.register(info.with_nodes([*info.nodes, Node(name, "h:1")]))
            assert await registry.get_service(info.name) == []

    asyncio.run(body())


def test_names_of_others_that_a_url_cannot_carry_are_listed(fake_agent: Any) -> None:
    async def body() -> None:
        lists = {
            "/v1/catalog/services": {"a//b": [], "dead": [], "alive": []},
            "/v1/health/state/any": [
                {"Node": "n", "ServiceName": "a//b"},
                {"Node": "n", "ServiceName": "dead"},
            ],
        }
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = lambda method, path: (200, lists.get(path.split("?")[0], []), 1)
            assert await registry.list_services() == ["a//b", "alive"]

    asyncio.run(body())


def test_names_that_differ_in_case_are_two(consul_address: str) -> None:
    async def body() -> None:
        lower = fresh(1)
        upper = ServiceInfo(lower.name.upper(), "1", [Node(secrets.token_hex(4), "h:1")])
        async with ConsulRegistry(consul_address) as registry, registered(registry, lower, upper):
            assert await registry.get_service(lower.name) == [lower]
            assert await registry.get_service(upper.name) == [upper]

    asyncio.run(body())


def test_a_watcher_sees_everything_and_the_last_one_go(consul_address: str) -> None:
    async def body() -> None:
        one, two = fresh(1), fresh(2)
        two = ServiceInfo(one.name, one.version, two.nodes, one.endpoints)
        moved = one.with_nodes([Node(one.nodes[0].id, "10.1.1.1:1")])
        async with (
            ConsulRegistry(consul_address) as registry,
            ConsulRegistry(consul_address) as other,
            registry.watch(one.name) as watcher,
            asyncio.timeout(10),
        ):
            seen = []
            for step in (
                other.register(one),
                other.register(two),
                other.register(moved),
                other.deregister(two),
                other.deregister(moved),
            ):
                await step
                event = await anext(watcher)
                seen.append((event.action, event.service.nodes))
                assert watcher.services == await registry.get_service(one.name)
            assert seen == [
                ("create", one.nodes),
                ("create", two.nodes),
                ("update", moved.nodes),
                ("delete", two.nodes),
                ("delete", moved.nodes),
            ]
            assert watcher.services == []

    asyncio.run(body())


def test_a_quiet_service_is_in_no_doubt(consul_address: str, consul: Consul) -> None:
    """The agent's own view of a service has a lower index than the servers give."""

    async def body() -> None:
        name, other = fresh().name, fresh()
        path = f"/v1/health/service/{name}?passing=1&index=1&wait=1s"
        assert await asyncio.to_thread(consul, "GET", path) == []  # makes the agent have a view
        async with ConsulRegistry(consul_address, wait=1.0) as registry:
            await registry.register(other)
            await registry.deregister(other)
            changes = registry._changes(name)
            assert await anext(changes) == []
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):
                    while True:  # a service that somebody else removes wakes it
                        assert await anext(changes) == []
            await changes.aclose()

    asyncio.run(body())


def test_many_watches_starve_no_heartbeat(consul_address: str) -> None:
    """150 blocking queries, of which 128 are carried at a time."""

    async def body() -> None:
        info, names = fresh(), [f"none.{n}" for n in range(150)]
        async with ConsulRegistry(consul_address, wait=3.0) as registry, registered(registry, info):
            watches = [registry._changes(name) for name in names]
            assert [await anext(watch) for watch in watches] == [[]] * 150
            blocked = [asyncio.ensure_future(anext(watch)) for watch in watches]
            try:
                await asyncio.sleep(0.3)  # not for a result: the queries shall be on their way
                async with asyncio.timeout(1.5):
                    await registry.register(info)
                    assert await registry.get_service(info.name) == [info]
                assert not any(task.done() for task in blocked)
                one = fresh(name=names[-1])  # one of those that wait for their turn
                async with registered(registry, one), asyncio.timeout(10):
                    assert await blocked[-1] == [one]
            finally:
                for task in blocked:
                    task.cancel()
                await asyncio.gather(*blocked, return_exceptions=True)
                for watch in watches:
                    await watch.aclose()

    asyncio.run(body())


def test_no_connection_is_left_open(consul_address: str) -> None:
    async def body() -> None:
        registry = ConsulRegistry(consul_address)
        async with registry:
            native = registry.native
            assert isinstance(native, aiohttp.ClientSession)
            async with native.get(f"http://{consul_address}/v1/status/peers") as response:
                assert await response.json()
            async with registry.watch("nothing"):
                pass
        assert native.closed
        assert registry.native is None
        async with registry:  # and once more
            assert await registry.get_service("nothing") == []
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(body())


# -- an agent of the test ----------------------------------------------------------------------


def test_the_registration_is_go_s(fake_agent: Any) -> None:
    async def body() -> None:
        info = fresh()
        id = info.nodes[0].id
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            await registry.register(info, ttl=60)
            written = dict(next(b for m, p, b in agent.requests if p.endswith("/register")))
            assert [tag[:2] for tag in written.pop("Tags")] == ["t-", "e-", "v-"]
            assert written == {
                "ID": id,
                "Name": info.name,
                "Address": "10.0.0.1",
                "Port": 9000,
                "Check": {"TTL": "1m0s", "DeregisterCriticalServiceAfter": "1m5s"},
            }
            assert agent.paths("PUT") == [
                "/v1/agent/service/register",
                f"/v1/agent/check/pass/service:{id}",
            ]

    asyncio.run(body())


def test_an_unchanged_node_costs_one_request(fake_agent: Any) -> None:
    async def body() -> None:
        info = fresh()
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            await registry.register(info)
            agent.requests.clear()
            await registry.register(fresh(name=info.name))
            [(method, path, _)] = agent.requests
            assert (method, path) == ("PUT", f"/v1/agent/check/pass/service:{info.nodes[0].id}")
            agent.requests.clear()
            await registry.register(info, ttl=31)
            assert "/v1/agent/service/register" in agent.paths("PUT")

    asyncio.run(body())


@pytest.mark.parametrize("status", [404, 500])
def test_a_lost_check_is_registered_at_once(fake_agent: Any, status: int) -> None:
    async def body() -> None:
        info = fresh()
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            await registry.register(info)
            agent.requests.clear()
            answers = iter([(status, 'Unknown check "x"', 1)])
            agent.answer = lambda method, path: (
                next(answers, None) if "/check/pass/" in path else None
            )
            await registry.register(info)
            path = f"/v1/agent/check/pass/service:{info.nodes[0].id}"
            assert agent.paths("PUT") == [path, "/v1/agent/service/register", path]

    asyncio.run(body())


def test_registering_waits_until_readers_see_it(
    fake_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE", 5.0)

    async def body() -> None:
        old, seen = fresh(), list[dict[str, Any]]()
        new = old.with_nodes([Node(old.nodes[0].id, "10.7.7.7:1")])
        entries = [to_entry(info, info.nodes[0], 30.0, ()) for info in (old, new)]
        lists: list[list[Any]] = [
            [],
            [],
            [entries[0]],
            [entries[0]],
            [entries[1]],
            [entries[1]],
            [],
        ]

        def answer(method: str, path: str) -> Any:
            if method == "PUT" or "/status/" in path:
                return None
            seen[:] = lists.pop(0)
            return 200, [{"Service": entry} for entry in seen], 1

        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = answer
            await registry.register(old)
            assert [*seen] == [entries[0]]
            await registry.register(new)
            assert [*seen] == [entries[1]]
            await registry.deregister(new)
            assert not seen
            assert not lists

    asyncio.run(body())


def test_no_redirect_is_followed(fake_agent: Any) -> None:
    """It would take the token elsewhere."""

    async def body() -> None:
        async with fake_agent() as agent, fake_agent() as other:
            head = (
                f"HTTP/1.1 307 X\r\nLocation: http://{other.address}/\r\nContent-Length: 0\r\n\r\n"
            )
            agent.answer = lambda method, path: head.encode()
            with pytest.raises(BackendRefused, match="HTTP 307"):
                await ConsulRegistry(agent.address, token="x").connect()
            assert other.requests == []

    asyncio.run(body())


def test_options_are_sent(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as agent:
            options: dict[str, Any] = {"token": "t0ken", "datacenter": "dc 2", "namespace": "team"}
            async with ConsulRegistry(agent.address, **options, stale=True) as registry:
                agent.requests.clear()
                await registry.register(fresh())
                await registry.list_services()
            for method, path, _ in agent.requests:
                query = urllib.parse.parse_qs(path.partition("?")[2], keep_blank_values=True)
                assert query["ns"] == ["team"]
                assert (query.get("dc"), query.get("stale")) == (
                    (["dc 2"], [""]) if method == "GET" else (None, None)
                )
                assert "consistent" not in query
            assert {headers["x-consul-token"] for headers in agent.headers} == {"t0ken"}

    asyncio.run(body())


def test_the_first_agent_that_answers_is_kept(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry("127.0.0.1:1", one.address, two.address) as registry:
                await registry.get_service("a")
                assert len(one.requests) == 2
                one.answer = lambda method, path: (500, "No cluster leader", 1)
                await registry.get_service("b")
                one.answer = lambda method, path: None
                await registry.get_service("c")
                assert (len(one.requests), len(two.requests)) == (3, 2)

    asyncio.run(body())


def test_a_write_that_may_have_been_done_is_tried_nowhere_else(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry(one.address, two.address) as registry:
                one.answer = lambda method, path: (500, "disk full", 1)
                with pytest.raises(BackendUnknown, match="disk full"):
                    await registry.register(fresh())
                assert two.requests == []
                await registry.register(fresh())
                assert "/v1/agent/service/register" in two.paths("PUT")

    asyncio.run(body())


def test_every_node_is_kept_where_it_is_registered(fake_agent: Any) -> None:
    async def body() -> None:
        one_info, two_info = fresh(), fresh()
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry(one.address, two.address) as registry:
                await registry.register(one_info)
                one.answer = lambda method, path: (429, "busy", 1)
                await registry.register(two_info)
                one.answer = lambda method, path: None
                one.requests.clear()
                two.requests.clear()
                await registry.register(one_info)
                await registry.register(two_info)
                await registry.deregister(one_info)
                await registry.deregister(two_info)
            for agent, info in ((one, one_info), (two, two_info)):
                id = info.nodes[0].id
                assert agent.paths("PUT") == [
                    f"/v1/agent/check/pass/service:{id}",
                    f"/v1/agent/service/deregister/{id}",
                ]

    asyncio.run(body())


def test_a_node_moves_on_when_its_agent_is_gone(fake_agent: Any) -> None:
    async def body() -> None:
        info = fresh()
        path = f"/v1/agent/service/deregister/{info.nodes[0].id}"
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry(one.address, two.address) as registry:
                await registry.register(info)
                one.answer = lambda method, path: (429, "busy", 1)
                await registry.register(info)
                assert "/v1/agent/service/register" in two.paths("PUT")
                one.answer = lambda method, path: None
                await registry.deregister(info)
            assert path in one.paths("PUT")
            assert path in two.paths("PUT")

    asyncio.run(body())


def test_a_frozen_agent_is_left_for_the_next(fake_agent: Any) -> None:
    """Even where the caller's own deadline is shorter than ours."""

    async def body() -> None:
        info = fresh()
        never = asyncio.Event()
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry(one.address, two.address) as registry:
                await registry.register(info)
                one.answer = lambda method, path: never.wait()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await registry.register(info)
                await registry.register(info)
                assert "/v1/agent/service/register" in two.paths("PUT")

    asyncio.run(body())


def test_a_watch_that_is_closed_says_nothing_of_its_agent(fake_agent: Any) -> None:
    async def body() -> None:
        never = asyncio.Event()
        async with fake_agent() as one, fake_agent() as two:
            async with ConsulRegistry(one.address, two.address) as registry:
                one.answer = lambda method, path: never.wait() if "index=" in path else None
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await anext(registry._changes("x"))
                await registry.get_service("x")
            assert two.requests == []

    asyncio.run(body())


def test_a_write_without_an_answer_may_have_been_done(fake_agent: Any) -> None:
    async def body() -> None:
        never = asyncio.Event()
        async with fake_agent() as agent:
            registry = ConsulRegistry(agent.address)
            registry.operation_timeout = 0.3
            async with registry:
                agent.answer = lambda method, path: never.wait()
                with pytest.raises(BackendUnknown) as caught:
                    await registry.register(fresh())
                assert isinstance(caught.value.__cause__, TimeoutError)
                assert (caught.value.happened, caught.value.plugin) == ("maybe", "consul")
                with pytest.raises(BackendUnavailable, match="no answer within"):
                    await registry.get_service("x")

    asyncio.run(body())


def test_an_unreachable_agent_is_an_error_at_once_that_says_what_to_do() -> None:
    async def body() -> None:
        with pytest.raises(BackendUnavailable) as caught:
            await ConsulRegistry("127.0.0.1:1").connect()
        assert "127.0.0.1:1" in str(caught.value)
        assert "--registry_address" in str(caught.value)
        assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorError)
        with pytest.raises(BackendUnavailable) as caught:
            await ConsulRegistry("127.0.0.1:1", "[::1]:2").connect()
        assert caught.value.address == "http://127.0.0.1:1,http://[::1]:2"

    asyncio.run(body())


NOT_CONSUL = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"-ERR unknown command\r\n",
    b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Consul-Index: x\r\n\r\n"a:8300"\n',
]


@pytest.mark.parametrize("reply", NOT_CONSUL)
def test_what_is_not_consul_is_refused_at_once(fake_agent: Any, reply: bytes) -> None:
    async def body() -> None:
        async with fake_agent() as agent:
            agent.answer = lambda method, path: reply
            with pytest.raises((BackendUnavailable, BackendRefused), match=agent.address):
                await ConsulRegistry(agent.address).connect()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, BackendRefused, "--registry_token"),
        (403, BackendRefused, "--registry_token"),
        (400, BackendRefused, "HTTP 400"),
        (429, BackendUnavailable, "http_max_conns_per_client"),
        (500, BackendUnknown, "HTTP 500"),
        (503, BackendUnknown, "HTTP 503"),
    ],
)
def test_what_consul_says_is_told(
    fake_agent: Any, status: int, error: type[Exception], words: str
) -> None:
    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = lambda method, path: (status, "because " + "x" * 5000, 1)
            with pytest.raises(error, match=words) as caught:
                await registry.register(fresh())
            assert "because" in str(caught.value)
            assert len(str(caught.value)) < 500
            read = BackendUnavailable if status >= 500 else error
            with pytest.raises(read, match=words):
                await registry.get_service("x")

    asyncio.run(body())


def test_answers_are_bounded(fake_agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micro_http.endpoints.ANSWER_LIMIT", 1000)

    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = lambda method, path: (200, ["x" * 1001], 1)
            with pytest.raises(BackendUnavailable, match="over 1000 bytes"):
                await registry.get_service("x")
            agent.answer = lambda method, path: (200, [], 1)
            assert await registry.get_service("x") == []

    asyncio.run(body())


def indices(agent: Any) -> list[str]:
    """Of the blocking queries."""
    queries = [urllib.parse.parse_qs(path.partition("?")[2]) for _, path, _ in agent.requests]
    return [query["index"][0] for query in queries if "index" in query]


def answering(*newest: int) -> Callable[[str, str], Any]:
    """Blocking queries are answered with these indices, others with an empty list."""
    answers = iter(newest)
    return lambda method, path: (200, [], next(answers) if "index=" in path else 1)


def test_an_index_that_goes_back_ends_the_changes(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = answering(92, 92, 95, 19)
            assert [change async for change in registry._changes("x")] == [[], []]
            assert indices(agent) == ["0", "92", "92", "95"]

    asyncio.run(body())


def test_an_index_of_zero_is_not_sent_back(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            agent.answer = answering(0, 7, 0)
            assert [change async for change in registry._changes("x")] == [[], []]
            assert indices(agent) == ["0", "1", "7"]

    asyncio.run(body())


def test_a_frozen_agent_is_noticed_by_a_watch(
    fake_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_registry_consul.agent.WAIT_SLACK", 0.1)

    async def body() -> None:
        never = asyncio.Event()
        async with fake_agent() as agent, ConsulRegistry(agent.address, wait=1.0) as registry:
            changes = registry._changes("x")
            assert await anext(changes) == []
            agent.answer = lambda method, path: never.wait()
            with pytest.raises(BackendUnavailable, match="no answer within"):
                async with asyncio.timeout(5):
                    await anext(changes)
            assert "wait=1.000s" in agent.requests[-1][1]

    asyncio.run(body())


def test_more_watches_than_slots_take_shorter_turns(
    fake_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCHES", 2)

    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address, wait=10.0) as registry:
            changes = [registry._changes(str(n)) for n in range(8)]
            for each in changes:
                await anext(each)
            agent.answer = answering(2)
            await anext(changes[0])
            assert "wait=2.500s" in agent.requests[-1][1]
            for each in changes:
                await each.aclose()
            assert registry._watched == 0

    asyncio.run(body())


def test_a_busy_service_is_not_asked_without_end(fake_agent: Any) -> None:
    async def body() -> None:
        async with fake_agent() as agent, ConsulRegistry(agent.address) as registry:
            index = iter(range(1, 10_000))
            agent.answer = lambda method, path: (200, [], next(index))
            changes = registry._changes("x")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.55):
                    async for _ in changes:
                        pass
            assert 2 <= len(indices(agent)) <= 7

    asyncio.run(body())


@pytest.mark.parametrize(
    "options",
    [
        {"wait": 0.5},
        {"wait": float("nan")},
        {"wait": 1000},
        {"tags": ("env=prod",)},
    ],
)
def test_options_without_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="registry consul"):
        ConsulRegistry(**options)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://",
        "ftp://host",
        "host:port",
        "host:99999",
        "::1",
        "host/path",
        "host:1?token=s3cret",
        "http://user:s3cret@host",
        "user:s3cret@host:8500",
    ],
)
def test_addresses_without_sense_are_refused(address: str) -> None:
    with pytest.raises(OptionError, match="host:port") as caught:
        ConsulRegistry(address)
    assert "s3cret" not in str(caught.value)


def test_the_plugin_is_found_by_its_name() -> None:
    from importlib.metadata import entry_points

    [point] = entry_points(group="micro.registry", name="consul")
    assert point.load() is ConsulRegistry
    registry = ConsulRegistry(token="x").rebuilt(("10.0.0.1:8500",), {"wait": 5.0})
    assert (registry.name, registry.addresses, registry.kind) == (
        "consul",
        ("10.0.0.1:8500",),
        "registry",
    )
