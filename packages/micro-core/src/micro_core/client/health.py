"""How a client is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..component import Health


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """``components`` by kind; the broker only once something was published.

    ``services``: for each service in use, how many seconds ago the registry was last known to
    say what the client goes by. ``ejected``: ids of the nodes that are left alone for a while.
    """

    components: Mapping[str, Health]
    services: Mapping[str, float]
    ejected: tuple[str, ...] = ()
