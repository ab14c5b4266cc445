"""Who opened a component, in which loop, how it closes, and what its driver's errors become."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from micro_core import (
    BackendUnavailable,
    BackendUnknown,
    Node,
    ServiceInfo,
    TooLarge,
    WrongLoop,
)
from micro_core.registry.base import Change
from micro_core.registry.memory import MemoryRegistry
from micro_core.security import Secret, inflate, redact_url


class Counting(MemoryRegistry):
    """Keeps an account of what the core calls, and fails on command."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.opened = self.closed = 0
        self.fail: Callable[[], Exception] | None = None
        self.hang = False

    async def _connect(self) -> None:
        self.opened += 1
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail()
        await super()._connect()

    async def _close(self) -> None:
        self.closed += 1
        if self.hang:
            await asyncio.Event().wait()
        await super()._close()


def test_the_first_user_opens_and_the_last_closes() -> None:
    async def body() -> None:
        registry = Counting()
        one, two = object(), object()
        await asyncio.gather(registry.acquire(one), registry.acquire(two), registry.connect())
        assert (registry.opened, registry.closed) == (1, 0)
        await registry.close()
        await registry.close()
        await registry.release(one)
        await registry.release(object())
        assert registry.closed == 0
        await asyncio.gather(registry.release(two), registry.release(two))
        assert (registry.opened, registry.closed) == (1, 1)

    asyncio.run(body())


def test_a_closed_component_connects_again_in_another_loop_even_after_contention() -> None:
    registry = Counting()

    async def body() -> None:
        await asyncio.gather(*(registry.acquire(user) for user in (1, 2, 3)))
        await asyncio.gather(*(registry.release(user) for user in (1, 2, 3)))

    for _ in range(3):
        asyncio.run(body())
    assert (registry.opened, registry.closed) == (3, 3)


def test_another_loop_gets_wrong_loop_while_it_is_open() -> None:
    registry = Counting()

    async def use() -> None:
        with pytest.raises(WrongLoop, match="another event loop"):
            await registry.get_service("a")
        with pytest.raises(WrongLoop):
            await registry.connect()

    with asyncio.Runner() as runner:
        runner.run(registry.connect())
        asyncio.run(use())
        runner.run(registry.close())


def test_before_connect_the_remedy_is_told() -> None:
    async def body() -> None:
        with pytest.raises(BackendUnavailable, match="await connect"):
            await Counting().get_service("a")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError("refused"), BackendUnavailable), (TimeoutError(), BackendUnknown)],
)
def test_a_failed_connect_is_typed_chained_and_closed(
    error: Exception, expected: type[Exception]
) -> None:
    async def body() -> None:
        registry = Counting()
        registry.fail = lambda: error
        with pytest.raises(expected) as caught:
            await registry.connect()
        assert caught.value.__cause__ is error
        assert registry.closed == 1
        registry.fail = None
        await registry.connect()
        assert registry.health().state == "connected"
        await registry.close()

    asyncio.run(body())


def test_a_close_that_hangs_is_bounded() -> None:
    async def body() -> None:
        registry = Counting()
        registry.close_timeout = 0.1
        registry.hang = True
        await registry.connect()
        async with asyncio.timeout(2.0):
            await registry.close()
        assert registry.health().state == "closed"

    asyncio.run(body())


class Deaf(MemoryRegistry):
    """Its changes fail at once, faster than a list is read."""

    resync_interval = 0.02

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        await asyncio.sleep(0.01)
        return await super()._get_service(name)

    def _changes(self, name: str) -> AsyncIterator[Change]:
        return self._failing()

    async def _failing(self) -> AsyncIterator[Change]:
        raise OSError("too many watches")
        yield  # type: ignore[unreachable]


def test_a_watcher_whose_changes_always_fail_still_follows_the_lists() -> None:
    async def body() -> None:
        async with Deaf("deaf") as registry, registry.watch("a") as watcher:
            await registry.register(ServiceInfo("a", nodes=[Node("a-1", "127.0.0.1:1")]))
            async with asyncio.timeout(5.0):
                event = await anext(watcher)
            assert (event.action, event.service.nodes[0].id) == ("create", "a-1")

    asyncio.run(body())


def test_inflate_is_bounded() -> None:
    bomb = zlib.compress(bytes(1 << 24))
    with pytest.raises(TooLarge):
        inflate(bomb, 1 << 20)
    with pytest.raises(TooLarge):
        inflate(zlib.compress(b"a"), 0)
    with pytest.raises(ValueError, match="cut short"):
        inflate(zlib.compress(b"abc")[:-1])
    with pytest.raises(ValueError, match="not a zlib"):
        inflate(b"\x00\x01")
    assert inflate(zlib.compress(b"abc"), 3) == b"abc"


def test_secrets_do_not_print() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
    url = "amqp://user:hunter2@host:5672/v?token=hunter2&x=1"
    assert redact_url(url) == "amqp://***@host:5672/v?token=***&x=1"
