"""Idle sockets, by address."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ..errors import BackendUnavailable
from ..transport.base import Socket, Transport

_Idle = tuple[Socket, float]


class SocketPool:
    """Keeps up to ``size`` idle sockets an address for ``ttl`` seconds; the newest goes first.

    Taking never waits for another call: with no idle socket it dials. From the first dial to
    ``close`` the pool is a user of the transport, which keeps that connected.
    """

    def __init__(self, transport: Transport, size: int, ttl: float) -> None:
        self._transport = transport
        self._size = size
        self._ttl = ttl
        self._idle: dict[str, list[_Idle]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._holds = False

    async def take(self, address: str) -> Socket:
        idle = self._idle.get(address)
        while idle:
            socket, _ = idle.pop()
            if not socket.closed:
                return socket
        return await self.dial(address)

    async def dial(self, address: str) -> Socket:
        if self._closed:
            raise BackendUnavailable("the client is closed", address=address)
        if not self._holds:
            await self._transport.acquire(self)
            self._holds = True
        return await self._transport.dial(address)

    def give(self, address: str, socket: Socket) -> None:
        """Take back a socket on which nothing is under way."""
        if socket.closed:
            return
        idle = self._idle.setdefault(address, [])
        if self._closed or len(idle) >= self._size:
            self._discard([socket])
            return
        loop = asyncio.get_running_loop()
        idle.append((socket, loop.time()))
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._ttl, self._sweep)

    def forget(self, address: str) -> None:
        """Close the idle sockets of an address that no node has any more."""
        self._discard(socket for socket, _ in self._idle.pop(address, []))

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for address in list(self._idle):
            self.forget(address)
        if self._closing:
            await asyncio.wait(self._closing, timeout=5.0)
        if self._holds:
            self._holds = False
            await self._transport.release(self)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest = loop.time() - self._ttl
        for address, idle in list(self._idle.items()):
            self._discard(socket for socket, since in idle if since <= oldest or socket.closed)
            kept = [entry for entry in idle if entry[1] > oldest and not entry[0].closed]
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]
        if self._idle and not self._closed:
            self._sweeper = loop.call_later(self._ttl / 2, self._sweep)

    def _discard(self, sockets: Iterable[Socket]) -> None:
        for socket in sockets:
            task = asyncio.get_running_loop().create_task(socket.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
