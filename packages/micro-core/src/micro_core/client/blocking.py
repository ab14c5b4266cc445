"""Calls from threads, such as those that run handlers without ``async``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from ..errors import BackendUnavailable, SocketClosed, WrongLoop
from .options import CallOptions

if TYPE_CHECKING:
    from ..broker.base import PublishOptions
    from .client import Client

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

    @overload
    def call(
        self,
        service: str,
        endpoint: str,
        request: object,
        response: type[T],
        **options: Unpack[CallOptions],
    ) -> T: ...

    @overload
    def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: None = None,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: type[Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """See :meth:`Client.call`."""
        client = self._client
        return self._wait(lambda: client.call(service, endpoint, request, response, **options))

    def publish(
        self,
        topic: str,
        message: object,
        *,
        key: str | None = None,
        options: PublishOptions | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        """See :meth:`Client.publish`."""
        self._wait(
            lambda: self._client.publish(
                topic,
                message,
                key=key,
                options=options,
                metadata=metadata,
                content_type=content_type,
            )
        )

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

    def _wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._home is None:
            raise BackendUnavailable("the client is not open: open it in the loop of its calls")
        loop, thread = self._home
        if thread == threading.get_ident():
            raise WrongLoop("client.blocking in the loop's own thread: use 'await client...' there")
        coroutine = self._owned(work)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError as error:
            coroutine.close()
            raise BackendUnavailable("the loop that the client was opened in is closed") from error
        try:
            return future.result()
        except CancelledError as error:
            raise SocketClosed("the client was closed during the call") from error
        except BaseException:
            future.cancel()
            raise

    async def _owned(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in one
        self._tasks.add(task)
        try:
            return await work()
        finally:
            self._tasks.discard(task)
