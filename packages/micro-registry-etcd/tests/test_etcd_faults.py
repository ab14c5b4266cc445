"""Outages that only etcd has; each test prints what it measured, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from in_loops import in_loop

from micro_conformance.backend import ComposeBackend
from micro_core.errors import BackendError
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_etcd import EtcdRegistry

TTL = 3.0
Record = Callable[[str, float, float], None]


@asynccontextmanager
async def server_of_our_own(files: list[str]) -> AsyncIterator[ComposeBackend]:
    async def ready(address: str) -> None:
        async with EtcdRegistry(address):
            pass

    async with ComposeBackend("etcd", 2379, files=files, ready=ready) as server:
        yield server


async def moment(condition: Callable[[], Awaitable[Any]], limit: float = 25.0) -> float:
    """Seconds until the condition came true; errors mean that it has not yet."""
    begin = time.monotonic()
    async with asyncio.timeout(limit):
        while True:
            try:
                if await condition():
                    return time.monotonic() - begin
            except BackendError:
                pass
            await asyncio.sleep(0.02)


def info_of(ttl: str = "") -> ServiceInfo:
    name = f"py.{secrets.token_hex(6)}"
    return ServiceInfo(name, "1", [Node(f"{name}-1", "10.0.0.1:9000", {"ttl": ttl})])


@in_loop
async def test_a_lost_lease_is_replaced(etcd: Any, record: Record) -> None:
    """R3, revoked under us: back at the next heartbeat, and the watchers are told both."""
    info = info_of()
    key = f"/micro/registry/{info.name}/{info.nodes[0].id}"
    async with (
        EtcdRegistry(etcd.address) as registry,
        EtcdRegistry(etcd.address) as other,
        registry.keep(info, ttl=TTL),
        other.watch(info.name) as watcher,
    ):
        lease = (await etcd.pair(key))["lease"]
        await etcd.ask("lease/revoke", ID=lease)
        assert (await anext(watcher)).action == "delete"
        seconds = await moment(lambda: other.get_service(info.name))
        record("R3 back after its lease was revoked, s", seconds, TTL / 3 + 1)
        assert (await anext(watcher)).action == "create"
        assert (await etcd.pair(key))["lease"] != lease


@in_loop
async def test_a_frozen_server_is_noticed_by_a_watcher(
    compose_files: list[str], record: Record
) -> None:
    info = info_of()
    async with server_of_our_own(compose_files) as server:
        async with EtcdRegistry(server.address) as registry, registry.watch(info.name) as watcher:
            await registry.register(info, ttl=60)
            await anext(watcher)
            await server.pause()

            async def doubts() -> bool:
                return watcher.doubtful

            record("a frozen server is noticed after, s", await moment(doubts), 10)
            assert watcher.services == [info]
            await server.resume()

            async def is_right() -> bool:
                return not watcher.doubtful

            record("right again after the thaw, s", await moment(is_right), 3)
            await registry.deregister(info)
            assert (await anext(watcher)).action == "delete"


@in_loop
async def test_a_dead_node_is_gone_after_a_restart_too(
    compose_files: list[str], record: Record
) -> None:
    """The clock of a lease begins anew with a restart."""
    info = info_of()
    async with server_of_our_own(compose_files) as server, EtcdRegistry(server.address) as other:
        dead = EtcdRegistry(server.address)
        await dead.connect()
        await dead.register(info, ttl=TTL)
        begin = time.monotonic()
        await server.kill()
        await server.start()
        assert await other.get_service(info.name) == [info]

        async def gone() -> bool:
            return not await other.get_service(info.name)

        await moment(gone)
        record("a dead node is gone after, s", time.monotonic() - begin, 2 * TTL + 2)
        await dead.close()


# -- services in processes of their own ------------------------------------------------------

SERVICES = """
import asyncio, sys
from contextlib import AsyncExitStack
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_etcd import EtcdRegistry

async def main(address, ttl, *names):
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(EtcdRegistry(address))
        for name in names:
            info = ServiceInfo(name, "1", [Node(name + "-1", "10.0.0.1:9000")])
            await stack.enter_async_context(registry.keep(info, ttl=float(ttl)))
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def script(
    text: str, *arguments: str, inside: tuple[str, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Python that runs ``text``; it is killed at the end."""
    command = [*inside, sys.executable, "-c", text, *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


@in_loop
async def test_frozen_and_killed_services(etcd: Any, record: Record) -> None:
    """R6 and R8: 10 of 20 services are stopped, come back, and are killed."""
    prefix = f"py.{secrets.token_hex(6)}"
    names = [f"{prefix}.{number}" for number in range(20)]
    async with (
        script(SERVICES, etcd.address, str(TTL), *names[:10]) as first,
        script(SERVICES, etcd.address, str(TTL), *names[10:]) as second,
        EtcdRegistry(etcd.address) as registry,
    ):
        assert [await said(first), await said(second)] == ["up", "up"]

        async def listed() -> list[str]:
            return sorted(n for n in await registry.list_services() if n.startswith(prefix))

        async def all_there() -> bool:
            return await listed() == sorted(names)

        async def half_gone() -> bool:
            found = await listed()
            assert set(names[10:]) <= set(found), "one that lives is missing"
            return found == sorted(names[10:])

        async with registry.watch(names[0]) as watcher:
            for number, check in ((signal.SIGSTOP, "R6 frozen"), (signal.SIGKILL, "R8 killed")):
                assert await all_there()
                os.kill(first.pid, number)
                record(f"{check} services are gone after, s", await moment(half_gone), TTL + 1)
                async with asyncio.timeout(1):
                    assert (await anext(watcher)).action == "delete"
                if number == signal.SIGSTOP:
                    await asyncio.sleep(TTL)  # the length of the fault, not a wait for something
                    os.kill(first.pid, signal.SIGCONT)
                    record("R6 back after, s", await moment(all_there), 2.0)
                    assert (await anext(watcher)).action == "create"


# -- a network that swallows everything ------------------------------------------------------

FOLLOWER = """
import asyncio, json, sys
from micro_core.registry.records import Node, ServiceInfo
from micro_registry_etcd import EtcdRegistry

async def main(address, name):
    info = ServiceInfo(name, "1", [Node(name + "-kept", "10.0.0.1:9000")])
    async with (
        EtcdRegistry(address) as registry,
        registry.keep(info, ttl=60),
        registry.watch(name) as watcher,
    ):
        before = None
        while True:
            state = {"doubtful": watcher.doubtful, "nodes": len(watcher.nodes)}
            if state != before:
                print(json.dumps(state), flush=True)
                before = state
            await asyncio.sleep(0.01)

asyncio.run(main(*sys.argv[1:]))
"""


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


class Hole:
    """A network namespace that reaches ``target`` at ``address``, until all packets are dropped."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Hole:
        self._holder = await asyncio.create_subprocess_exec("unshare", "-n", "sleep", "300")
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._holder.pid}/ns/net").readlink() == own:
            await asyncio.sleep(0.01)
        self.inside = ("nsenter", "-t", str(self._holder.pid), "-n")
        near, far = (f"mt{self._holder.pid}{end}" for end in "ab")
        subnet = f"10.{213 + secrets.randbelow(40)}.{secrets.randbelow(256)}"
        peer = ("peer", "name", far, "netns", str(self._holder.pid))
        await run("ip", "link", "add", near, "type", "veth", *peer)
        await run("ip", "address", "add", f"{subnet}.1/30", "dev", near)
        await run("ip", "link", "set", near, "up")
        await run(*self.inside, "ip", "address", "add", f"{subnet}.2/30", "dev", far)
        await run(*self.inside, "ip", "link", "set", far, "up")
        self._server = await asyncio.start_server(self._forward, f"{subnet}.1", 0)
        self.address = f"{subnet}.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        """The network ends with the process that holds it."""
        self._server.close()
        for task in self._tasks:
            assert task is not None
            task.cancel()
        await asyncio.gather(*filter(None, self._tasks), return_exceptions=True)
        self._holder.kill()
        await self._holder.wait()

    async def drop(self) -> None:
        await run(*self.inside, "iptables", "-A", "INPUT", "-j", "DROP")

    async def mend(self) -> None:
        await run(*self.inside, "iptables", "-F", "INPUT")

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            writer.transport.abort()
            far_writer.transport.abort()


@pytest.mark.full
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "iptables"))),
    reason="makes a network namespace: needs root, unshare, nsenter, ip and iptables",
)
@in_loop
async def test_a_network_that_swallows_everything(etcd: Any, record: Record) -> None:
    """R7: no packet arrives for 30 s, and nobody is told of that."""
    name = f"py.{secrets.token_hex(6)}"
    info = ServiceInfo(name, "1", [Node(f"{name}-1", "10.0.0.1:9000")])
    async with (
        Hole(etcd.address) as hole,
        script(FOLLOWER, hole.address, name, inside=hole.inside) as follower,
        EtcdRegistry(etcd.address) as registry,
    ):

        async def state(**wanted: object) -> bool:
            while json.loads(await said(follower)) != wanted:
                pass
            return True

        await state(doubtful=False, nodes=1)
        await asyncio.sleep(5.0)  # the watch is quiet for longer than it takes to be asked after
        await hole.drop()
        begin = time.monotonic()
        await state(doubtful=True, nodes=1)
        record("R7 half-open is noticed after, s", time.monotonic() - begin, 10)
        await registry.register(info)
        await asyncio.sleep(begin + 30 - time.monotonic())
        await hole.mend()
        begin = time.monotonic()
        await state(doubtful=False, nodes=2)
        record("R7 right again after, s", time.monotonic() - begin, 3)
