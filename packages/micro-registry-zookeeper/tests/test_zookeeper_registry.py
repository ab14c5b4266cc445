"""The driver against a real ZooKeeper that no test breaks, looked at with a client of the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from micro_conformance.proxy import ChaosProxy
from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnknown,
    InvalidName,
    MessageTooLarge,
    OptionError,
)
from micro_core.registry.records import Endpoint, Node, ServiceInfo, Value
from micro_registry_zookeeper import ZooKeeperRegistry

SESSION = 4.0
# What Go Micro v2 with its zookeeper plugin wrote for a service of one node, captured.
GO_PATH = "/micro-registry/go.fix/go.fix-1"
GO_DATA = (
    b'{"name":"go.fix","version":"1.0.0","metadata":{"team":"a b=c"},"endpoints":[{"name":'
    b'"Say.Hello","request":{"name":"Req","type":"Req","values":[{"name":"name","type":"string",'
    b'"values":null}]},"response":{"name":"Rsp","type":"Rsp","values":null},"metadata":{"stream":'
    b'"false"}}],"nodes":[{"id":"go.fix-1","address":"127.0.0.1:9999","metadata":{"protocol":'
    b'"mucp","zone":"z1"}}]}'
)
GO_INFO = ServiceInfo(
    "go.fix",
    "1.0.0",
    [Node("go.fix-1", "127.0.0.1:9999", {"protocol": "mucp", "zone": "z1"})],
    [
        Endpoint(
            "Say.Hello",
            Value("Req", "Req", [Value("name", "string")]),
            Value("Rsp", "Rsp"),
            {"stream": "false"},
        )
    ],
    {"team": "a b=c"},
)


@pytest.fixture(scope="module")
def address(server_address: Callable[[str], str]) -> str:
    return server_address("zookeeper")


@pytest.fixture(scope="module")
def other(address: str) -> Iterator[Any]:
    """Somebody else's session."""
    users = [("digest", "ann:canary-1"), ("digest", "bob:canary-2")]
    silent = logging.Logger("other")  # noqa: LOG001 -- outside the tree: it shows passwords
    client = KazooClient(address, timeout=SESSION, auth_data=users, logger=silent)
    client.start()
    yield client
    client.stop()
    client.close()


@pytest.fixture
def chroot(other: Any) -> Iterator[str]:
    """A tree that is empty and of this test alone."""
    path = f"/test-{secrets.token_hex(6)}"
    yield path
    with contextlib.suppress(NoNodeError):
        other.delete(path, recursive=True)


def run(body: Callable[[], Any]) -> None:
    async def main() -> None:
        async with asyncio.timeout(40):
            await body()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def soon(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(10):
        return await awaitable


async def until(condition: Callable[[], Any], limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def registry(address: str, chroot: str, **options: Any) -> AsyncIterator[ZooKeeperRegistry]:
    async with ZooKeeperRegistry(
        address, session_timeout=SESSION, chroot=chroot, **options
    ) as made:
        yield made


def info(name: str = "svc", *numbers: int, **metadata: str) -> ServiceInfo:
    nodes = [Node(f"{name}-{n}", f"10.0.0.{n}:80", metadata) for n in numbers or (1,)]
    return ServiceInfo(name, "1", nodes)


# -- records as Go writes them -----------------------------------------------------------------


def test_the_bytes_of_go_are_read_and_written(address: str, chroot: str, other: Any) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            other.create(chroot + GO_PATH, GO_DATA, makepath=True)
            assert await ours.get_service("go.fix") == [GO_INFO]
            assert await ours.list_services() == ["go.fix"]
            await ours.deregister(GO_INFO)
            assert other.get_children(f"{chroot}/micro-registry/go.fix") == []
            await ours.register(GO_INFO)
            data, stat = other.get(chroot + GO_PATH)
            assert data == GO_DATA
            assert stat.ephemeralOwner == ours.native.client_id[0]
            assert other.get(f"{chroot}/micro-registry/go.fix")[1].ephemeralOwner == 0
        assert other.exists(chroot + GO_PATH) is None

    run(body)


def test_a_persistent_node_is_taken_over(address: str, chroot: str, other: Any) -> None:
    """Go's plugin leaves its nodes for ever; registered by us, one goes with its service."""

    async def body() -> None:
        other.create(chroot + GO_PATH, GO_DATA, makepath=True)
        async with registry(address, chroot) as ours:
            await ours.register(GO_INFO)
            assert other.get(chroot + GO_PATH)[1].ephemeralOwner == ours.native.client_id[0]

    run(body)


def test_what_is_no_record_is_left_out_and_logged_once(
    address: str, chroot: str, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info())
            folder = f"{chroot}/micro-registry/svc"
            for number, data in enumerate((b"", b"\xff", b"[]", b'{"name":1}', b"[" * 100_000)):
                other.create(f"{folder}/bad-{number}", data)
            async with ours.watch("svc") as watcher:
                for _ in range(3):
                    assert await ours.get_service("svc") == [info()]
                assert watcher.services == [info()]
            assert await ours.list_services() == ["svc"]
            other.set(f"{folder}/bad-0", json.dumps({"name": "elsewhere"}).encode())
            assert await ours.get_service("svc") == [info()]

    run(body)
    logged = [record for record in caplog.records if "is no record" in record.message]
    assert len(logged) == 5


def test_names_of_one_folder_are_two_services(address: str, chroot: str) -> None:
    """Go writes ``/`` as ``-``; the record has the whole name."""

    async def body() -> None:
        async with registry(address, chroot) as ours:
            slash = ServiceInfo("a/b", "1", [Node("one/1", "h:1")])
            dash = ServiceInfo("a-b", "1", [Node("two-1", "h:2")])
            for each in (slash, dash):
                await ours.register(each)
            assert await ours.get_service("a/b") == [slash]
            assert await ours.get_service("a-b") == [dash]
            assert await ours.list_services() == ["a-b", "a/b"]
            await ours.deregister(slash)
            assert await ours.list_services() == ["a-b"]

    run(body)


@pytest.mark.parametrize("name", [".", "..", "smile 🙂", "a\ufffdb"])
def test_names_that_zookeeper_refuses(address: str, chroot: str, name: str) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            for wrong in (
                ServiceInfo(name, "1", [Node("fine", "h:1")]),
                ServiceInfo("fine", "1", [Node("fine", "h:1"), Node(name, "h:1")]),
            ):
                with pytest.raises(InvalidName):
                    await ours.register(wrong)
            assert await ours.list_services() == []

    run(body)


@pytest.mark.parametrize("name", ["...", "zookeeper", "grüße", "你好", "a b", "%2F", "a//b"])
def test_odd_names_that_work(address: str, chroot: str, name: str) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info(name))
            assert await ours.get_service(name) == [info(name)]
            assert await ours.list_services() == [name]

    run(body)


def test_a_record_that_is_too_large(address: str, chroot: str) -> None:
    """The server would end the connection, and that for every heartbeat."""

    async def body() -> None:
        async with registry(address, chroot) as ours:
            with pytest.raises(MessageTooLarge, match="limit"):
                await ours.register(info(big="x" * 1_000_001))
            large = info(big="x" * 990_000)
            await ours.register(large)
            assert await ours.get_service("svc") == [large]

    run(body)


# -- sessions ----------------------------------------------------------------------------------


def test_a_node_of_an_older_session_is_replaced_without_a_gap(
    address: str, chroot: str, other: Any
) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours, registry(address, chroot) as reader:
            await ours.register(info("svc", 2))
            path = f"{chroot}/micro-registry/svc/svc-1"
            [(_, data)] = ours._layout.entries(info())
            found: list[int] = []

            async def look(until: asyncio.Task[None]) -> None:
                while not until.done():
                    found.append(len(await reader.get_nodes("svc")))

            for _ in range(20):
                with contextlib.suppress(NoNodeError):
                    other.delete(path)
                other.create(path, data, ephemeral=True)
                async with reader.watch("svc") as watcher:
                    taking_over = asyncio.create_task(ours.register(info()))
                    await soon(asyncio.gather(*(look(taking_over) for _ in range(10))))
                    assert other.get(path)[1].ephemeralOwner == ours.native.client_id[0]
                    await ours.register(info("svc", 3))
                    event = await soon(anext(watcher))
                    assert (event.action, event.service.nodes[0].id) == ("create", "svc-3")
                    await ours.deregister(info("svc", 3))
            assert set(found) == {2}
            assert len(found) > 20

    run(body)


def test_two_who_write_one_node(address: str, chroot: str) -> None:
    async def body() -> None:
        async with registry(address, chroot) as one, registry(address, chroot) as two:
            for turn in range(10):
                await asyncio.gather(
                    *(each.register(info(turn=f"{turn}")) for each in (one, two, one, two))
                )
                assert await one.get_service("svc") == [info(turn=f"{turn}")]

    run(body)


def test_an_expired_node_that_another_has_taken_over_stays(address: str, chroot: str) -> None:
    async def body() -> None:
        async with registry(address, chroot) as one, registry(address, chroot) as two:
            await one.register(info(), ttl=1)
            await two.register(info(), ttl=30)
            await one.register(info("other"), ttl=1)
            await until(lambda: not one._expiry)
            assert await two.list_services() == ["svc"]

    run(body)


def test_a_shorter_ttl_counts(address: str, chroot: str) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info(), ttl=600)
            await ours.register(info(), ttl=0.2)
            await until(lambda: not ours._expiry, 2)
            assert await ours.get_service("svc") == []

    run(body)


def test_a_heartbeat_writes_nothing(address: str, chroot: str, other: Any) -> None:
    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info())
            before = other.get(f"{chroot}/micro-registry/svc/svc-1")[1]
            await ours.register(info())
            assert other.get(f"{chroot}/micro-registry/svc/svc-1")[1] == before

    run(body)


def test_a_cut_connection_keeps_the_session(address: str, chroot: str, other: Any) -> None:
    """The watch is set again, and what changed meanwhile is told."""

    async def body() -> None:
        async with ChaosProxy(address) as proxy, registry(proxy.address, chroot) as ours:
            await ours.register(info())
            session = ours.native.client_id
            async with ours.watch("svc") as watcher:
                async with registry(address, chroot) as theirs:
                    for number in range(2, 6):
                        proxy.refuse()
                        await until(lambda: ours.health().state == "lost")
                        await theirs.register(info("svc", number))
                        proxy.accept()
                        event = await soon(anext(watcher))
                        assert event.service.nodes[0].id == f"svc-{number}"
                        await until(lambda: ours.health().state == "connected")
            assert ours.native.client_id == session
            assert ours.health().reconnects >= 4

    run(body)


def test_a_client_without_a_connection_is_replaced(
    address: str, chroot: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After the time of a session; the old one's threads end."""
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with ChaosProxy(address) as proxy, registry(proxy.address, chroot) as ours:
            threads = threading.active_count()
            first = ours.native
            async with ours.keep(info(), ttl=3), ours.watch("svc") as watcher:
                proxy.refuse()
                await until(lambda: ours.native is not first)
                proxy.accept()
                await until(lambda: ours.native.connected and not watcher.doubtful)
                async with registry(address, chroot) as theirs:
                    assert await theirs.get_service("svc") == [info()]
                    await theirs.register(info("svc", 2))
                    event = await soon(anext(watcher))
                    assert event.service.nodes[0].id == "svc-2"
            await until(lambda: threading.active_count() <= threads)
        assert "a new session" in caplog.text

    run(body)


def test_a_frozen_server_costs_no_thread(address: str, chroot: str) -> None:
    async def body() -> None:
        before = threading.active_count()
        async with ChaosProxy(address) as proxy:
            registry = ZooKeeperRegistry(proxy.address, session_timeout=40, chroot=chroot)
            async with registry:
                registry.operation_timeout = 0.2
                await registry.register(info())
                proxy.freeze()
                with pytest.raises(BackendError, match="no answer within"):
                    await registry.get_service("svc")
                begin = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - begin < registry.close_timeout
            await until(lambda: threading.active_count() <= before)

    run(body)


def test_kazoo_never_blocks_the_loop(address: str, chroot: str) -> None:
    """While its thread is busy elsewhere, who asks for some 280 things at once is blocked."""

    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info())
            ours.operation_timeout = 0.3
            assert ours._session
            ours._session.must_act_by(0.0)  # stops kazoo's thread
            for _ in range(5):
                asked = [ours.get_service("svc") for _ in range(200)]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                assert {type(answer) for answer in answers} <= {BackendUnknown, list}
            assert BackendUnknown in map(type, answers)
            ours._session.must_act_by(None)
            ours.operation_timeout = 5.0
            assert await ours.get_service("svc") == [info()]

    run(body)


def test_many_nodes_are_read_at_once(address: str, chroot: str, other: Any) -> None:
    """More requests than kazoo takes without blocking who asks."""

    async def body() -> None:
        async with registry(address, chroot) as ours:
            await ours.register(info())
            for start in range(0, 1000, 100):
                batch = other.transaction()
                for number in range(start, start + 100):
                    record = ServiceInfo("svc", "1", [Node(f"n{number:04}", f"h:{number}")])
                    [(path, data)] = ours._layout.entries(record)
                    batch.create(path, data)
                assert not any(isinstance(one, Exception) for one in batch.commit())
            assert len(await ours.get_nodes("svc")) == 1001
            async with ours.watch("svc") as watcher:
                assert len(watcher.nodes) == 1001
                other.delete(f"{chroot}/micro-registry/svc/n0500")
                assert (await anext(watcher)).action == "delete"

    run(body)


# -- options -----------------------------------------------------------------------------------


def test_chroots_do_not_see_each_other(address: str, chroot: str, other: Any) -> None:
    async def body() -> None:
        async with (
            registry(address, f"{chroot}/a/b/") as one,
            registry(address, f"{chroot}/a") as two,
            two.watch("svc") as watcher,
        ):
            await one.register(info())
            await two.register(info("svc", 2))
            assert (await anext(watcher)).service == info("svc", 2)
            assert await one.get_service("svc") == [info()]
            assert other.get_children(f"{chroot}/a/b/micro-registry/svc") == ["svc-1"]

    run(body)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((), {"session_timeout": 0}, "session_timeout"),
        (("h:1/chroot",), {}, "chroot="),
        (("user:canary@h:1",), {}, "username="),
        ((), {"chroot": "apps"}, "chroot"),
        ((), {"chroot": "/a/../b"}, "chroot"),
        ((), {"username": "a"}, "password="),
        ((), {"password": "canary"}, "username="),
        ((), {"username": "a:b", "password": "canary"}, "colon"),
        ((), {"private": True}, "username="),
    ],
)
def test_options_that_cannot_be(
    arguments: tuple[str, ...], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match) as caught:
        ZooKeeperRegistry(*arguments, **options)
    assert "canary" not in str(caught.value)


def test_only_the_user_may_change_what_is_registered(
    address: str, chroot: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    async def body() -> None:
        user = {"username": "ann", "password": "canary-1"}
        async with (
            registry(address, chroot, **user) as ours,
            registry(address, chroot, **user) as same,
            registry(address, chroot, username="bob", password="canary-2") as theirs,
            registry(address, chroot) as nobody,
        ):
            await ours.register(info())
            await same.register(info("svc", 2))
            await same.register(info())
            for stranger in (theirs, nobody):
                assert len(await stranger.get_nodes("svc")) == 2
                assert await stranger.list_services() == ["svc"]
                for attempt in (stranger.register(info("svc", 3)), stranger.register(info()),
                                stranger.deregister(info())):  # fmt: skip
                    with pytest.raises(BackendRefused, match="--registry_password") as caught:
                        await attempt
                    texts.append(str(caught.value))
            await theirs.register(info("their"))
            assert await ours.list_services() == ["svc", "their"]
            assert len(await ours.get_nodes("svc")) == 2
            texts.append(repr(ours) + repr(ours.health()) + repr(ours._session))
        with pytest.raises(BackendRefused):
            async with registry(address, chroot) as nobody:
                await nobody.register(info("svc", 9))

    run(body)
    assert "canary" not in "\n".join(texts) + caplog.text


def test_what_is_private_is_hidden(address: str, chroot: str) -> None:
    async def body() -> None:
        user = {"username": "ann", "password": "canary-1"}
        async with (
            registry(address, chroot, private=True, **user) as ours,
            registry(address, chroot) as nobody,
        ):
            await ours.register(info())
            assert await ours.get_service("svc") == [info()]
            for attempt in (nobody.get_service("svc"), nobody.list_services()):
                with pytest.raises(BackendRefused):
                    await attempt

    run(body)
