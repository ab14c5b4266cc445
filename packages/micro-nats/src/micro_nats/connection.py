"""One connection of nats-py, which is closed by its owner only, in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from micro_core.timing import end

_BACKLOG = 1 << 20  # bytes that wait to be written before a publisher waits
_END = 1.0  # seconds for tasks that were cancelled
_ROUND_TRIP = 10.0  # seconds after which a server that owes an answer counts as gone


class Connection(Client):
    """A client that never reconnects: ``gone`` is done, with the reason, once it is of no use.

    nats-py's own reconnect keeps what is published meanwhile and sends it later, to answer
    addresses that nobody waits on any more. It also closes itself from several tasks, waiting
    without bound for a server that does not read; here those only tell.
    """

    _reading_task: asyncio.Task[Any] | None
    _ping_interval_task: asyncio.Task[Any] | None
    _flusher_task: asyncio.Task[Any] | None

    def __init__(self, *, tls: bool) -> None:
        super().__init__()
        self._demands_tls = tls
        self.gone: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._room: asyncio.Task[None] | None = None

    def watch(self, interval: float) -> None:
        """Notice, from now on, the end of the connection, or a server silent for two intervals."""
        cast("asyncio.Task[Any]", self._reading_task).add_done_callback(self._on_read_end)
        self._start(self._beat(interval))

    async def hear(self, subject: str, take: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Have ``take``, which never waits, called with each message.

        It has no limit, over which nats-py would drop messages: nothing waits for long.
        """
        subscribe = cast(Any, self.subscribe)  # pyright: ignore[reportUnknownMemberType]
        limits = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
        return cast(Subscription, await subscribe(subject, cb=take, **limits))

    def lose(self, error: Exception) -> None:
        if not self.gone.done():
            self.gone.set_result(error)

    async def settle(self) -> None:
        """Return when the server has handled all that was sent. Raises the reason when it is gone.

        A ``flush`` that is cancelled ends nats-py's reader at the next PONG: it runs apart.
        """
        task = self._start(self._round_trip())
        await self._until(task)
        task.result()

    async def room(self) -> None:
        """Return when there is room to publish more. Raises the reason when it is gone."""
        while self.pending_data_size > _BACKLOG:
            if self._room is None or self._room.done():
                self._room = self._start(self._round_trip())
            await self._until(self._room)

    @property
    def full(self) -> bool:
        return self.pending_data_size > _BACKLOG

    @property
    def tells_nobody(self) -> bool:
        """Whether the server answers 503 where nobody listens; it does since 2.2."""
        return bool(self._server_info.get("headers"))

    async def finish(self) -> None:
        """Close at once: what the server has not taken is dropped, nobody waits for it."""
        self.lose(errors.ConnectionClosedError())
        self._pending.clear()
        self._pending_data_size = 0
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:
            self._transport._io_writer.transport.abort()
        self._transport = None  # or close would wait for it, for ever after a failed handshake
        theirs: list[asyncio.Task[Any] | None]
        theirs = [self._reading_task, self._ping_interval_task, self._flusher_task]
        theirs += [sub._wait_for_msgs_task for sub in self._subs.values()]
        try:
            with contextlib.suppress(errors.Error, OSError):
                await self.close()
        finally:  # also when whoever closes is cancelled
            await end(*self._tasks, *theirs, limit=_END)

    # -- tasks -------------------------------------------------------------------------------

    def _start(self, steps: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._retire)
        return task

    def _retire(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.lose(error)

    async def _until(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait((task, self.gone), return_when=asyncio.FIRST_COMPLETED)
        if self.gone.done():
            raise self.gone.result()

    async def _beat(self, interval: float) -> None:
        """Twice: the first wait may have passed because this process stood still."""
        while True:
            ping = self._start(self._round_trip(3 * interval))
            for _ in range(2):
                await asyncio.wait([ping], timeout=interval)
            if not ping.done():
                raise errors.StaleConnectionError
            await asyncio.sleep(interval)

    async def _round_trip(self, limit: float = _ROUND_TRIP) -> None:
        await self.flush(limit)  # type: ignore[arg-type]  # a float is as good

    def _on_read_end(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        self.lose(
            self.last_error or (error if isinstance(error, Exception) else errors.UnexpectedEOF())
        )

    # -- what nats-py calls ------------------------------------------------------------------

    def _connect_command(self) -> bytes:
        """Credentials are for a server that was verified, not for whoever says it has no TLS."""
        if self._demands_tls and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()

    async def _process_op_err(self, e: Exception) -> None:
        self._err = e
        self._end_reading()

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            await super()._process_err(err_msg)
        else:
            self._err = errors.Error(f"the server says {err_msg}")
            self._end_reading()

    def _end_reading(self) -> None:
        if self._reading_task is not None and self._reading_task is not asyncio.current_task():
            self._reading_task.cancel()
        elif self._err is not None:
            self.lose(self._err)
