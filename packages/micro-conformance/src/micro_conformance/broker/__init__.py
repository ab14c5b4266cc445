"""The promises of brokers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from micro_core import Broker

from ..backend import Backend
from .delivery import Delivery
from .faults import Faults
from .flow import Flow
from .lab import BrokerLab
from .messages import Messages
from .processes import Processes
from .queues import Queues
from .settling import Settling
from .standing import Standing


class BrokerSuite(Messages, Delivery, Queues, Settling, Flow, Standing, Processes, Faults):
    """Every promise of a broker. Subclass it, name the class ``Test…``, and write ``make``.

    settle: seconds after which what should not come is taken not to come.
    huge: a body of so many bytes may be refused as too large.
    pattern: what, put in the place of one part of a topic, stands for any such part.
    messages: how many are published while a server is restarted or a process is killed.
    """

    kind: ClassVar[str] = "broker"

    def configured(self, plugin: type[Broker], address: str) -> Broker:
        """One that needs no server and has no default address listens itself, wherever it likes."""
        listens = not (self.server or plugin.default_address)
        return super().configured(plugin, "" if listens else address)

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> BrokerLab:
        return BrokerLab(self, backend, stack)
