"""Calls from threads, such as those that run handlers without ``async``."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from ..errors import BackendUnavailable, SocketClosed, WrongLoop
from .options import CallOptions, Reply

if TYPE_CHECKING:
    from .client import Client

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """Waits in the calling thread while the client works on the loop it was opened in.

    Deadline, metadata and options are inherited from the calling code, as they are by ``await``.
    Raises WrongLoop in the loop's own thread, which would wait for itself for ever, and
    BackendUnavailable when the client is not open.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._home: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.publish = self._waiting(client.publish)

    def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: type[Reply] | None = None,
        **options: Unpack[CallOptions],
    ) -> Reply:
        """See :meth:`Client.call`."""
        return self._waiting(self._client.call)(service, endpoint, request, response, **options)

    # -- what the client calls ---------------------------------------------------------------

    def open(self) -> None:
        self._home = asyncio.get_running_loop(), threading.get_ident()

    async def close(self) -> None:
        """Cancel what is under way; bounded and idempotent."""
        self._home = None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    # -- inside ------------------------------------------------------------------------------

    def _waiting(self, method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        @functools.wraps(method)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._wait(self._owned(functools.partial(method, *args, **kwargs)))

        return run

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop())
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError as error:
            raise SocketClosed("the client was closed during the call") from error
        except BaseException:
            future.cancel()
            raise

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._home is None or self._home[0].is_closed():
            raise BackendUnavailable("the client is not open: open it in the loop of its calls")
        loop, thread = self._home
        if thread == threading.get_ident():
            raise WrongLoop("client.blocking in the loop's own thread: use 'await client...' there")
        return loop

    async def _owned(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await work()
