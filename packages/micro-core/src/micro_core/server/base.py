"""The protocol under a Server: requests from the wire to one dispatch function."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from ..client.base import RpcRequest, RpcResponse, RpcStream
from ..plugin import Plugin

Dispatch = Callable[[RpcRequest, RpcStream | None], Awaitable[RpcResponse]]


class RpcServer(Plugin):
    """Accepts requests of one protocol and hands each to ``dispatch``.

    ``dispatch`` gets the stream when the request opened one, and returns when the stream has
    ended. A MicroError that it raises is what the caller gets. It is cancelled when its caller
    leaves. Everything about endpoints, types and deadlines is on the other side of it.
    """

    kind: ClassVar[str] = "server"

    @abstractmethod
    async def start(self, address: str, dispatch: Dispatch) -> str:
        """Listen, and return the address that peers dial.

        Raises BackendUnavailable when the address cannot be bound.
        """

    @abstractmethod
    async def drain(self, delay: float) -> None:
        """Answer as before and ask every client to leave with the answer it gets.

        Returns after ``delay`` seconds or as soon as no client is connected.
        """

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """Answer new requests with Draining, wait ``grace`` seconds for the running ones, close.

        What still runs then is cancelled. Idempotent.
        """
