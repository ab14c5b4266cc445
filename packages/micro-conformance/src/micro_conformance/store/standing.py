"""How a store stands and falls as a component."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import BackendError, BackendUnavailable, Store, WrongLoop

from ..promise import promise
from ..suite import Suite
from .lab import StoreLab


class Standing(Suite[Store]):
    @promise()
    async def test_constructing_does_nothing(self, lab: StoreLab) -> None:
        """A constructor opens nothing; unconnected use is a clear error."""
        store = lab.make()
        assert store.health().state == "closed"
        with pytest.raises(BackendUnavailable, match="not connected"):
            await store.read(lab.key())

    @promise()
    async def test_connect_and_close_are_idempotent(self, lab: StoreLab) -> None:
        """Connecting twice and closing twice is like once."""
        store = lab.make()
        await store.connect()
        await store.connect()
        assert await lab.keys(store) == []
        await store.close()
        await store.close()

    @promise()
    async def test_it_can_be_opened_again(self, lab: StoreLab) -> None:
        """A store that was closed can be connected again, and has what was written before."""
        store, keys = lab.make(), list[str]()
        for text in "abc":
            async with store:
                keys += await lab.fill(store, text)
                assert await lab.keys(store) == keys

    @promise()
    async def test_use_after_close_is_a_clear_error(self, lab: StoreLab) -> None:
        """A closed store refuses every operation with BackendUnavailable."""
        async with lab.make() as store:
            pass
        for operation in (store.write(lab.record()), store.read(lab.key()), store.list()):
            with pytest.raises(BackendUnavailable):
                await operation

    @promise(real=True)
    async def test_it_belongs_to_its_loop(self, lab: StoreLab) -> None:
        """Use from another event loop is refused with WrongLoop."""
        store, key = await lab.new(), lab.key()

        def elsewhere() -> None:
            with pytest.raises(WrongLoop):
                asyncio.run(_ask(store, key))

        await asyncio.to_thread(elsewhere)

    @promise(guarantee="survives_restart", real=True)
    async def test_records_outlive_the_program(self, lab: StoreLab) -> None:
        """What was written is there after the event loop that wrote it has ended."""

        async def write() -> None:
            async with lab.make() as store:
                await lab.fill(store, "a", "b")

        await asyncio.to_thread(lambda: asyncio.run(write()))
        kept = await lab.keys(await lab.new())
        lab.figure("records kept of 2", len(kept))
        assert kept == [lab.key("a"), lab.key("b")]

    @promise()
    async def test_health_tells_the_truth(self, lab: StoreLab) -> None:
        """Health is connected while it works and closed after close."""
        store = lab.make()
        async with store:
            await lab.keys(store)
            assert store.health().state == "connected"
            assert store.health().last_ok is not None
        assert store.health().state == "closed"

    @promise()
    async def test_a_cancelled_operation_harms_no_other(self, lab: StoreLab) -> None:
        """After operations that were cancelled at any point, the next ones get right answers."""
        store = await lab.new()
        await store.write(lab.record())
        for turns in range(50):
            asking = asyncio.create_task(store.read(lab.key("other")))
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            assert await store.read(lab.key()) == [lab.record()]

    @promise()
    async def test_many_clients_side_by_side(self, lab: StoreLab) -> None:
        """Twenty clients that are connected at the same time work side by side."""
        clients = await asyncio.gather(*[lab.new() for _ in range(20)])
        await asyncio.gather(*[lab.fill(one, f"{n:02}") for n, one in enumerate(clients)])
        for client in clients:
            assert len(await lab.keys(client)) == 20

    @promise()
    async def test_an_unreachable_server_is_a_typed_error(self, lab: StoreLab) -> None:
        """Connecting to a port that nobody listens on is a BackendError within 5 s."""
        if not self.server:
            pytest.skip("it has no server")
        store = self.make("127.0.0.1:1")
        with pytest.raises(BackendError) as caught:
            async with asyncio.timeout(store.connect_timeout + 1):
                await store.connect()
        assert caught.value.plugin == store.name
        assert store.health().state == "closed"

    @promise(breaks=True, guarantee="survives_restart", timeout=180)
    async def test_confirmed_writes_survive_a_kill(self, lab: StoreLab) -> None:
        """What write has confirmed is there after its server was killed and started again."""
        store = await lab.new()
        keys = await lab.fill(store, *[f"{n:02}" for n in range(50)])
        await lab.backend.kill()
        await lab.backend.start()
        found = await lab.keys(await lab.new())
        lab.figure("records kept of 50", len(found))
        assert found == keys

    @promise(breaks=True, timeout=180)
    async def test_an_outage_is_a_typed_error_in_time(self, lab: StoreLab) -> None:
        """While its server is away or frozen, using a store is a BackendError within 6 s."""
        store = await lab.new()
        for fault, mend in (
            (lab.backend.pause, lab.backend.resume),
            (lab.backend.kill, lab.backend.start),
        ):
            await fault()
            try:
                begin = asyncio.get_running_loop().time()
                with pytest.raises(BackendError):
                    await store.read(lab.key())
                assert asyncio.get_running_loop().time() - begin <= 6
            finally:
                await mend()
            await lab.eventually(lambda: _works(store, lab.key()), "it works again")


async def _ask(store: Store, key: str) -> None:
    await store.read(key)


async def _works(store: Store, key: str) -> bool:
    try:
        return await store.read(key) == []
    except BackendError:
        return False
