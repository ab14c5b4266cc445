"""The promises of registries."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from ..backend import Backend
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
