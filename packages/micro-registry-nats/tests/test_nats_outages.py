"""Services that die and freeze, a server that goes away; each test prints what it measured."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from in_loops import in_loop, until
from nodes import Load, Nodes

from micro_conformance.backend import ComposeBackend
from micro_conformance.proxy import ChaosProxy
from micro_core import BackendError, Client
from micro_core.registry.keeper import Keeper
from micro_core.registry.records import Node, ServiceInfo
from micro_core.registry.watcher import Watcher
from micro_registry_nats import NatsRegistry

TTL = 2.0
Record = Callable[[str, float, float], None]


@pytest.fixture
def nats(server_address: Any) -> str:
    return str(server_address("nats"))


@pytest.fixture(scope="module")
def backend(compose_files: list[str]) -> Iterator[ComposeBackend]:
    async def ready(address: str) -> None:
        async with NatsRegistry(address):
            pass

    server = ComposeBackend("nats", 4222, files=compose_files, ready=ready)
    asyncio.run(server.__aenter__())
    yield server
    asyncio.run(server.__aexit__(None, None, None))


def some_service() -> ServiceInfo:
    name = f"py.{secrets.token_hex(4)}"
    return ServiceInfo(name, "1", [Node(f"{name}-1", "h:1")])


# -- services ----------------------------------------------------------------------------------

SERVICES = """
import asyncio, sys
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_nats import NatsRegistry

async def main(address, name, ttl, first, count):
    async with NatsRegistry(address) as registry:
        numbers = range(int(first), int(first) + int(count))
        nodes = [Node(f"{name}-{n}", f"h:{n}") for n in numbers]
        keeps = [registry.keep(ServiceInfo(name, "1", [node]), ttl=float(ttl)) for node in nodes]
        await asyncio.gather(*(keep.__aenter__() for keep in keeps))
        print("kept", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def services(
    address: str, name: str, first: int = 1, count: int = 1, ttl: float = TTL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that keeps that many nodes."""
    command = [sys.executable, "-c", SERVICES, address, name, *map(str, (ttl, first, count))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"kept\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def test_killed_and_frozen_services(nats: str, record: Record) -> None:
    """R8 and R6: one that is killed is gone for good, one that is stopped comes back."""

    @in_loop
    async def body() -> None:
        name = some_service().name
        async with (
            services(nats, name) as process,
            NatsRegistry(nats) as reader,
            NatsRegistry(nats) as other,
            reader.watch(name) as watcher,
        ):
            await asyncio.sleep(TTL + 0.5)  # it is kept: longer than its TTL
            assert len(watcher.nodes) == 1
            process.send_signal(signal.SIGSTOP)
            begin = time.monotonic()
            assert await other.get_service(name) == []  # it does not answer
            async with asyncio.timeout(2 * TTL):
                assert (await anext(watcher)).action == "delete"
            record("R6 a frozen service is gone after, s", time.monotonic() - begin, TTL + 1)
            assert name not in await reader.list_services()
            await asyncio.sleep(begin + 2 * TTL - time.monotonic())
            process.send_signal(signal.SIGCONT)
            begin = time.monotonic()
            async with asyncio.timeout(10):
                assert (await anext(watcher)).action == "create"
            record("R6 and back after, s", time.monotonic() - begin, 2.0)
            process.kill()
            begin = time.monotonic()
            async with asyncio.timeout(2 * TTL):
                assert (await anext(watcher)).action == "delete"
            record("R8 a killed service is gone after, s", time.monotonic() - begin, TTL + 1)
            assert await reader.get_service(name) == []

    body()


def test_ten_of_twenty_nodes_die(nats: str, record: Record) -> None:
    @in_loop
    async def body() -> None:
        name = some_service().name
        async with (
            services(nats, name, 1, 10) as dying,
            services(nats, name, 11, 10),
            NatsRegistry(nats) as reader,
            NatsRegistry(nats) as other,
            reader.watch(name) as watcher,
        ):
            await until(lambda: len(watcher.nodes) == 20)
            await asyncio.sleep(1.0)  # until its lists are read
            dying.kill()
            begin = time.monotonic()
            living = {f"{name}-{number}" for number in range(11, 21)}
            await until(lambda: watcher.nodes.keys() == living)
            record("R8 ten of twenty are gone after, s", time.monotonic() - begin, TTL + 1)
            assert (await other.get_nodes(name)).keys() == living

    body()


@in_loop
async def test_a_reader_that_stood_still_asks_before_it_forgets(nats: str) -> None:
    """Nobody is withdrawn, not for a moment, while what was sent meanwhile is on its way."""
    name, seen = some_service().name, list[int]()
    async with (
        services(nats, name),
        ChaosProxy(nats) as proxy,  # which stands still, too
        NatsRegistry(proxy.address) as reader,
    ):
        watcher = Watcher(reader, name, lambda: seen.append(len(watcher.nodes)))
        async with watcher:
            await asyncio.sleep(0.5)  # until its lists are read
            time.sleep(TTL + 1.5)  # all that was heard is older than its TTL now
            await asyncio.sleep(1.0)
            await until(lambda: not watcher.doubtful)
            assert set(seen) == {1}


# -- the server --------------------------------------------------------------------------------


@pytest.mark.full
def test_half_open(nats: str, record: Record) -> None:
    """R7, by a proxy that holds back all bytes."""

    @in_loop
    async def body() -> None:
        info = some_service()
        async with ChaosProxy(nats) as proxy, NatsRegistry(proxy.address) as reader:
            async with NatsRegistry(nats) as registry, reader.watch(info.name) as watcher:
                await registry.register(info)
                await until(lambda: len(watcher.nodes) == 1)
                proxy.freeze()
                begin = time.monotonic()
                await until(lambda: reader.health().state == "lost")
                record("R7 a silent server is noticed after, s", time.monotonic() - begin, 10.0)
                await registry.deregister(info)
                proxy.thaw()
                begin = time.monotonic()
                await until(lambda: not watcher.doubtful and not watcher.nodes)
                record("R7 healed after, s", time.monotonic() - begin, 3.0)

    body()


Fault = Callable[[ComposeBackend], Awaitable[None]]


async def killed(server: ComposeBackend) -> None:
    await server.kill()
    await asyncio.sleep(3.0)  # the length of the outage, not a wait for something
    await server.start()


async def stopped_beyond_the_ttl(server: ComposeBackend) -> None:
    await server.stop()
    await asyncio.sleep(TTL + 1.0)
    await server.start()


async def wiped(server: ComposeBackend) -> None:
    await server.wipe()


@pytest.mark.timeout(240)
def test_calls_go_on_while_nats_does_not(backend: ComposeBackend, record: Record) -> None:
    """R1 and R2: three nodes called over HTTP, and found by NATS."""

    @in_loop
    async def body() -> None:
        flags = ["--registry=nats", "--transport=http", f"--registry_address={backend.address}"]
        flags += ["--server_name=outage", "--server_address=127.0.0.1:0"]
        async with (
            Client(registry=NatsRegistry(backend.address)) as client,
            Nodes(flags, {"MICRO_REGISTER_TTL": f"{TTL:g}"}) as nodes,
        ):
            for _ in range(3):
                await nodes.start()
            async with Load(client, "outage", callers=8, pause=0.005) as load:
                await load.reach(100)
                for fault in (killed, stopped_beyond_the_ttl, wiped):
                    before = load.calls
                    await fault(backend)
                    seconds = await _visible(backend.address, 3)
                    name = fault.__name__.replace("_", " ")
                    print(f"\n{load.calls - before} calls meanwhile", end="")
                    record(f"R1/R2 server {name}: nodes found after, s", seconds, TTL / 3 + 2)
                    await load.reach(load.calls + 300)
                    record(f"R1/R2 server {name}: failed calls", len(load.failed), 0)
            assert len(load.answered) == 3

    body()


async def _visible(address: str, count: int) -> float:
    """Seconds until a reader that knows nothing finds them."""
    begin = time.monotonic()
    async with NatsRegistry(address) as reader:
        while len(await reader.get_nodes("outage")) < count:
            await asyncio.sleep(0.02)
    return time.monotonic() - begin


@pytest.mark.timeout(240)
def test_a_rolling_restart_fails_no_call(nats: str, record: Record) -> None:
    """R10, over NATS as transport too."""
    name = f"worker-{secrets.token_hex(4)}"

    @in_loop
    async def body() -> None:
        transport = pytest.importorskip("micro_transport_nats").NatsTransport
        flags = ["--registry=nats", f"--registry_address={nats}", f"--server_name={name}"]
        flags += ["--transport=nats", f"--transport_address={nats}"]
        async with (
            Client(registry=NatsRegistry(nats), transport=transport(nats)) as client,
            Nodes(flags, {"MICRO_REGISTER_TTL": f"{TTL:g}"}) as nodes,
        ):
            running = [await nodes.start() for _ in range(3)]
            first = {node.pid for node in running}
            async with Load(client, name, pause=0.002) as load:
                await load.reach(1000)
                for old in list(running):
                    new = await nodes.start()
                    assert await old.end() == 0, "".join(old.log)
                    running.append(new)
                await load.reach(10_000)
            print(f"\n{load.calls} calls, the slowest {load.slowest * 1000:.0f} ms", end="")
            assert not load.failed, load.failed[:5]
            record("R10 rolling restart: failed calls", len(load.failed), 0)
            assert set(load.answered) >= {*first, *(node.pid for node in running[3:])}

    body()


# -- everything at once ------------------------------------------------------------------------


class Storm:
    """Owners that keep, change and drop nodes while connections are cut, and a model of it."""

    def __init__(self, nats: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._nats, self._name = nats, some_service().name
        self.kept: dict[str, tuple[Keeper, ServiceInfo]] = {}
        self.cuts = 0
        self.slowest = 0.0

    async def run(self, operations: int, stack: AsyncExitStack) -> None:
        enter = stack.enter_async_context
        self._proxies = [await enter(ChaosProxy(self._nats)) for _ in range(3)]
        addresses = [proxy.address for proxy in self._proxies]
        made = [NatsRegistry(addresses[n % 2], ping_interval=0.5) for n in range(20)]
        self._owners = [await enter(registry) for registry in made]
        self._reader = await enter(NatsRegistry(addresses[2], ping_interval=0.5))
        self._other = await enter(NatsRegistry(self._nats))
        self._watcher = await enter(self._reader.watch(self._name))
        self._told: set[str] = set()
        reading = asyncio.create_task(self._read())
        every = operations // 10
        for number in range(operations):
            await self._operate()
            if number % every == every // 2:
                await self._cut()
            if number % every == every - 1:
                await self._settle()
        for keeper, _ in self.kept.values():
            await keeper.close()
        await self._watcher.close()
        await reading

    async def _read(self) -> None:
        async for event in self._watcher:
            [node] = event.service.nodes
            (self._told.discard if event.action == "delete" else self._told.add)(node.id)

    async def _operate(self) -> None:
        id = f"{self._name}-{self._random.randrange(40)}"
        address, version = f"h:{self._random.randrange(9)}", self._random.choice("12")
        info = ServiceInfo(self._name, version, [Node(id, address)])
        if id not in self.kept:
            registry = self._random.choice(self._owners)
            with contextlib.suppress(BackendError):  # in an outage it was not kept
                self.kept[id] = await registry.keep(info, ttl=TTL).__aenter__(), info
        elif self._random.random() < 0.5:
            self.kept[id] = self.kept[id][0], info
            with contextlib.suppress(BackendError):  # in an outage it follows later
                await self.kept[id][0].update(info)
        else:
            await self.kept.pop(id)[0].close()

    async def _cut(self) -> None:
        self.cuts += 1
        proxy = self._random.choice(self._proxies)
        if self._random.random() < 0.5:
            proxy.reset()
        else:
            proxy.freeze()
            await asyncio.sleep(self._random.random())
            proxy.thaw()

    async def _settle(self) -> None:
        """Until every way to look says what the model says, and the model is what is kept."""
        begin = time.monotonic()
        wanted = {id: info for id, (_, info) in self.kept.items()}
        seen: list[object] = []
        while time.monotonic() - begin < 2 * TTL:
            listed = await self._other.get_nodes(self._name)
            seen = [self._watcher.nodes, listed, self._told]
            if seen == [wanted, wanted, wanted.keys()]:
                self.slowest = max(self.slowest, time.monotonic() - begin)
                return
            await asyncio.sleep(0.02)
        for view in seen:
            ids = set(view)  # type: ignore[call-overload]
            assert not ids - wanted.keys(), f"ghosts: {ids - wanted.keys()}"
            assert not wanted.keys() - ids, f"missed: {wanted.keys() - ids}"
        raise AssertionError("a node is not what it was changed to")


def storm(nats: str, seed: int, operations: int, record: Record) -> None:
    @in_loop
    async def body() -> None:
        one = Storm(nats, seed)
        async with AsyncExitStack() as stack:
            await one.run(operations, stack)
        print(f"\n{operations} operations, {one.cuts} cuts: 0 ghosts, 0 missed", end="")
        # what was dropped while its owner was cut off expires
        record("R9 a storm settles within, s", one.slowest, TTL + 1)

    body()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm(nats: str, seed: int, record: Record) -> None:
    storm(nats, seed, 150, record)


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_long_storm(nats: str, seed: int, record: Record) -> None:
    storm(nats, seed, 1000, record)
