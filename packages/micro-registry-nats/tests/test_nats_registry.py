"""What only this registry has: services answer, watches keep the TTL, Go's messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats as native
import pytest
from in_loops import in_loop, until
from nats.aio.client import Client

from micro_conformance.proxy import ChaosProxy
from micro_core import BackendError, OptionError
from micro_core.registry.records import Endpoint, Node, ServiceInfo, Value
from micro_registry_nats import NatsRegistry

QUERY, WATCH = "micro.registry.nats.query", "micro.registry.nats.watch"


@pytest.fixture
def nats(server_address: Any) -> str:
    return str(server_address("nats"))


@asynccontextmanager
async def raw(nats: str) -> AsyncIterator[Client]:
    client = await native.connect(nats)
    try:
        yield client
    finally:
        await client.close()


def fresh(version: str = "1.0.0") -> ServiceInfo:
    name = f"py.{secrets.token_hex(4)}"
    hello = Endpoint("Say.Hello", Value("Req", "Req", [Value("name", "string")]), Value("R", "R"))
    return ServiceInfo(name, version, [Node(f"{name}-1", "h:1", {"a": "b"})], [hello], {"c": "d"})


def go_record(info: ServiceInfo, **other: Any) -> dict[str, Any]:
    """A record as Go writes it."""
    nodes = [{"id": n.id, "address": n.address, "metadata": dict(n.metadata)} for n in info.nodes]
    record = {"name": info.name, "version": info.version, "metadata": None, "endpoints": None}
    return {**record, "nodes": nodes, **other}


async def asked(client: Client, question: object, wait: float = 0.2) -> list[dict[str, Any]]:
    """What is answered to a question as Go asks it."""
    found: list[dict[str, Any]] = []

    async def take(message: Any) -> None:
        if message.data:
            found.append(json.loads(message.data))

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    await client.publish(QUERY, json.dumps(question).encode(), reply=inbox)
    await client.flush()
    await asyncio.sleep(wait)
    await subscription.unsubscribe()
    return found


def question(name: str) -> dict[str, Any]:
    empty = {"version": "", "metadata": None, "endpoints": None, "nodes": None}
    return {"Action": "get", "Service": {"name": name, **empty}}


@in_loop
async def test_go_is_answered_and_not_after_deregister(nats: str) -> None:
    info = fresh()
    async with NatsRegistry(nats) as registry, raw(nats) as client:
        await registry.register(info)
        (record,) = await asked(client, question(info.name))
        assert record.pop("ttl") == pytest.approx(30, abs=2)
        assert record == {
            "name": info.name,
            "version": "1.0.0",
            "metadata": {"c": "d"},
            "endpoints": [
                {
                    "name": "Say.Hello",
                    "request": {
                        "name": "Req",
                        "type": "Req",
                        "values": [{"name": "name", "type": "string", "values": None}],
                    },
                    "response": {"name": "R", "type": "R", "values": None},
                    "metadata": None,
                }
            ],
            "nodes": [{"id": info.nodes[0].id, "address": "h:1", "metadata": {"a": "b"}}],
        }
        listed = await asked(client, {"Action": "list", "Service": None})
        assert info.name in [record["name"] for record in listed]
        await registry.deregister(info)
        assert await asked(client, question(info.name)) == []


@in_loop
async def test_what_is_broadcast_is_what_go_reads(nats: str) -> None:
    heard: list[dict[str, Any]] = []
    info = fresh()

    async def take(message: Any) -> None:
        heard.append(json.loads(message.data))

    def own() -> list[dict[str, Any]]:
        return [event for event in heard if event["Service"]["name"] == info.name]

    async with NatsRegistry(nats) as registry, raw(nats) as client:
        await client.subscribe(WATCH, cb=take)
        await client.flush()
        await registry.register(info)
        await registry.deregister(info)
        with contextlib.suppress(TimeoutError):
            await until(lambda: len(own()) == 2)
    assert len(own()) == 2, heard
    one, two = own()
    assert (one["Action"], two["Action"]) == ("create", "delete")
    assert one["Service"]["nodes"] == two["Service"]["nodes"]
    assert two["Service"]["endpoints"] is None


@in_loop
async def test_go_services_are_found_and_watched(nats: str) -> None:
    info, tried = fresh(), fresh()
    async with NatsRegistry(nats, foreign_ttl=3.0) as registry, raw(nats) as client:

        async def answer(message: Any) -> None:
            named = json.loads(message.data)["Service"]
            if named and named["name"] == info.name:
                await client.publish(message.reply, json.dumps(go_record(info)).encode())
                await client.publish(message.reply, b"{")  # is passed over
                await client.publish(message.reply, json.dumps(go_record(tried)).encode())

        subscription = await client.subscribe(QUERY, cb=answer)
        await client.flush()
        found = await registry.get_service(info.name)
        assert found == [ServiceInfo(info.name, "1.0.0", info.nodes)]
        async with registry.watch(info.name) as watcher:
            await asyncio.sleep(1.0)  # or its first lists would lack what no longer answers
            await subscription.unsubscribe()
            second = ServiceInfo(info.name, "1.0.0", [Node("second", "h:2")])
            data = json.dumps({"Action": "create", "Service": go_record(second)}).encode()
            await client.publish(WATCH, b"\xff")
            await client.publish(WATCH, data)
            event = await anext(watcher)
            assert (event.action, event.service.nodes) == ("create", second.nodes)
            gone = {(await anext(watcher)).service.nodes[0].id for _ in range(2)}
            assert gone == {info.nodes[0].id, "second"}  # not heard of for foreign_ttl
            assert watcher.nodes == {}


@in_loop
async def test_who_does_not_answer_stays_in_a_watch_for_its_ttl(nats: str) -> None:
    """A process that is busy for longer than answers are waited for keeps its callers."""
    info, begin = fresh(), asyncio.get_running_loop().time()
    async with NatsRegistry(nats) as reader, NatsRegistry(nats) as other, raw(nats) as client:
        async with reader.watch(info.name) as watcher:
            record = go_record(info)
            create = {"Action": "create", "Service": record, "ttl": 3.0}
            await client.publish(WATCH, json.dumps(create).encode())
            await until(lambda: len(watcher.nodes) == 1)
            await until(lambda: watcher.age < asyncio.get_running_loop().time() - begin)
            assert await reader.get_service(info.name) == [
                ServiceInfo(info.name, "1.0.0", info.nodes)
            ]
            assert await other.get_service(info.name) == []  # which has not heard of it
            await until(lambda: not watcher.nodes)
            assert asyncio.get_running_loop().time() - begin > 2.9
            assert await reader.get_service(info.name) == []


@in_loop
async def test_nobody_to_answer_is_known_at_once(nats: str) -> None:
    options = {"wait": 4.0, "query_topic": f"query.{secrets.token_hex(4)}"}
    async with NatsRegistry(nats, **options) as reader, NatsRegistry(nats, **options) as other:
        begin = asyncio.get_running_loop().time()
        assert await reader.get_service("x") == []
        assert await reader.list_services() == []
        assert asyncio.get_running_loop().time() - begin < 2
        await other.register(fresh())
        task = asyncio.create_task(reader.get_service("x"))
        await asyncio.sleep(1)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


@in_loop
async def test_after_a_reconnect_it_answers_again_by_itself(nats: str) -> None:
    info = fresh()
    async with ChaosProxy(nats) as proxy, NatsRegistry(proxy.address) as registry:
        async with NatsRegistry(nats) as reader, reader.watch(info.name) as watcher:
            await registry.register(info)
            await until(lambda: len(watcher.nodes) == 1)
            proxy.reset()
            await until(lambda: registry.health().state == "lost")
            await until(lambda: registry.health().state == "connected")
            assert await reader.get_service(info.name) == [info]
            assert len(watcher.nodes) == 1


@in_loop
async def test_a_watch_follows_over_a_lost_connection(nats: str) -> None:
    info = fresh()
    async with ChaosProxy(nats) as proxy, NatsRegistry(proxy.address) as reader:
        async with NatsRegistry(nats) as registry, reader.watch(info.name) as watcher:
            await registry.register(info)
            await until(lambda: len(watcher.nodes) == 1)
            proxy.reset()
            await registry.deregister(info)
            await until(lambda: len(watcher.nodes) == 0)


@in_loop
async def test_a_frozen_server_is_an_error_and_not_an_empty_list(nats: str) -> None:
    async with ChaosProxy(nats) as proxy:
        async with NatsRegistry(proxy.address, ping_interval=0.3) as reader:
            proxy.freeze()
            with pytest.raises(BackendError):
                await reader.get_service("x")
            proxy.thaw()


def test_a_wait_out_of_bounds_is_refused() -> None:
    for wait in (0.0, -1.0, 5.0):
        with pytest.raises(OptionError, match="wait"):
            NatsRegistry(wait=wait)
