"""The brokers of the core keep every promise of brokers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from micro_conformance import BrokerSuite
from micro_core import Broker
from micro_core.broker.http import HttpBroker
from micro_core.broker.memory import MemoryBroker
from micro_core.registry.local import LocalRegistry


class TestMemory(BrokerSuite):
    jumping = True

    def make(self, address: str) -> Broker:
        return MemoryBroker(address)


class TestHttp(BrokerSuite):
    directory: ClassVar[Path] = Path(tempfile.gettempdir()) / "micro-conformance"
    messages = 2_000
    patience = 4.0

    def make(self, address: str) -> Broker:
        return HttpBroker(registry=LocalRegistry(str(self.directory / address)))
