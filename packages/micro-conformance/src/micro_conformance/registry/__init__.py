"""The promises of registries."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from micro_core import Registry

from ..backend import Backend
from ..scratch import scratch
from .faults import Faults
from .lab import RegistryLab
from .lifetime import Lifetime
from .records import Records
from .standing import Standing
from .watching import Watching


class RegistrySuite(Records, Lifetime, Watching, Standing, Faults):
    """Every promise of a registry. Subclass it, name the class ``Test…``, and write ``make``.

    ttl: the shortest time to live that the registry grants, in seconds.
    """

    kind: ClassVar[str] = "registry"

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> RegistryLab:
        return RegistryLab(self, backend, stack)

    async def ready(self, address: str) -> None:
        """A list, as a registry may be connected before it has elected a leader."""
        async with self.make(address) as registry:
            await registry.list_services()

    def configured(self, plugin: type[Registry], address: str) -> Registry:
        return super().configured(plugin, address if self.server else scratch(address))
