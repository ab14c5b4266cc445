"""How a registry stands and falls as a component."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import BackendError, BackendUnavailable, Registry, WrongLoop

from ..promise import promise
from ..suite import Suite
from .lab import RegistryLab


class Standing(Suite[Registry]):
    @promise()
    async def test_constructing_does_nothing(self, lab: RegistryLab) -> None:
        """A constructor opens nothing and starts nothing; unconnected use is a clear error."""
        registry = lab.make()
        assert registry.health().state == "closed"
        with pytest.raises(BackendUnavailable, match="not connected"):
            await registry.get_service(lab.name())

    @promise()
    async def test_connect_and_close_are_idempotent(self, lab: RegistryLab) -> None:
        """Connecting twice and closing twice is like once."""
        registry = lab.make()
        await registry.connect()
        await registry.connect()
        assert await registry.get_service(lab.name()) == []
        await registry.close()
        await registry.close()

    @promise()
    async def test_it_can_be_opened_again(self, lab: RegistryLab) -> None:
        """A registry that was closed can be connected again."""
        registry, info = lab.make(), lab.info()
        for _ in range(3):
            async with registry:
                await registry.register(info)
                assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_use_after_close_is_a_clear_error(self, lab: RegistryLab) -> None:
        """A closed registry refuses every operation with BackendUnavailable."""
        async with lab.make() as registry:
            pass
        with pytest.raises(BackendUnavailable):
            await registry.register(lab.info())
        with pytest.raises(BackendUnavailable):
            await registry.list_services()

    @promise(real=True)
    async def test_it_belongs_to_its_loop(self, lab: RegistryLab) -> None:
        """Use from another event loop is refused with WrongLoop."""
        registry, name = await lab.new(), lab.name()

        def elsewhere() -> None:
            with pytest.raises(WrongLoop):
                asyncio.run(_ask(registry, name))

        await asyncio.to_thread(elsewhere)

    @promise()
    async def test_health_tells_the_truth(self, lab: RegistryLab) -> None:
        """Health is connected while it works and closed after close."""
        registry = lab.make()
        async with registry:
            await registry.get_service(lab.name())
            assert registry.health().state == "connected"
            assert registry.health().last_ok is not None
        assert registry.health().state == "closed"

    @promise()
    async def test_a_cancelled_operation_harms_no_other(self, lab: RegistryLab) -> None:
        """After operations that were cancelled at any point, the next ones get right answers."""
        registry, info = await lab.new(), lab.info()
        await registry.register(info)
        for turns in range(50):
            asking = asyncio.create_task(registry.get_service(lab.name()))
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            assert await registry.get_service(info.name) == [info]

    @promise()
    async def test_many_clients_side_by_side(self, lab: RegistryLab) -> None:
        """Twenty clients that are connected at the same time work side by side."""
        clients = await asyncio.gather(*[lab.new() for _ in range(20)])

        async def work(registry: Registry) -> None:
            info = lab.info(lab.name())
            await registry.register(info)
            assert await registry.get_service(info.name) == [info]

        await asyncio.gather(*map(work, clients))

    @promise()
    async def test_an_unreachable_server_is_a_typed_error(self, lab: RegistryLab) -> None:
        """Connecting to a port that nobody listens on is a BackendError within 5 s."""
        if not self.server:
            pytest.skip("needs no server")
        registry = self.make("127.0.0.1:1")
        with pytest.raises(BackendError) as caught:
            async with asyncio.timeout(registry.connect_timeout + 1):
                await registry.connect()
        assert caught.value.plugin == registry.name
        assert registry.health().state == "closed"


async def _ask(registry: Registry, name: str) -> None:
    await registry.get_service(name)
