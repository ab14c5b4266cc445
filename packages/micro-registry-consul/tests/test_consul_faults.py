"""Outages; each test prints what it measured, in seconds. Those of the server have their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from micro_core.errors import BackendError
from micro_core.registry.records import Node, RegistryEvent, ServiceInfo
from micro_core.registry.watcher import Watcher
from micro_registry_consul import ConsulRegistry

TTL = 3.0
Record = Callable[[str, float, float], None]


@pytest.fixture(scope="module")
def backend(compose_files: list[str]) -> Iterator[Any]:
    compose = pytest.importorskip("micro_conformance.backend").ComposeBackend

    async def ready(address: str) -> None:
        async with aiohttp.ClientSession() as session:
            await leader(session, address)

    server = compose("consul", 8500, files=compose_files, ready=ready)
    asyncio.run(server.__aenter__())
    yield server
    asyncio.run(server.__aexit__(None, None, None))


async def leader(session: aiohttp.ClientSession, address: str) -> None:
    async with session.get(f"http://{address}/v1/status/leader") as response:
        assert response.status == 200
        assert await response.json(), "no leader yet"


async def moment(condition: Callable[[], Awaitable[Any]], limit: float = 40.0) -> float:
    """When the condition came true; errors mean that it has not yet."""
    async with asyncio.timeout(limit):
        while True:
            try:
                async with asyncio.timeout(1.0):
                    if await condition():
                        return time.monotonic()
            except (TimeoutError, aiohttp.ClientError, BackendError, AssertionError):
                pass
            await asyncio.sleep(0.03)


class Scene:
    """A service that is kept by one registry and watched by another, and a look from outside."""

    def __init__(self, address: str, ttl: float = TTL) -> None:
        self.address = address
        self.keeper, self.reader = ConsulRegistry(address), ConsulRegistry(address)
        name = f"py.{secrets.token_hex(4)}"
        self.info = ServiceInfo(name, "1.0.0", [Node(f"{name}-1", "10.0.0.1:9000", {"a": "b"})])
        self.watcher: Watcher = self.reader.watch(name)
        self.keep = self.keeper.keep(self.info, ttl=ttl)
        self.events: list[RegistryEvent] = []
        self.listed: list[list[ServiceInfo]] = []

    async def __aenter__(self) -> Scene:
        self.session = aiohttp.ClientSession()
        await self.keeper.connect()
        await self.reader.connect()
        await self.keep.__aenter__()
        await self.watcher.__aenter__()
        self._task = asyncio.create_task(self._read())
        assert self.watcher.services == [self.info]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.watcher.close()
        await self._task
        await self.keep.close()
        await self.keeper.close()
        await self.reader.close()
        await self.session.close()

    async def _read(self) -> None:
        async for event in self.watcher:
            self.events.append(event)

    @property
    def actions(self) -> list[str]:
        return [event.action for event in self.events]

    async def answers(self) -> bool:
        await leader(self.session, self.address)
        return True

    async def passing(self) -> list[Any]:
        url = f"http://{self.address}/v1/health/service/{self.info.name}?passing=1"
        async with self.session.get(url) as response:
            found = await response.json()
            return list(found) if response.status == 200 else []

    async def lists(self) -> None:
        """Ask for the service again and again."""
        while True:
            with contextlib.suppress(BackendError):
                self.listed.append(await self.reader.get_service(self.info.name))
            await asyncio.sleep(0.01)

    async def kept_since(self, begin: float) -> bool:
        """Visible, by a heartbeat and not by what the server remembers."""
        return (self.keep.last_ok or 0.0) > begin and bool(await self.passing())

    async def agrees(self) -> bool:
        """The watcher's view is what a fresh list says, and its events add up to it."""
        listed = await self.reader.get_service(self.info.name)
        nodes = {node.id for info in listed for node in info.nodes}
        seen = {self.info.nodes[0].id}
        for event in self.events:
            ids = {node.id for node in event.service.nodes}
            seen = seen - ids if event.action == "delete" else seen | ids
        return self.watcher.services == listed and seen == nodes

    async def reader_has_it(self) -> bool:
        return await self.reader.get_service(self.info.name) == [self.info]

    async def put(self, path: str) -> None:
        async with self.session.put(f"http://{self.address}{path}") as response:
            assert response.status == 200

    async def still_works(self) -> None:
        """Changes are seen at once, the last deletion included."""
        second = self.info.with_nodes([Node(f"{self.info.name}-2", "10.0.0.2:9000")])
        await self.keeper.register(second)
        await moment(self.agrees, 2.0)
        await self.keeper.deregister(second)
        await self.keep.close()
        await moment(self.agrees, 2.0)
        assert self.watcher.services == []
        assert self.actions[-1] == "delete"


def test_restart_with_its_data(backend: Any, record: Record) -> None:
    """R1: what did not expire meanwhile is never missing from a list or to a watcher.

    A server that reads its log back gives empty lists to those who do not ask it to be sure.
    """

    async def body() -> None:
        async with Scene(backend.address) as brief, Scene(backend.address, ttl=60.0) as long:
            await asyncio.gather(*(long.put(f"/v1/kv/{n}") for n in range(1000)))
            lists = [asyncio.create_task(long.lists()) for _ in range(20)]
            await backend.kill()
            await asyncio.gather(
                backend.start(), back := asyncio.ensure_future(moment(long.answers))
            )
            visible = await moment(lambda: brief.kept_since(back.result()))
            record("R1 kept again after a restart, s", visible - back.result(), TTL / 3 + 2)
            await moment(lambda: settled(brief, long), 10.0)
            record("R1 watcher agrees after, s", time.monotonic() - back.result(), 10.0)
            for task in lists:
                task.cancel()
            await asyncio.wait(lists)
            assert long.listed
            assert [found for found in long.listed if found != [long.info]] == []
            assert long.events == []
            await brief.still_works()
            await long.still_works()

    asyncio.run(body())


async def settled(*scenes: Scene) -> bool:
    return all([await scene.agrees() and not scene.watcher.doubtful for scene in scenes])


def test_loss_of_its_data(backend: Any, record: Record) -> None:
    """R2: registered again without anybody's help; a watcher is not deaf to the new index."""

    async def body() -> None:
        async with Scene(backend.address) as scene:
            for n in range(30):  # so that the index is far ahead of what the new server has
                await scene.put(f"/v1/kv/{n}")
            down = asyncio.ensure_future(moment(lambda: is_down(scene)))
            wiped = asyncio.ensure_future(backend.wipe())
            await down
            back = await moment(scene.answers)
            visible = await moment(scene.passing)
            record("R2 visible after loss of data, s", visible - back, TTL / 3 + 2)
            await moment(lambda: settled(scene), 10.0)
            record("R2 watcher agrees after, s", time.monotonic() - back, 10.0)
            await wiped
            await scene.still_works()

    asyncio.run(body())


async def is_down(scene: Scene) -> bool:
    try:
        await scene.answers()
    except aiohttp.ClientError:
        return True
    return False


@pytest.mark.parametrize(
    "path", ["/v1/agent/check/deregister/service:{}", "/v1/agent/service/deregister/{}"]
)
def test_removed_by_hand(backend: Any, record: Record, path: str) -> None:
    """R3: back with the next heartbeat; without its check, a node would never expire again."""

    async def body() -> None:
        async with Scene(backend.address) as scene:
            id = scene.info.nodes[0].id

            async def is_checked() -> bool:
                checks = [c["CheckID"] for entry in await scene.passing() for c in entry["Checks"]]
                return f"service:{id}" in checks

            await scene.put(path.format(id))
            removed = time.monotonic()
            await moment(lambda: negated(is_checked), 2.0)
            record("R3 back after removal, s", await moment(is_checked) - removed, TTL / 3 + 1)
            await moment(scene.agrees, 5.0)
            await scene.still_works()

    asyncio.run(body())


async def negated(condition: Callable[[], Awaitable[bool]]) -> bool:
    return not await condition()


def test_a_machine_that_fails_its_check(backend: Any) -> None:
    """Its nodes are in no list, and neither are the names that only they have."""

    async def body() -> None:
        async with Scene(backend.address) as scene:
            assert {"consul", scene.info.name} <= set(await scene.reader.list_services())
            url = f"http://{backend.address}/v1/agent/check/register"
            check = {"Name": "disk", "ID": "disk", "TTL": "10m"}
            async with scene.session.put(url, json=check) as response:
                assert response.status == 200
            try:
                await moment(lambda: negated(scene.reader_has_it))
                assert await scene.reader.list_services() == []
                await moment(scene.agrees, 5.0)
                assert scene.actions == ["delete"]
            finally:
                await scene.put("/v1/agent/check/deregister/disk")
            await moment(scene.reader_has_it)
            await moment(scene.agrees, 5.0)
            await scene.still_works()

    asyncio.run(body())


def test_frozen_agent(backend: Any, record: Record) -> None:
    """A frozen agent keeps its connections open: only our own deadlines notice."""

    async def body() -> None:
        async with Scene(backend.address) as scene:
            await backend.pause()
            try:
                frozen = time.monotonic()
                await moment(lambda: is_noted(scene))
                record("frozen agent noticed by the heartbeat, s", time.monotonic() - frozen, TTL)
                begin = time.monotonic()
                with pytest.raises(BackendError, match="no answer within"):
                    await scene.reader.get_service(scene.info.name)
                record("frozen agent ends a read, s", time.monotonic() - begin, 5.5)
            finally:
                await backend.resume()
            resumed = time.monotonic()
            visible = await moment(lambda: scene.kept_since(resumed))
            record("kept again after a freeze, s", visible - resumed, TTL / 3 + 2)
            await moment(lambda: settled(scene), 10.0)
            record("watcher agrees after a freeze, s", time.monotonic() - resumed, 10.0)
            await scene.still_works()

    asyncio.run(body())


async def is_noted(scene: Scene) -> bool:
    return scene.keep.last_error is not None


def test_closing_while_the_agent_is_frozen(backend: Any, record: Record) -> None:
    async def body() -> None:
        async with Scene(backend.address) as scene:
            await backend.pause()
            try:
                begin = time.monotonic()
                await scene.watcher.close()
                await scene.keep.close()
                await scene.keeper.close()
                await scene.reader.close()
                record("close with a frozen agent, s", time.monotonic() - begin, 5.0 + 5.0 + 1.0)
                await scene.keeper.close()
            finally:
                await backend.resume()
            await moment(scene.answers)

    asyncio.run(body())


SERVICE = """
import asyncio, sys
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_consul import ConsulRegistry

async def main(address, name, ttl):
    info = ServiceInfo(name, "1.0.0", [Node(name + "-1", "10.0.0.1:9000")])
    async with ConsulRegistry(address) as registry, registry.keep(info, ttl=float(ttl)):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def test_killed_and_frozen_services(consul_address: str, record: Record) -> None:
    """R8 and R6: a service that is killed is gone for good, one that is stopped comes back."""

    async def body() -> None:
        name = f"py.{secrets.token_hex(4)}"
        command = [sys.executable, "-c", SERVICE, consul_address, name, str(TTL)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(20):
                assert await process.stdout.readline() == b"up\n"
            async with (
                ConsulRegistry(consul_address) as registry,
                registry.watch(name) as watcher,
            ):
                for signal_number, check in ((signal.SIGSTOP, "R6"), (signal.SIGKILL, "R8")):
                    os.kill(process.pid, signal_number)
                    begin = time.monotonic()
                    async with asyncio.timeout(TTL + 5):
                        assert (await anext(watcher)).action == "delete"
                    record(f"{check} gone after, s", time.monotonic() - begin, TTL + 1)
                    assert await registry.get_service(name) == []
                    assert name not in await registry.list_services()
                    if signal_number == signal.SIGSTOP:
                        os.kill(process.pid, signal.SIGCONT)
                        begin = time.monotonic()
                        async with asyncio.timeout(10):
                            assert (await anext(watcher)).action == "create"
                        record("R6 back after, s", time.monotonic() - begin, 2.0)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    asyncio.run(body())
