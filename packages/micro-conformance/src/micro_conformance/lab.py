"""What a promise is tried with: new plugins, fresh names, patience, and a place for figures."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from micro_core.plugin import Plugin

from .backend import Backend

if TYPE_CHECKING:
    from .suite import Suite

P = TypeVar("P", bound=Plugin)


class Lab(Generic[P]):
    """Lives as long as one test, in its loop; what it made is closed at the end, newest first.

    ``backend`` is the server, None where the plugin needs none. Names carry a random prefix, so
    that tests of different people may share a server.
    """

    def __init__(self, suite: Suite[P], backend: Backend | None, stack: AsyncExitStack) -> None:
        self.suite = suite
        self.figures: dict[str, Any] = {}
        self.prefix = f"c{secrets.token_hex(4)}"
        self.stack = stack
        self._backend = backend
        self._numbers = 0

    @property
    def backend(self) -> Backend:
        assert self._backend is not None, "only promises that break their server ask for it"
        return self._backend

    @property
    def address(self) -> str:
        """The server's ``host:port``; without a server a name that nobody else uses."""
        return self._backend.address if self._backend else self.prefix

    @property
    def features(self) -> Any:
        return self.make().features  # type: ignore[attr-defined]

    def make(self) -> P:
        """A plugin as its author configures it, not connected."""
        return self.suite.make(self.address)

    async def new(self) -> P:
        """A plugin that is connected until the end of the test."""
        made = cast(AbstractAsyncContextManager[P], self.make())
        return await self.stack.enter_async_context(made)

    def name(self, what: str = "service") -> str:
        """A name that nothing has."""
        self._numbers += 1
        return f"{self.prefix}-{what}-{self._numbers}"

    def figure(self, name: str, value: Any) -> None:
        """Report a measured value with the verdict."""
        self.figures[name] = value

    async def eventually(
        self,
        condition: Callable[[], Awaitable[object] | object],
        what: str,
        *,
        within: float | None = None,
    ) -> None:
        """Return once ``condition`` holds or no longer raises; fails after ``within`` seconds."""
        limit = self.suite.patience if within is None else within
        last: object = None
        try:
            async with asyncio.timeout(limit):
                while not (last := await _holds(condition)):
                    await asyncio.sleep(self.suite.pause)
        except TimeoutError:
            raise AssertionError(f"not within {limit:g} s: {what}; last: {last!r}") from None

    async def stays(self, condition: Callable[[], object], what: str, *, seconds: float) -> None:
        """Fails as soon as ``condition`` no longer holds."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            assert condition(), what
            await asyncio.sleep(self.suite.pause)


async def _holds(condition: Callable[[], Awaitable[object] | object]) -> object:
    result = condition()
    return await cast(Awaitable[object], result) if isinstance(result, Awaitable) else result
