"""Consul goes away and comes back, with its data and without, and no call fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable

import pytest
from nodes import Load, Nodes

from micro_conformance import Backend, ComposeBackend
from micro_core import Client
from micro_registry_consul import ConsulRegistry

TTL = 6.0
LIMIT = TTL / 3 + 2.0
NODES = 3


def passing(address: str) -> int:
    """How many nodes Consul gives, asked without the driver."""
    url = f"http://{address}/v1/health/service/outage?passing=1"
    with urllib.request.urlopen(url, timeout=2) as answer:
        return len(json.load(answer))


async def ready(address: str) -> None:
    def ask() -> None:
        with urllib.request.urlopen(f"http://{address}/v1/status/leader", timeout=2) as answer:
            if answer.read().strip() in (b"", b'""'):
                raise OSError("no leader yet")

    await asyncio.to_thread(ask)


async def seconds_until_visible(address: str) -> float:
    begin = time.monotonic()
    while await asyncio.to_thread(passing, address) < NODES:
        await asyncio.sleep(0.05)
    return time.monotonic() - begin


Fault = Callable[[Backend], Awaitable[None]]


async def killed(server: Backend) -> None:
    await server.kill()
    await asyncio.sleep(1.0)  # the length of the outage, not a wait for something
    await server.start()


async def stopped_beyond_the_ttl(server: Backend) -> None:
    await server.stop()
    await asyncio.sleep(TTL + 1.0)
    await server.start()


async def wiped(server: Backend) -> None:
    await server.wipe()


@pytest.mark.timeout(300)
def test_calls_go_on_while_consul_does_not(
    compose_files: list[str], record_property: pytest.RecordProperty
) -> None:
    async def body() -> None:
        async with ComposeBackend("consul", 8500, files=compose_files, ready=ready) as server:
            flags = [
                "--registry=consul",
                f"--registry_address={server.address}",
                "--server_name=outage",
            ]
            async with (
                Client(registry=ConsulRegistry(server.address)) as client,
                Nodes(flags, {"MICRO_REGISTER_TTL": f"{TTL:g}"}) as nodes,
            ):
                for _ in range(NODES):
                    await nodes.start()
                async with Load(client, "outage", callers=8, pause=0.005) as load:
                    await load.reach(100)
                    for fault in (killed, stopped_beyond_the_ttl, wiped):
                        before = load.calls
                        await fault(server)
                        seconds = await seconds_until_visible(server.address)
                        print(
                            f"consul {fault.__name__}: visible after {seconds:.2f} s "
                            f"(limit {LIMIT:g}), {load.calls - before} calls meanwhile, "
                            f"{len(load.failed)} failed"
                        )
                        record_property(fault.__name__, seconds)
                        assert seconds <= LIMIT
                        await load.reach(load.calls + 100)
                    await load.reach(load.calls + 1000)
                assert not load.failed, load.failed[:5]
                assert len(load.answered) == NODES

    asyncio.run(body())
