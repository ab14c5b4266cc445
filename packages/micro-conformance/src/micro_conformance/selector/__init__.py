"""The promises of selectors."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from ..backend import Backend
from .attempts import Attempts
from .choosing import Choosing
from .lab import SelectorLab
from .shares import Shares


class SelectorSuite(Choosing, Shares, Attempts):
    """Every promise of a selector. Subclass it, name the class ``Test…``, and write ``make``.

    ``make`` takes an address, as all suites' do; a selector has no use for it. Set ``jumping`` to
    False for one that reads another clock than the event loop's.
    """

    kind: ClassVar[str] = "selector"
    jumping: ClassVar[bool] = True

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> SelectorLab:
        return SelectorLab(self, backend, stack)
