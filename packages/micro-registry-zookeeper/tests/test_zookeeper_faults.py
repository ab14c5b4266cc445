"""Services that die, freeze and hang, and a server that loses what it had."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from micro_conformance.backend import ComposeBackend
from micro_core.errors import BackendError
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_zookeeper import ZooKeeperRegistry

SESSION, TICK = 4.0, 2.0  # sessions end at a tick of the server
GONE = SESSION + TICK + 0.5  # and are seen a moment later
TTL = 4.0
Record = Callable[[str, float, float], None]


@pytest.fixture(scope="module")
def backend(compose_files: list[str]) -> Iterator[Any]:
    async def ready(address: str) -> None:
        async with ZooKeeperRegistry(address):
            pass

    server = ComposeBackend("zookeeper", 2181, files=compose_files, ready=ready)
    asyncio.run(server.__aenter__())
    yield server
    asyncio.run(server.__aexit__(None, None, None))


def some_service() -> ServiceInfo:
    name = f"py.{secrets.token_hex(4)}"
    return ServiceInfo(name, "1.0.0", [Node(f"{name}-1", "10.0.0.1:9000")])


def clock() -> float:
    return asyncio.get_running_loop().time()


async def moment(condition: Callable[[], Awaitable[object]], limit: float = 60.0) -> float:
    """When the condition came true; an error of the registry means that it has not yet."""
    async with asyncio.timeout(limit):
        while True:
            try:
                if await condition():
                    return clock()
            except BackendError:
                pass
            await asyncio.sleep(0.03)


# -- the server --------------------------------------------------------------------------------


@pytest.mark.full
def test_loss_of_data_between_two_heartbeats(backend: Any, record: Record) -> None:
    """A client that has seen more than the server is refused for ever: it is replaced."""

    async def body() -> None:
        session, info = 10.0, some_service()
        async with (
            ZooKeeperRegistry(backend.address, session_timeout=session) as ours,
            ours.keep(info, ttl=12),
            ours.watch(info.name) as watcher,
        ):
            first = ours.native
            other = some_service()
            for number in range(500):  # transactions that the new server has not seen
                await ours.register(other.with_nodes([Node("x", f"h:{number}")]), ttl=60)
            await backend.wipe()
            back = clock()
            assert ours.native is first, "the outage was too long to show anything"

            async with ZooKeeperRegistry(backend.address) as fresh:

                async def visible() -> bool:
                    return await fresh.get_service(info.name) == [info]

                record("visible after a loss of data, s", await moment(visible) - back, 2 * session)
            assert ours.native is not first

            async def agrees() -> bool:
                return not watcher.doubtful and watcher.services == [info]

            record("watcher agrees, s", await moment(agrees) - back, 2 * session + 2)

    asyncio.run(body())


def test_restart_with_its_data(backend: Any, record: Record) -> None:
    """The session outlives it: the node is never missing, and stays the same."""

    async def body() -> None:
        info = some_service()
        async with (
            ZooKeeperRegistry(backend.address, session_timeout=20) as ours,
            ours.keep(info, ttl=3),
            ZooKeeperRegistry(backend.address, session_timeout=20) as reader,
            reader.watch(info.name) as watcher,
        ):
            session, before = ours.native.client_id, await ours.get_nodes(info.name)
            await backend.kill()
            await backend.start()
            back = clock()

            async def agrees() -> bool:
                assert watcher.services == [info]
                return not watcher.doubtful and await reader.get_nodes(info.name) == before

            async def ours_too() -> bool:
                return await ours.get_nodes(info.name) == before

            record("watcher agrees after a restart, s", await moment(agrees) - back, 10.0)
            await moment(ours_too)
            assert ours.native.client_id == session
            await ours.deregister(info)
            async with asyncio.timeout(5):
                assert (await anext(watcher)).action == "delete"

    asyncio.run(body())


# -- the service -------------------------------------------------------------------------------

SERVICE = """
import asyncio, sys, time
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_zookeeper import ZooKeeperRegistry

async def main(address, name, ttl, session, hang):
    info = ServiceInfo(name, "1.0.0", [Node(name + "-1", "10.0.0.1:9000")])
    registry = ZooKeeperRegistry(address, session_timeout=float(session))
    async with registry, registry.keep(info, ttl=float(ttl)):
        print("up", flush=True)
        await asyncio.sleep(0.5)
        time.sleep(float(hang))
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Service:
    """A service in a process of its own."""

    def __init__(self, address: str, name: str, *, hang: float = 0.0) -> None:
        arguments = [address, name, TTL, SESSION, hang]
        self._command = [sys.executable, "-c", SERVICE, *map(str, arguments)]

    async def __aenter__(self) -> Service:
        create = asyncio.create_subprocess_exec
        self._process = await create(*self._command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            assert await self._process.stdout.readline() == b"up\n"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def signal(self, number: int) -> float:
        os.kill(self._process.pid, number)
        return clock()


def test_killed_and_frozen_services(server_address: Callable[[str], str], record: Record) -> None:
    """R8 and R6: one that is killed is gone for good, one that is stopped comes back."""

    async def body() -> None:
        address, name = server_address("zookeeper"), some_service().name
        async with (
            Service(address, name) as service,
            ZooKeeperRegistry(address) as registry,
            registry.watch(name) as watcher,
            asyncio.timeout(60),
        ):
            begin = service.signal(signal.SIGSTOP)
            assert (await anext(watcher)).action == "delete"
            record("R6 gone after, s", clock() - begin, GONE)
            assert name not in await registry.list_services()
            await asyncio.sleep(begin + 2 * TTL - clock())
            begin = service.signal(signal.SIGCONT)
            assert (await anext(watcher)).action == "create"
            record("R6 back after, s", clock() - begin, 2.0)
            begin = service.signal(signal.SIGKILL)
            assert (await anext(watcher)).action == "delete"
            record("R8 gone after, s", clock() - begin, GONE)

    asyncio.run(body())


@pytest.mark.full
def test_a_service_whose_loop_hangs_vanishes(
    server_address: Callable[[str], str], record: Record
) -> None:
    """kazoo's own thread would keep its session alive for ever."""

    async def body() -> None:
        address, name = server_address("zookeeper"), some_service().name
        async with (
            Service(address, name, hang=20) as service,
            ZooKeeperRegistry(address) as registry,
            registry.watch(name) as watcher,
            asyncio.timeout(60),
        ):
            begin = service.signal(signal.SIGCONT)
            assert (await anext(watcher)).action == "delete"
            record("gone after it hung, s", clock() - begin, 0.5 + TTL + 1 + GONE)
            assert (await anext(watcher)).action == "create"
            record("back after it hung, s", clock() - begin, 0.5 + 20 + 3)

    asyncio.run(body())
