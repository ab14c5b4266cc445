"""The promises of stores."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from micro_core import Store

from ..backend import Backend
from ..scratch import scratch
from .expiry import Expiry
from .lab import StoreLab
from .records import Records
from .standing import Standing


class StoreSuite(Records, Expiry, Standing):
    """Every promise of a store. Subclass it, name the class ``Test…``, and write ``make``.

    expiry: the shortest that the store grants, in seconds.
    """

    kind: ClassVar[str] = "store"

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> StoreLab:
        return StoreLab(self, backend, stack)

    def configured(self, plugin: type[Store], address: str) -> Store:
        return super().configured(plugin, address if self.server else scratch(address))
