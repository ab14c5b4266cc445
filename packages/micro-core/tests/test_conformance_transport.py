"""The transports of the core keep every promise of transports."""

from __future__ import annotations

from micro_conformance import TransportSuite
from micro_core import Transport
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemoryTransport


class TestMemory(TransportSuite):
    jumping = True
    idle = 300.0

    def make(self, address: str) -> Transport:
        return MemoryTransport(address)


class TestHttp(TransportSuite):
    def make(self, address: str) -> Transport:
        return HttpTransport()
