"""The sending half of the http broker: to one node of a queue, or to all who listen."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast
from urllib.parse import quote
from weakref import WeakValueDictionary

from ..client.pool import SocketPool
from ..errors import (
    BackendRefused,
    BackendUnknown,
    InternalError,
    MicroError,
    NotFound,
    Unavailable,
)
from ..message import Message
from ..registry.records import Node
from ..transport.http import HttpTransport
from ..transport.http_client import ClientSocket

log = logging.getLogger("micro.broker")

_IN_FLIGHT = 100  # POSTs to one node at a time
_IDLE = 60.0  # seconds that a connection is kept
_BENCHED = 5.0  # seconds in which a node that failed is asked last, or not at all
_REMEMBERED = 1000
_HEADER = {"Content-Type": "application/json"}


class Sender:
    """POSTs over connections that are kept. What it returns is the error, ``None`` for taken."""

    def __init__(
        self, transport: HttpTransport, patience: float, dropped: Callable[[int], None]
    ) -> None:
        self._patience = patience
        self._dropped = dropped
        self._secure = transport.tls is not None
        self._pool = SocketPool(transport, _IN_FLIGHT, _IDLE)
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._benched: dict[str, float] = {}

    async def to_one(self, nodes: Sequence[Node], turn: int, body: bytes) -> MicroError | None:
        """The node whose turn it is, and as long as it surely was not taken the others."""
        start = turn % len(nodes)
        error: MicroError | None = None
        for node in sorted((*nodes[start:], *nodes[:start]), key=self._is_benched):
            error = await self._post(node, body)
            if error is None or error.happened != "no":
                break
        return error

    async def to_all(self, nodes: Sequence[Node], body: bytes) -> MicroError | None:
        """An error only if none has taken it; the nodes that have not are told to ``dropped``."""
        asked = [node for node in nodes if not self._is_benched(node)] or nodes
        if len(asked) == 1:
            results = [await self._post(asked[0], body)]
        else:
            results = await asyncio.gather(*(self._post(node, body) for node in asked))
        results = [result for result in results if not isinstance(result, NotFound)]
        errors = [result for result in results if result is not None]
        self._dropped(len(errors) + len(nodes) - len(asked))
        if len(errors) < len(results) or not errors:
            return None
        return next((error for error in errors if error.happened != "no"), errors[0])

    async def close(self) -> None:
        await self._pool.close()

    # -- one node ----------------------------------------------------------------------------

    async def _post(self, node: Node, body: bytes) -> MicroError | None:
        slot = self._slots.get(node.address)
        if slot is None:
            slot = self._slots[node.address] = asyncio.Semaphore(_IN_FLIGHT)
        try:
            async with asyncio.timeout(self._patience), slot:
                await self._exchange(node, body)
        except TimeoutError:
            return self._failed(node, BackendUnknown(f"{node.address} does not answer"))
        except MicroError as error:
            return self._failed(node, error)
        self._benched.pop(node.address, None)
        return None

    async def _exchange(self, node: Node, body: bytes) -> None:
        if (node.metadata.get("secure") == "true") != self._secure:
            wants = "plain HTTP, and tls is given" if self._secure else "TLS: give the option tls"
            raise BackendRefused(f"{node.address} wants {wants}")
        socket = await self._pool.take(node.address)
        cast(ClientSocket, socket).aim(_target(node.id))
        await socket.send(Message(_HEADER, body))
        answer = await socket.recv()
        if answer.header.get("Connection", "").lower() == "close":
            await socket.close()
        else:
            self._pool.give(node.address, socket)

    def _failed(self, node: Node, error: MicroError) -> MicroError:
        if type(error) in (InternalError, Unavailable):  # what a receiver answers, having refused
            error.happened = "no"
        if isinstance(error, NotFound):
            return error  # it has unsubscribed, and the registry will tell
        if len(self._benched) > _REMEMBERED:
            self._benched.clear()
        if node.address not in self._benched:
            log.warning("broker http: %s did not take a message: %s", node.id, error)
        self._benched[node.address] = time.monotonic() + _BENCHED
        return error

    def _is_benched(self, node: Node) -> bool:
        return self._benched.get(node.address, 0.0) > time.monotonic()


@lru_cache(1024)
def _target(id: str) -> str:
    return f"/?id={quote(id, safe='')}"
