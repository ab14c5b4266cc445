"""How long a registration lasts."""

from __future__ import annotations

import asyncio

from micro_core import Registry

from ..promise import promise
from ..suite import Suite
from .lab import RegistryLab, ids


class Lifetime(Suite[Registry]):
    """ttl: the shortest time to live that the registry grants, in seconds."""

    ttl: float = 3.0

    @promise(guarantee="expiry")
    async def test_a_silent_node_is_gone_after_its_ttl(self, lab: RegistryLab) -> None:
        """A node that is not registered again is gone a second after its TTL, by itself."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        await registry.register(info, ttl=self.ttl)
        begin = asyncio.get_running_loop().time()

        async def gone() -> bool:
            return not await other.get_service(info.name)

        await lab.eventually(gone, "the node has expired", within=self.ttl + 1 + self.patience)
        seconds = asyncio.get_running_loop().time() - begin
        lab.figure("seconds to expire beyond the ttl", round(seconds - self.ttl, 2))
        assert seconds <= self.ttl + 1

    @promise()
    async def test_a_node_lives_as_long_as_its_ttl(self, lab: RegistryLab) -> None:
        """A node is there all the time until its TTL has passed."""
        registry, info = await lab.new(), lab.info()
        begin = asyncio.get_running_loop().time()
        await registry.register(info, ttl=self.ttl)
        while asyncio.get_running_loop().time() - begin < self.ttl - 0.5:
            assert await registry.get_service(info.name) == [info]
            await asyncio.sleep(self.ttl / 20)

    @promise()
    async def test_registering_again_prolongs_it(self, lab: RegistryLab) -> None:
        """A node registered again within its TTL has that time anew."""
        registry, info = await lab.new(), lab.info()
        for _ in range(4):
            await registry.register(info, ttl=self.ttl)
            await asyncio.sleep(self.ttl / 2)
            assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_keep_keeps_it_alive(self, lab: RegistryLab) -> None:
        """A kept node is there without a gap for several times its TTL."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with registry.keep(info, ttl=self.ttl):
            end = asyncio.get_running_loop().time() + 2.5 * self.ttl
            while asyncio.get_running_loop().time() < end:
                assert await other.get_service(info.name) == [info]
                await asyncio.sleep(self.ttl / 20)

    @promise()
    async def test_keep_deregisters_at_its_end(self, lab: RegistryLab) -> None:
        """A kept node is gone as soon as its keeper has ended."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with registry.keep(info, ttl=30):
            assert await other.get_service(info.name) == [info]
        assert await other.get_service(info.name) == []

    @promise()
    async def test_a_removed_node_comes_back(self, lab: RegistryLab) -> None:
        """A kept node that somebody else removed is back within a third of its TTL and 2 s."""
        registry, other, info = await lab.new(), await lab.new(), lab.info()
        async with registry.keep(info, ttl=self.ttl):
            await other.deregister(info)
            begin = asyncio.get_running_loop().time()
            await lab.sees(other, info.name, [1])
            seconds = asyncio.get_running_loop().time() - begin
            lab.figure("seconds to come back after a removal", round(seconds, 2))
            assert seconds <= self.ttl / 3 + 2

    @promise()
    async def test_a_keeper_can_change_its_record(self, lab: RegistryLab) -> None:
        """A keeper's new record replaces the old one, and nodes left out of it are gone."""
        registry, other, info = await lab.new(), await lab.new(), lab.info(nodes=[1, 2])
        changed = info.with_nodes([lab.node(info.name, 2, zone="b"), lab.node(info.name, 3)])
        async with registry.keep(info, ttl=30) as keeper:
            await keeper.update(changed)
            assert await other.get_service(info.name) == [changed]

    @promise()
    async def test_close_deregisters(self, lab: RegistryLab) -> None:
        """Closing a registry removes what it has registered, and nothing else."""
        leaving, staying = lab.make(), await lab.new()
        name = lab.name()
        await staying.register(lab.info(name, nodes=[1]))
        async with leaving:
            await leaving.register(lab.info(name, nodes=[2]))
            assert len(ids(await staying.get_service(name))) == 2
        assert ids(await staying.get_service(name)) == [lab.node(name, 1).id]
