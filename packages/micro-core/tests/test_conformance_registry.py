"""The registries of the core keep every promise of registries."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from micro_conformance import RegistrySuite
from micro_core import Registry
from micro_core.registry.local import LocalRegistry
from micro_core.registry.memory import MemoryRegistry


class TestMemory(RegistrySuite):
    jumping = True

    def make(self, address: str) -> Registry:
        return MemoryRegistry(address)


class TestLocal(RegistrySuite):
    directory: ClassVar[Path] = Path(tempfile.gettempdir()) / "micro-conformance"
    ttl = 1.0

    def make(self, address: str) -> Registry:
        return LocalRegistry(str(self.directory / address))
