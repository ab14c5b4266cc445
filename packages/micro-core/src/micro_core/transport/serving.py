"""The ``serve`` tasks of one listener."""

from __future__ import annotations

import asyncio
import logging

from ..errors import BadRequest, SocketClosed, TooLarge
from .base import Serve, Socket


class Serving:
    """Runs one task per socket and ends its socket with it."""

    def __init__(self, serve: Serve, log: logging.Logger) -> None:
        self._serve = serve
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, socket: Socket) -> None:
        task = asyncio.get_running_loop().create_task(self._run(socket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cancel all tasks but the caller's own, and return them to be awaited."""
        tasks = {task for task in self._tasks if task is not asyncio.current_task()}
        for task in tasks:
            task.cancel()
        return tasks

    async def _run(self, socket: Socket) -> None:
        try:
            await self._serve(socket)
        except (SocketClosed, BadRequest, TooLarge) as error:
            self._log.debug("%s: %s", socket.peer, error)
        except Exception:
            self._log.exception("serving %s failed", socket.peer)
        finally:
            await socket.close()
