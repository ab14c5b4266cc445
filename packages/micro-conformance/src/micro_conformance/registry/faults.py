"""What outlives its server."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import BackendError, Registry

from ..promise import promise
from ..suite import Suite
from .lab import RegistryLab, ids


class Faults(Suite[Registry]):
    """ttl: of registrations that must survive, in seconds. restart: allowed beyond TTL/3 + 2 s."""

    ttl: float = 3.0
    restart: float = 0.0

    @promise(breaks=True, timeout=180)
    async def test_a_registration_survives_a_restart(self, lab: RegistryLab) -> None:
        """A kept node is visible within TTL/3 + 2 s of its registry's restart, and stays."""
        await self._comes_back(lab, "restart")

    @promise(breaks=True, timeout=180)
    async def test_a_registration_survives_the_loss_of_all_data(self, lab: RegistryLab) -> None:
        """A kept node is visible within TTL/3 + 2 s after all data were lost, and stays."""
        await self._comes_back(lab, "loss of data")

    @promise(breaks=True, timeout=180)
    async def test_a_registration_survives_a_long_outage(self, lab: RegistryLab) -> None:
        """A kept node is visible within TTL/3 + 2 s after an outage beyond its TTL, and stays."""
        await self._comes_back(lab, "outage")

    async def _comes_back(self, lab: RegistryLab, fault: str) -> None:
        registry, info = await lab.new(), lab.info()
        async with registry.keep(info, ttl=self.ttl):
            match fault:
                case "loss of data":
                    await lab.backend.wipe()
                case _:
                    await lab.backend.kill()
                    await asyncio.sleep(self.ttl + 1 if fault == "outage" else 0)
                    await lab.backend.start()
            begin = asyncio.get_running_loop().time()
            other = await lab.new()
            await lab.sees(other, info.name, [1])
            seconds = asyncio.get_running_loop().time() - begin
            lab.figure(f"seconds to reappear after {fault}", round(seconds, 2))
            assert seconds <= self.ttl / 3 + 2 + self.restart
            await asyncio.sleep(self.ttl + 1)  # what was kept on a disk would be gone by now
            assert await other.get_service(info.name) == [info]

    @promise(breaks=True, timeout=180)
    async def test_a_watcher_is_right_after_a_restart(self, lab: RegistryLab) -> None:
        """After a restart and the loss of all data a watcher's view equals a fresh list."""
        registry, other = await lab.new(), await lab.new()
        name = lab.name()
        async with registry.watch(name) as watcher:
            await other.register(lab.info(name, nodes=[1, 2]), ttl=60)
            await lab.eventually(lambda: len(ids(watcher.services)) == 2, "both are seen")
            await lab.backend.wipe()
            fresh = await lab.new()
            await fresh.register(lab.info(name, nodes=[2, 3]), ttl=60)

            async def agrees() -> bool:
                """Where services answer for themselves the first node has not gone either."""
                listed = ids(await fresh.get_service(name))
                seen = ids(watcher.services) == listed
                return seen and {lab.node(name, 2).id, lab.node(name, 3).id} <= set(listed)

            await lab.eventually(agrees, "the view is what a fresh list says", within=45)

    @promise(breaks=True, timeout=180)
    async def test_an_outage_is_a_typed_error_in_time(self, lab: RegistryLab) -> None:
        """While its server is away or frozen, asking a registry is a BackendError within 6 s."""
        registry = await lab.new()
        for fault, mend in (
            (lab.backend.pause, lab.backend.resume),
            (lab.backend.kill, lab.backend.start),
        ):
            await fault()
            try:
                begin = asyncio.get_running_loop().time()
                with pytest.raises(BackendError):
                    await registry.get_service(lab.name())
                seconds = asyncio.get_running_loop().time() - begin
                assert seconds <= 6
                assert registry.health().state in ("lost", "degraded")
            finally:
                await mend()
            await lab.eventually(lambda: _works(registry, lab.name()), "it works again")
            assert registry.health().state == "connected"

    @promise(breaks=True, timeout=180)
    async def test_closing_is_bounded_whatever_the_server_does(self, lab: RegistryLab) -> None:
        """Closing a registry with watchers and keepers takes at most 6 s while it is frozen."""
        registry = lab.make()
        await registry.connect()
        watcher = registry.watch(lab.name())
        await watcher.__aenter__()
        keeper = registry.keep(lab.info(), ttl=30)
        await keeper.__aenter__()
        await lab.backend.pause()
        try:
            async with asyncio.timeout(6):
                await asyncio.gather(watcher.close(), keeper.close())
            async with asyncio.timeout(6):
                await registry.close()
            await registry.close()
        finally:
            await lab.backend.resume()


async def _works(registry: Registry, name: str) -> bool:
    try:
        return await registry.get_service(name) == []
    except BackendError:
        return False
