"""Services and callers in processes of their own that find each other in etcd."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop
from nodes import Load, Nodes
from scripts import environment, finish

from micro_conformance.backend import Backend, ComposeBackend
from micro_core import Client
from micro_core.errors import BackendError
from micro_registry_etcd import EtcdRegistry

DEMO = Path(__file__).parents[3] / "examples" / "greeter" / "demo.py"
NODES = 3
TTL = 6.0
Property = Callable[[str, object], None]


@pytest.mark.parametrize(("name", "way"), [("etcdv3", "flags"), ("etcd", "variables")])
def test_the_greeter_runs_on_etcd(tmp_path: Path, etcd: Any, name: str, way: str) -> None:
    """Greeter, mailer and caller are three processes; only etcd tells them of each other."""
    flags = [f"--registry={name}", f"--registry_address={etcd.address}"]
    variables = {"MICRO_REGISTRY": name, "MICRO_REGISTRY_ADDRESS": etcd.address}
    chosen = environment(tmp_path, **(variables if way == "variables" else {}))
    command = [sys.executable, DEMO, *(flags if way == "flags" else [])]
    result = finish(command, chosen, tmp_path).ended_well()
    assert result.err == ""
    assert "caller   called Say.Hello: Hello John" in result.out
    assert "caller   streamed Say.Count: [1, 2, 3]" in result.out
    assert len(re.findall("mailer   received the event: Hello John\n", result.out)) == 1
    started = re.findall(rf"started as .*: registry {name} \(micro-registry-etcd ", result.out)
    assert len(started) == 2, result.out
    assert "All of it worked." in result.out


def nodes_at(address: str, service: str, ttl: float) -> Nodes:
    flags = ["--registry=etcdv3", f"--registry_address={address}", f"--server_name={service}"]
    return Nodes(flags, {"MICRO_REGISTER_TTL": f"{ttl:g}"})


@pytest.mark.parametrize("calls", [2000, pytest.param(10_000, marks=pytest.mark.full)])
@in_loop
async def test_a_rolling_restart_fails_no_call(
    etcd: Any, calls: int, record_property: Property
) -> None:
    """R10: three nodes are replaced one after the other."""
    name = f"worker-{secrets.token_hex(4)}"
    async with (
        Client(registry=EtcdRegistry(etcd.address)) as client,
        nodes_at(etcd.address, name, 3.0) as nodes,
    ):
        running = [await nodes.start() for _ in range(NODES)]
        async with Load(client, name, pause=0.002) as load:
            await load.reach(calls // 10)
            for old in list(running):
                running.append(await nodes.start())
                assert await old.end() == 0, "".join(old.log)
            await load.reach(calls)
    print(f"\nR10 rolling restart: {load.calls} calls, {len(load.failed)} failed", end="")
    record_property("R10 failed calls", len(load.failed))
    assert not load.failed, load.failed[:5]
    assert set(load.answered) == {node.pid for node in running}


# -- outages under load ----------------------------------------------------------------------


async def killed(server: Backend) -> None:
    await server.kill()
    await asyncio.sleep(3.0)  # the length of the outage, not a wait for something
    await server.start()


async def away_beyond_the_ttl(server: Backend) -> None:
    await server.stop()
    await asyncio.sleep(TTL + 1.0)
    await server.start()


async def wiped(server: Backend) -> None:
    await server.wipe()


class Look:
    """Asks etcd without the driver, again and again.

    back: when it answered after an outage. absent: the longest time in which it did answer, and
    did not have all nodes.
    """

    def __init__(self, etcd: Any, service: str) -> None:
        self._etcd, self._service = etcd, service
        self.back, self.absent = 0.0, 0.0

    async def __aenter__(self) -> Look:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        complete, away = time.monotonic(), False
        while True:
            try:
                found = await self._etcd.below(f"/micro/registry/{self._service}/")
            except OSError:
                away = True
            else:
                now = time.monotonic()
                if away:
                    self.back, away = now, False
                if len(found) == NODES or now == self.back:
                    complete = now
                self.absent = max(self.absent, now - complete)
            await asyncio.sleep(0.02)


async def moment(condition: Callable[[], Awaitable[bool]], limit: float = 60.0) -> float:
    async with asyncio.timeout(limit):
        while True:
            try:
                if await condition():
                    return time.monotonic()
            except BackendError:
                pass
            await asyncio.sleep(0.02)


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("fault", "check"), [(killed, "R1"), (away_beyond_the_ttl, "R1"), (wiped, "R2")]
)
@in_loop
async def test_calls_go_on_while_etcd_does_not(
    compose_files: list[str],
    etcd_at: Callable[[str], Any],
    fault: Callable[[Backend], Awaitable[None]],
    check: str,
    record_property: Property,
) -> None:
    """R1 and R2: no call fails, and nodes are listed and watched again in time."""

    async def ready(address: str) -> None:
        async with EtcdRegistry(address):
            pass

    async with ComposeBackend("etcd", 2379, files=compose_files, ready=ready) as server:
        look = Look(etcd_at(server.address), "outage")
        registry = EtcdRegistry(server.address)
        async with (
            Client(registry=registry) as client,
            nodes_at(server.address, "outage", TTL) as nodes,
        ):
            for _ in range(NODES):
                await nodes.start()
            async with (
                look,
                registry.watch("outage") as watcher,
                Load(client, "outage", callers=4, pause=0.02) as load,
            ):
                await load.reach(100)
                before = load.calls
                faulty = asyncio.create_task(fault(server))

                async def agrees() -> bool:
                    listed = await registry.get_service("outage")
                    whole = len(watcher.nodes) == NODES and watcher.services == listed
                    return look.back > 0 and whole and not watcher.doubtful

                watched = await moment(agrees) - look.back
                calls = load.calls - before
                await faulty
                await load.reach(load.calls + 200)
    print(
        f"\n{check} {fault.__name__}: absent {look.absent:.2f} s (limit {TTL / 3 + 2:g} s), "
        f"watchers agree after {watched:.2f} s (limit 10 s), "
        f"{calls} calls meanwhile, {len(load.failed)} failed",
        end="",
    )
    for figure, value in (("absent", look.absent), ("watched", watched)):
        record_property(f"{check} {fault.__name__} {figure}", round(value, 3))
    assert look.absent <= TTL / 3 + 2
    assert watched <= 10
    assert not load.failed, load.failed[:5]
