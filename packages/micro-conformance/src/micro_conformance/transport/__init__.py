"""The promises of transports."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from ..backend import Backend
from .chaos import Chaos
from .ends import Ends
from .flow import Flow
from .lab import TransportLab
from .limits import Limits
from .messages import Messages
from .serving import ServingPeers
from .standing import StandingTransport


class TransportSuite(Messages, ServingPeers, Ends, Flow, Limits, StandingTransport, Chaos):
    """Every promise of a transport. Subclass it, name the class ``Test…``, and write ``make``.

    bind: what is listened on: ``host:0`` for any free port, ``""`` for a fresh name.
    too_large: bytes of a body beyond what the transport is configured to send.
    idle: seconds that a socket on which nothing is said has to live.
    """

    kind: ClassVar[str] = "transport"
    bind: ClassVar[str] = "127.0.0.1:0"
    too_large: ClassVar[int] = 4 * 1024 * 1024 + 1
    idle: ClassVar[float] = 3.0

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> TransportLab:
        return TransportLab(self, backend, stack)
