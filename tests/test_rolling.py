"""Nodes come and go under load, and no caller notices."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from pathlib import Path

import pytest
from nodes import Load, Nodes

from micro_core import Client, Registry
from micro_core.registry.local import LocalRegistry
from micro_registry_consul import ConsulRegistry

TTL = 3.0


@pytest.fixture(params=["local", "consul"])
def registry_address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "consul":
        return "consul", str(request.getfixturevalue("consul_address"))
    directory = tmp_path / "registry"
    directory.mkdir(mode=0o700)
    return "local", str(directory)


def make_registry(name: str, address: str) -> Registry:
    return ConsulRegistry(address) if name == "consul" else LocalRegistry(address)


def nodes_of(name: str, address: str, service: str) -> Nodes:
    flags = [f"--registry={name}", f"--registry_address={address}", f"--server_name={service}"]
    return Nodes(flags, {"MICRO_REGISTER_TTL": f"{TTL:g}"})


def test_a_rolling_restart_fails_no_call(
    registry_address: tuple[str, str], record_property: pytest.RecordProperty
) -> None:
    name = f"worker-{secrets.token_hex(4)}"

    async def body() -> None:
        async with (
            Client(registry=make_registry(*registry_address)) as client,
            nodes_of(*registry_address, name) as nodes,
        ):
            running = [await nodes.start() for _ in range(3)]
            first = [node.pid for node in running]
            async with Load(client, name, pause=0.002) as load:
                await load.reach(1000)
                for old in list(running):
                    new = await nodes.start()
                    assert await old.end() == 0, "".join(old.log)
                    running.append(new)
                await load.reach(10_000)
            used = set(load.answered)
            print(
                f"{registry_address[0]}: {load.calls} calls, {len(load.failed)} failed, "
                f"slowest {load.slowest * 1000:.0f} ms, nodes used {len(used)}"
            )
            record_property("calls", load.calls)
            assert not load.failed, load.failed[:5]
            assert load.calls >= 10_000
            assert used >= {*first, *(node.pid for node in running[3:])}

    asyncio.run(body())


async def gone(registry: Registry, service: str) -> float:
    """Seconds until no node of that service is left in the registry."""
    begin = time.monotonic()
    while await registry.get_service(service):
        await asyncio.sleep(0.02)
    return time.monotonic() - begin


def test_a_killed_node_is_gone_within_its_ttl(
    registry_address: tuple[str, str], record_property: pytest.RecordProperty
) -> None:
    name = f"victim-{secrets.token_hex(4)}"

    async def body() -> float:
        async with (
            make_registry(*registry_address) as registry,
            nodes_of(*registry_address, name) as nodes,
        ):
            node = await nodes.start()
            assert await registry.get_service(name)
            await node.end(signal.SIGKILL)
            async with asyncio.timeout(30.0):
                return await gone(registry, name)

    seconds = asyncio.run(body())
    print(f"{registry_address[0]}: gone {seconds:.2f} s after kill -9, TTL {TTL:g} s")
    record_property("seconds", seconds)
    assert seconds <= TTL + 1.0


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("round_", range(10))
def test_rolling_restarts_again_and_again(
    round_: int, registry_address: tuple[str, str], record_property: pytest.RecordProperty
) -> None:
    test_a_rolling_restart_fails_no_call(registry_address, record_property)
