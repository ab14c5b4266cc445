"""Plugins that hold connections: who opened them, in which loop, and how they are."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from .errors import (
    BackendError,
    BackendUnavailable,
    BackendUnknown,
    MicroError,
    WrongLoop,
)
from .plugin import Plugin
from .security import redact_url
from .timing import now

State = Literal["connected", "degraded", "lost", "closed"]
T = TypeVar("T")
log = logging.getLogger("micro.component")


@dataclass(frozen=True, slots=True)
class Health:
    """How a component is. Times are seconds of the event loop's clock."""

    state: State
    since: float
    last_ok: float | None = None
    reconnects: int = 0
    drops: int = 0
    error: str = ""


class Component(Plugin):
    """A plugin that is connected before use and closed after it.

    ``connect`` and ``close`` are idempotent and may be called by several users: the first opens,
    the last one closes. Between the two the object belongs to the event loop and the process it
    connected in; any other gets WrongLoop.

    A driver implements ``_connect`` and ``_close``. The public methods, here and in the kinds,
    are the core's: they add deadlines, errors, checks and accounts around the driver's method of
    the same name with an underscore.
    """

    default_address: ClassVar[str] = ""
    connect_timeout: float = 5.0
    close_timeout: float = 5.0
    operation_timeout: float = 5.0

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] = addresses or tuple(filter(None, [self.default_address]))
        self._users: set[int] = set()
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._locked: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._health = Health("closed", now())

    # -- what users call ---------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the connection. Raises BackendError within ``connect_timeout`` seconds."""
        await self.acquire(self)

    async def close(self) -> None:
        """Give the connection up, within ``close_timeout`` seconds even if the server is gone."""
        await self.release(self)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def health(self) -> Health:
        return self._health

    @property
    def native(self) -> Any:
        """The client object underneath, for what the interface does not offer; typed by drivers."""
        return None

    @property
    def address(self) -> str:
        """The addresses as one text without credentials, for logs and errors."""
        return ",".join(map(redact_url, self.addresses))

    # -- what the core calls -----------------------------------------------------------------

    async def acquire(self, user: object) -> None:
        """Connect on behalf of ``user``; the first user's call opens."""
        if self._home is not None:
            self._check_home()
        async with self._gate():
            if self._home is None:
                await self._open()
            self._users.add(id(user))

    async def release(self, user: object) -> None:
        """Undo ``acquire``; the last user's call closes. Unknown users are harmless."""
        if self._home is None:
            return
        self._check_home()
        async with self._gate():
            self._users.discard(id(user))
            if not self._users and self._is_open():  # another user may have closed meanwhile
                await self._shut()

    def _gate(self) -> asyncio.Lock:
        """One for the loop at hand: a closed component may be connected again in another."""
        loop = asyncio.get_running_loop()
        if self._locked is None or self._locked[0] is not loop:
            self._locked = (loop, asyncio.Lock())
        return self._locked[1]

    def _is_open(self) -> bool:
        return self._home is not None

    async def _open(self) -> None:
        self._home = (os.getpid(), asyncio.get_running_loop())
        try:
            await self._ask(self._connect(), "connect", timeout=self.connect_timeout)
        except BaseException:
            await self._shut()
            raise

    async def _shut(self) -> None:
        try:
            async with asyncio.timeout(self.close_timeout):
                await self._close()
        except TimeoutError:
            log.warning("%s %s did not close in time", self.kind, self.name)
        except Exception as error:
            log.warning("%s %s failed to close: %s", self.kind, self.name, error)
        finally:
            self._home = None
            self._health = Health("closed", now())

    def _check_home(self) -> None:
        if self._home is None:
            raise BackendUnavailable(
                f"{self.kind} {self.name} is not connected: use 'async with' or await connect()",
                plugin=self.name,
                address=self.address,
            )
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            raise WrongLoop(
                f"{self.kind} {self.name} was connected in another event loop or process: "
                "make one for each"
            )

    # -- what drivers use --------------------------------------------------------------------

    async def _ask(self, operation: Awaitable[T], what: str, *, timeout: float | None = None) -> T:
        """Await the driver's operation under a deadline.

        What its server does reaches the caller as MicroError; any exception of another kind is a
        bug of the driver and passes as it is.
        """
        limit = self.operation_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                result = await operation
        except BackendError as error:
            self._note_failure(error)
            raise
        except MicroError:
            raise
        except TimeoutError as error:
            raise self._failure(
                BackendUnknown, f"{what}: no answer within {limit:g} s", error
            ) from error
        except OSError as error:
            raise self._failure(BackendUnavailable, f"{what}: {error}", error) from error
        self._note_success()
        return result

    def _failure(self, kind: type[BackendError], what: str, error: BaseException) -> BackendError:
        failure = kind(
            f"{self.kind} {self.name} at {self.address or 'its address'}: {what}",
            plugin=self.name,
            address=self.address,
        )
        self._note_failure(failure)
        return failure

    def _note_success(self) -> None:
        before, time = self._health, now()
        again = before.state in ("lost", "degraded")
        since = before.since if before.state == "connected" else time
        self._health = Health("connected", since, time, before.reconnects + again, before.drops)

    def _note_failure(self, error: BaseException) -> None:
        before = self._health
        since = before.since if before.state == "lost" else now()
        self._health = Health(
            "lost", since, before.last_ok, before.reconnects, before.drops, str(error)
        )

    async def _connect(self) -> None:
        """Open what the driver needs; nothing by default."""

    async def _close(self) -> None:
        """Release everything; called once after each ``_connect``, even a failed one."""
