"""What is written to etcd, and what is made of what others write there."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from in_loops import in_loop

from micro_conformance.proxy import ChaosProxy
from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.registry.records import Endpoint, Node, RegistryEvent, ServiceInfo, Value
from micro_registry_etcd import EtcdRegistry, EtcdV3Registry

GO = (  # captured from Go Micro v2
    '{"name":"go.fix","version":"1.0.0","metadata":{"team":"a b=c"},"endpoints":'
    '[{"name":"Say.Hello","request":{"name":"Req","type":"Req","values":[{"name":"name",'
    '"type":"string","values":null}]},"response":{"name":"Rsp","type":"Rsp","values":null},'
    '"metadata":{"stream":"false"}}],"nodes":[{"id":"go.fix-1","address":"127.0.0.1:9999",'
    '"metadata":{"protocol":"mucp","zone":"z1"}}]}'
)

LONGEST = 2.5  # seconds from the end of a cut to a right view: a watcher's pause and a list


def go_info(name: str) -> ServiceInfo:
    request = Value("Req", "Req", [Value("name", "string")])
    endpoint = Endpoint("Say.Hello", request, Value("Rsp", "Rsp"), {"stream": "false"})
    node = Node(f"{name}-1", "127.0.0.1:9999", {"protocol": "mucp", "zone": "z1"})
    return ServiceInfo(name, "1.0.0", [node], [endpoint], {"team": "a b=c"})


@pytest.fixture
def name(etcd: Any) -> Iterator[str]:
    """Of a service; what is left of it is removed."""
    made = f"py.{secrets.token_hex(6)}"
    yield made
    asyncio.run(etcd.clear(f"/micro/registry/{made}/"))


def info_of(name: str, number: int = 1, **metadata: str) -> ServiceInfo:
    return ServiceInfo(name, "1", [Node(f"{name}-{number}", "10.0.0.1:9000", metadata)])


def key_of(name: str, number: int = 1) -> str:
    return f"/micro/registry/{name}/{name}-{number}"


@asynccontextmanager
async def following(registry: EtcdRegistry, name: str) -> AsyncIterator[Callable[[], Any]]:
    """A function that gives the driver's next change within 10 s."""
    changes = registry._changes(name)

    async def following_change() -> Any:
        async with asyncio.timeout(10):
            return await anext(changes, None)

    async with aclosing(changes):
        yield following_change


# -- Go's bytes ------------------------------------------------------------------------------


@in_loop
async def test_go_reads_what_is_written(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(go_info(name))
        found = await etcd.pair(key_of(name))
        assert found["value"] == GO.replace("go.fix", name)


@in_loop
async def test_what_go_writes_is_read(etcd: Any, name: str) -> None:
    await etcd.put(key_of(name), GO.replace("go.fix", name))
    async with EtcdRegistry(etcd.address) as registry:
        assert await registry.get_service(name) == [go_info(name)]
        assert name in await registry.list_services()
        await registry.deregister(go_info(name))
        assert await etcd.pair(key_of(name)) == {}


@in_loop
async def test_names_with_slashes_are_told_apart(etcd: Any, name: str) -> None:
    """Go looks for both in one folder, and takes the name from the record."""
    node = Node("n/1", "10.0.0.1:9000")
    dash, slash = (ServiceInfo(f"{name}{sign}a", "1", [node]) for sign in "-/")
    async with EtcdRegistry(etcd.address) as registry, following(registry, slash.name) as change:
        assert await change() == []
        for info in (dash, slash):
            await registry.register(info)
        assert [await registry.get_service(info.name) for info in (dash, slash)] == [
            [dash],
            [slash],
        ]
        assert {dash.name, slash.name} <= set(await registry.list_services())
        folder = f"/micro/registry/{name}-a/"
        found = await etcd.ask("kv/range", key=b64(folder), range_end=b64(folder[:-1] + "0"))
        assert len(found["kvs"]) == 2
        await registry.deregister(dash)
        await registry.deregister(slash)
        assert [await change(), await change()] == [
            RegistryEvent("create", slash),
            RegistryEvent("delete", slash),
        ]


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


@in_loop
async def test_both_names_are_one_registry(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as one, EtcdV3Registry(etcd.address) as other:
        await one.register(info_of(name))
        assert await other.get_service(name) == [info_of(name)]
    with pytest.raises(BackendUnavailable, match="registry etcdv3 at") as caught:
        await EtcdV3Registry("127.0.0.1:1").connect()
    assert caught.value.plugin == "etcdv3"


# -- leases ----------------------------------------------------------------------------------


@in_loop
async def test_a_heartbeat_writes_nothing(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(info_of(name), ttl=60)
        before = await etcd.pair(key_of(name))
        await asyncio.sleep(1.1)
        left = await etcd.ask("lease/timetolive", ID=before["lease"])
        await registry.register(info_of(name), ttl=60)
        prolonged = await etcd.ask("lease/timetolive", ID=before["lease"])
        assert int(left["TTL"]) < int(prolonged["TTL"])
        assert await etcd.pair(key_of(name)) == before


@in_loop
async def test_a_change_of_anything_is_written_on_the_same_lease(etcd: Any, name: str) -> None:
    first = info_of(name)
    changed = ServiceInfo(name, "1", first.nodes, [Endpoint("Say.Hello")])
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(first)
        before = await etcd.pair(key_of(name))
        await registry.register(changed)
        after = await etcd.pair(key_of(name))
        assert (after["lease"], after["version"]) == (before["lease"], "2")
        assert await registry.get_service(name) == [changed]


@in_loop
async def test_another_ttl_is_granted(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry:
        leases: list[str] = []
        for ttl, granted in ((60, "60"), (7.2, "8")):
            await registry.register(info_of(name), ttl=ttl)
            lease = (await etcd.pair(key_of(name)))["lease"]
            assert (await etcd.ask("lease/timetolive", ID=lease))["grantedTTL"] == granted
            leases.append(lease)
        left = await etcd.leases()
        assert leases[1] in left
        assert leases[0] not in left


@pytest.mark.parametrize("loss", ["lease", "key", "foreign lease", "foreign value"])
@in_loop
async def test_a_lost_registration_is_made_again(etcd: Any, name: str, loss: str) -> None:
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(info_of(name))
        before = await etcd.pair(key_of(name))
        match loss:
            case "lease":
                await etcd.ask("lease/revoke", ID=before["lease"])
            case "key":
                await etcd.delete(key_of(name))
            case "foreign lease":
                await etcd.put(key_of(name), before["value"])
            case _:
                body = {"key": b64(key_of(name)), "value": b64("{}"), "lease": before["lease"]}
                await etcd.ask("kv/put", **body)
        await registry.register(info_of(name))
        after = await etcd.pair(key_of(name))
        assert after["value"] == before["value"]
        assert after["lease"] in await etcd.leases()
        assert (after["lease"] == before["lease"]) == (loss != "lease")


@in_loop
async def test_a_deregistered_nodes_lease_is_revoked(etcd: Any, name: str) -> None:
    both = ServiceInfo(name, "1", [Node(f"{name}-{n}", "10.0.0.1:9000") for n in (1, 2)])
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(both)
        first, second = [(await etcd.pair(key_of(name, n)))["lease"] for n in (1, 2)]
        assert {first, second} <= await etcd.leases()
        await registry.deregister(both.with_nodes(both.nodes[:1]))
        assert {first, second} & await etcd.leases() == {second}
    assert second not in await etcd.leases()


@in_loop
async def test_a_node_whose_lease_is_gone_can_be_deregistered(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(info_of(name))
        await etcd.ask("lease/revoke", ID=(await etcd.pair(key_of(name)))["lease"])
        await registry.deregister(info_of(name))


# -- what others write -----------------------------------------------------------------------

BROKEN = ["", "no json", "[]", "{}", '{"name":1}', '{"name":"x","nodes":[{"id":2}]}', "[" * 5000]


@in_loop
async def test_broken_records_are_passed_over(
    etcd: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with EtcdRegistry(etcd.address) as registry, following(registry, name) as change:
        for number, text in enumerate(BROKEN, 2):
            await etcd.put(key_of(name, number), text)
        await etcd.put(f"/micro/registry/{name}/other", GO)
        await registry.register(info_of(name))
        assert await change() == [info_of(name)]
        for _ in range(2):
            assert await registry.get_service(name) == [info_of(name)]
        assert name in await registry.list_services()
        await etcd.put(key_of(name, 2), "again broken")
        await etcd.put(key_of(name), "broken now")
        assert await change() == RegistryEvent("delete", info_of(name))
        for number in range(len(BROKEN) + 2):
            await etcd.delete(key_of(name, number))
        await etcd.delete(f"/micro/registry/{name}/other")
        await registry.register(info_of(name))
        assert await change() == RegistryEvent("create", info_of(name))
    told = [line for line in caplog.messages if "passed over" in line and f"{name}/" in line]
    assert len(told) == len(BROKEN) + 2  # each once


@in_loop
async def test_a_long_list_is_read_page_by_page(
    etcd: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_registry_etcd.registry.PAGE", 3)
    info = ServiceInfo(name, "1", [Node(f"{name}-{n:02}", "10.0.0.1:9000") for n in range(10)])
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(info)
        assert await registry.get_service(name) == [info]
        assert name in await registry.list_services()
        monkeypatch.setattr("micro_registry_etcd.registry.RECORDS", 9)
        with pytest.raises(BackendRefused, match="over 9 records"):
            await registry.get_service(name)


@in_loop
async def test_a_list_of_long_records_is_read_in_shorter_pages(
    etcd: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_http.endpoints.ANSWER_LIMIT", 50_000)
    nodes = [Node(f"{name}-{n:02}", "10.0.0.1:9000", {"long": "x" * 20_000}) for n in range(10)]
    info = ServiceInfo(name, "1", nodes)
    async with EtcdRegistry(etcd.address) as registry:
        await registry.register(info)
        assert await registry.get_service(name) == [info]
        monkeypatch.setattr("micro_http.endpoints.ANSWER_LIMIT", 20_000)
        with pytest.raises(BackendUnavailable, match="over 20000 bytes"):
            await registry.get_service(name)


# -- watching --------------------------------------------------------------------------------


@in_loop
async def test_every_event_of_a_transaction_is_told(
    etcd: Any, name: str, record_property: Callable[[str, object], None]
) -> None:
    """R5: 50 keys in one transaction are one message of the watch."""
    numbers = range(50)
    puts = [
        {"request_put": {"key": b64(key_of(name, n)), "value": b64(json.dumps(record(name, n)))}}
        for n in numbers
    ]
    removal = {"key": b64(f"/micro/registry/{name}/"), "range_end": b64(f"/micro/registry/{name}0")}
    async with EtcdRegistry(etcd.address) as registry, following(registry, name) as change:
        assert await change() == []
        for action, operations in (
            ("create", puts),
            ("delete", [{"request_delete_range": removal}]),
        ):
            await etcd.ask("kv/txn", success=operations)
            events = [await change() for _ in numbers]
            assert {event.action for event in events} == {action}
            ids = {event.service.nodes[0].id for event in events}
            assert ids == {f"{name}-{n}" for n in numbers}
            print(f"\nR5 {action}: {len(ids)} events of a transaction of 50 keys", end="")
            record_property(f"R5 events, {action}", len(ids))


def record(name: str, number: int) -> Any:
    return {"name": name, "version": "1", "nodes": [{"id": f"{name}-{number}", "address": "h:1"}]}


@in_loop
async def test_changes_of_every_kind_are_told(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry, following(registry, name) as change:
        await registry.register(info_of(name))
        assert await change() == [info_of(name)]
        await registry.register(info_of(name, zone="b"))
        assert await change() == RegistryEvent("update", info_of(name, zone="b"))
        await etcd.put(key_of(name), json.dumps(record(name, 7)))  # another node at its key
        assert await change() == RegistryEvent("delete", info_of(name, zone="b"))
        assert (await change()).action == "update"
        await etcd.delete(key_of(name))
        gone = await change()
        assert (gone.action, gone.service.nodes[0].id) == ("delete", f"{name}-7")


@in_loop
async def test_nothing_between_the_list_and_the_watch_is_missed(etcd: Any, name: str) -> None:
    async with EtcdRegistry(etcd.address) as registry, following(registry, name) as change:
        assert await change() == []
        await registry.register(info_of(name))  # the driver has not asked for a watch yet
        await registry.deregister(info_of(name))
        assert await change() == RegistryEvent("create", info_of(name))
        assert await change() == RegistryEvent("delete", info_of(name))


@in_loop
async def test_a_compaction_ends_the_changes(etcd: Any, name: str) -> None:
    """Between the list and the watch only; a running watch does not mind."""
    async with EtcdRegistry(etcd.address) as registry, following(registry, name) as change:
        assert await change() == []
        await registry.register(info_of(name))
        await etcd.ask("kv/compaction", revision=await etcd.put(f"/other/{name}", ""))
        with pytest.raises(BackendUnavailable, match="compacted"):
            await change()
    async with registry, following(registry, name) as change:
        await change()
        await registry.register(info_of(name))
        await change()
        await etcd.ask("kv/compaction", revision=await etcd.put(f"/other/{name}", ""))
        await registry.register(info_of(name, zone="b"))
        assert (await change()).action == "update"
    await etcd.delete(f"/other/{name}")


@in_loop
async def test_a_watcher_cut_off_during_a_compaction_is_right_again(
    etcd: Any, name: str, record_property: Callable[[str, object], None]
) -> None:
    """R4: 500 changes that nobody can tell it of any more."""
    async with (
        ChaosProxy(etcd.address) as proxy,
        EtcdRegistry(proxy.address) as registry,
        EtcdRegistry(etcd.address) as writer,
    ):
        await writer.register(info_of(name, 1))
        async with registry.watch(name) as watcher:
            proxy.refuse()
            for number in range(2, 252):
                await writer.register(info_of(name, number))
                await writer.deregister(info_of(name, number - 1))
            await etcd.ask("kv/compaction", revision=await etcd.put(f"/other/{name}", ""))
            proxy.accept()
            begin = time.monotonic()
            async with asyncio.timeout(5):
                events = [await anext(watcher) for _ in range(2)]
            seconds = time.monotonic() - begin
            print(f"\nR4 right after a compaction: {seconds:.2f} s (limit {LONGEST} s)", end="")
            record_property("R4 right after a compaction", round(seconds, 3))
            assert seconds <= LONGEST
            assert {event.action for event in events} == {"create", "delete"}
            assert watcher.services == [info_of(name, 251)]
    await etcd.delete(f"/other/{name}")


@in_loop
async def test_a_frozen_server_ends_the_changes(
    etcd: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micro_registry_etcd.registry.QUIET", 0.2)
    async with ChaosProxy(etcd.address) as proxy:
        registry = EtcdRegistry(proxy.address)
        registry.operation_timeout = 1.0
        async with registry, following(registry, name) as change:
            assert await change() == []
            waiting = asyncio.create_task(change())
            await asyncio.sleep(1.0)
            assert not waiting.done()  # it asked meanwhile, and was answered
            proxy.freeze()
            with pytest.raises(BackendUnavailable, match="no answer"):
                await waiting


class Stranger:
    """A gateway of the test's own: ``answers`` by call, and a watch that says ``messages``."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.messages: list[Any] = [{"result": {"header": {"revision": "5"}, "created": True}}]
        self.watch_status = 200
        self.asked: list[tuple[str, Any]] = []

    async def __aenter__(self) -> Stranger:
        self._tasks: set[Any] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                call = head.split()[1].removeprefix("/v3/")
                self.asked.append((call, json.loads(await reader.readexactly(length))))
                self._reply(writer, call)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _reply(self, writer: asyncio.StreamWriter, call: str) -> None:
        if call == "watch":
            writer.write(b"HTTP/1.1 %d X\r\nConnection: close\r\n\r\n" % self.watch_status)
            for message in self.messages:
                writer.write(json.dumps(message).encode() + b"\n" * (self.watch_status == 200))
            if self.watch_status != 200:
                writer.close()
            return
        answer = self.answers.get(call.replace("/", "_"), {"header": {"revision": "5"}})
        status, body = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("when", ["as the watch is made", "later"])
@in_loop
async def test_a_revision_that_goes_back_ends_the_changes(
    when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What has lost its data would be silent for as many changes as it has lost."""
    monkeypatch.setattr("micro_registry_etcd.registry.QUIET", 0.1)
    async with Stranger() as server, EtcdRegistry(server.address) as registry:
        async with following(registry, "x") as change:
            assert await change() == []
            if when == "later":
                server.answers["kv_range"] = {"header": {"revision": "2"}}
            else:
                server.messages[0]["result"]["header"]["revision"] = "2"
            assert await change() is None
            assert "went from 5 back to 2" in caplog.text


@in_loop
async def test_a_watch_that_tells_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server lives and has a newer key, and the watch has not told of it."""
    monkeypatch.setattr("micro_registry_etcd.registry.QUIET", 0.1)
    async with Stranger() as server, EtcdRegistry(server.address) as registry:
        async with following(registry, "x") as change:
            assert await change() == []
            server.answers["kv_range"] = {"header": {"revision": "9"}, "kvs": [{"key": b64("k")}]}
            assert await change() is None
            assert "deaf" in caplog.text
            asked = [request for call, request in server.asked if call == "kv/range"]
            assert [each.get("min_mod_revision") for each in asked[-2:]] == ["6", "6"]


@in_loop
async def test_a_watch_without_the_right_is_refused() -> None:
    async with Stranger() as server, EtcdRegistry(server.address) as registry:
        denied = {"created": True, "canceled": True, "cancel_reason": "permission denied"}
        server.messages = [{"result": {"header": {"revision": "5"}, **denied}}]
        async with following(registry, "x") as change:
            assert await change() == []
            with pytest.raises(BackendRefused, match="permission denied"):
                await change()


@pytest.mark.parametrize("status", [200, 503])
@in_loop
async def test_an_error_of_a_watch_is_told(status: int) -> None:
    async with Stranger() as server, EtcdRegistry(server.address) as registry:
        server.watch_status = status
        said = {"message": "etcdserver: no leader"}
        inside = {"error": {"grpc_code": 14, **said}}  # as older versions have it in a watch
        server.messages = [inside if status == 200 else {"code": 14, **said}]
        async with following(registry, "x") as change:
            assert await change() == []
            with pytest.raises(BackendUnavailable, match="no leader"):
                await change()


@in_loop
async def test_answers_and_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stranger() as server, EtcdRegistry(server.address) as registry:
        monkeypatch.setattr("micro_http.endpoints.ANSWER_LIMIT", 1000)
        server.messages.append({"result": {"x": "x" * 100_000}})
        async with following(registry, "x") as change:
            assert await change() == []
            with pytest.raises(BackendUnavailable, match="over 1000 bytes"):
                await change()
        server.answers["kv_range"] = {"x": "x" * 2000}
        with pytest.raises(BackendUnavailable, match="over 1000 bytes"):
            await registry.get_service("x")


# -- members and errors ----------------------------------------------------------------------


@in_loop
async def test_the_next_member_is_asked(etcd: Any, name: str) -> None:
    async with ChaosProxy(etcd.address) as one, ChaosProxy(etcd.address) as two:
        registry = EtcdRegistry(one.address, two.address)
        registry.operation_timeout = 2.0
        async with registry, registry.watch(name) as watcher:
            for number, (away, back) in enumerate(((one, two), (two, one), (one, two)), 1):
                back.accept()
                away.refuse()
                await registry.register(info_of(name, number))
                async with asyncio.timeout(10):
                    assert (await anext(watcher)).service.nodes[0].id == f"{name}-{number}"
            one.accept()
            one.freeze()
            await registry.register(info_of(name, 4))
            tried = one.connections
            for _ in range(3):  # the one that answered is kept
                await registry.get_service(name)
            assert one.connections == tried
            two.refuse()
            one.refuse()
            with pytest.raises(BackendError) as caught:
                await registry.get_service(name)
            assert one.address in caught.value.address
            assert two.address in caught.value.address
            two.accept()
            await registry.deregister(ServiceInfo(name, "1", [Node(f"{name}-4", "")]))


@in_loop
async def test_a_connection_that_is_not_made_is_given_up_early() -> None:
    """The request did not leave, so that nothing was done."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        full = [socket.socket() for _ in range(4)]
        for filling in full:  # the queue of those that wait to be accepted
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        gateway = EtcdRegistry(f"127.0.0.1:{listener.getsockname()[1]}")._gateway
        gateway.open(60.0)
        try:
            with pytest.raises(BackendUnavailable, match="no connection within"):
                await gateway.ask("kv/put", {})
        finally:
            await gateway.close()
            for filling in full:
                filling.close()


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (8, "etcdserver: mvcc: database space exceeded", BackendRefused),
        (3, "etcdserver: request is too large", BackendRefused),
        (7, "etcdserver: permission denied", BackendRefused),
        (14, "etcdserver: request timed out", BackendError),
    ],
)
@in_loop
async def test_what_etcd_says_is_told(code: int, text: str, kind: type[BackendError]) -> None:
    said = json.dumps({"error": text, "message": text, "code": code}).encode()
    async with Stranger(lease_grant=(500, said)) as one, Stranger(lease_grant=(500, said)) as two:
        async with EtcdRegistry(one.address, two.address) as registry:
            with pytest.raises(kind, match=text) as caught:
                await registry.register(info_of("x"))
            assert caught.value.happened == ("maybe" if code == 14 else "no")
            asked = [call for server in (one, two) for call, _ in server.asked]
            assert asked.count("lease/grant") == (2 if code == 14 else 1)


@in_loop
async def test_a_server_without_the_gateway_is_named() -> None:
    strange = [b"<html>", b"[]", b"[1]", b"", b"null", b'{"error":"x"}', b'{"error":{"code":"x"}}']
    for answer in (
        (404, b"404 page not found\n"),
        (500, b"[1]"),
        *((200, text) for text in strange),
    ):
        async with Stranger(kv_range=answer) as server:
            with pytest.raises(BackendRefused, match="gateway enabled"):
                await EtcdRegistry(server.address).connect()


@pytest.mark.parametrize(
    "address",
    ["ftp://h:1", "http://u:p@h:1", "h:1/path", "h:x", "h:1?x=1", "[::1", "", "h..x", "h" * 70],
)
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(OptionError, match="give host") as caught:
        EtcdRegistry(address)
    assert "u:p" not in str(caught.value)


def test_user_and_password_go_together() -> None:
    for options in ({"user": "u"}, {"password": "p"}):
        with pytest.raises(OptionError, match="go together"):
            EtcdRegistry(**options)
