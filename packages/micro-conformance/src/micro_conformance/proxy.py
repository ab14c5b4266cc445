"""A TCP proxy that misbehaves as networks do."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close sends RST


class ChaosProxy:
    """Stands between a client and ``target``, a ``host:port``, and listens on ``address``.

    What is set holds for connections that are open as well as for later ones. A frozen proxy
    still answers TCP's own probes, as a frozen server does: only a deadline of the client's own
    notices. ``delay`` and ``jitter`` are seconds for each piece of data, ``rate`` bytes a second
    each way, ``slice`` the largest piece passed on at once; 0 is no limit.
    """

    def __init__(self, target: str, *, port: int = 0, seed: int = 0) -> None:
        host, _, target_port = target.rpartition(":")
        self.delay = 0.0
        self.jitter = 0.0
        self.rate = 0
        self.slice = 0
        self.connections = 0
        self._target = host, int(target_port)
        self._port = port
        self._random = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._left: int | None = None
        self._sides: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults ------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Pass nothing on, either way, and say nothing of it."""
        self._open.clear()

    def thaw(self) -> None:
        """Pass on what has been held back since :meth:`freeze`, and all that comes."""
        self._open.set()

    def refuse(self) -> None:
        """Reset every connection, and each new one as soon as it is made."""
        self._refusing = True
        self.reset()

    def accept(self) -> None:
        """Undo :meth:`refuse` and :meth:`cut`."""
        self._refusing = False
        self._left = None

    def cut(self, after: int) -> None:
        """Reset every connection once ``after`` more bytes have been passed on in all."""
        self._left = after

    def reset(self) -> None:
        """End every connection with RST."""
        for writer in list(self._sides):
            _reset(writer)

    # -- one connection ----------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._sides.add(writer)
        try:
            if not self._refusing:
                await self._serve(reader, writer)
        except OSError:
            pass
        finally:
            self._sides.discard(writer)
            self._tasks.discard(task)
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._sides.add(far_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer))
                both.create_task(self._pump(far_reader, writer))
        except* OSError:
            _reset(writer)
        finally:
            self._sides.discard(far_writer)
            _reset(far_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self.slice or _CHUNK):
            await self._hold_back(len(data))
            await self._open.wait()
            data = self._spend(data)
            writer.write(data)
            await writer.drain()
            if self._left == 0:
                self.reset()
                return
        if writer.can_write_eof():
            writer.write_eof()

    async def _hold_back(self, size: int) -> None:
        wait = self.delay + self._random.uniform(0, self.jitter)
        wait += size / self.rate if self.rate else 0
        if wait:
            await asyncio.sleep(wait)

    def _spend(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        data = data[: self._left]
        self._left -= len(data)
        return data


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    if transport.is_closing():
        return
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
