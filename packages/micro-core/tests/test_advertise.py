"""Where a server listens, and which address the registry is told."""

from __future__ import annotations

import pytest

from micro_core import OptionError
from micro_core.advertise import advertised, listen_address
from micro_core.registry.memory import MemoryRegistry


class Here(MemoryRegistry):
    """Serves this host only."""

    reach = "host"


class Far(MemoryRegistry):
    """Is on another host, reached from 10.1.2.3."""

    reach = "network"

    def local_host(self) -> str:
        return "10.1.2.3"


class Near(Far):
    """A network registry on this host."""

    def local_host(self) -> str:
        return "127.0.0.1"


@pytest.mark.parametrize(
    ("registry", "configured", "expected"),
    [
        (Here(), None, "127.0.0.1:0"),
        (Far(), None, ":0"),
        (Here(), ":9000", ":9000"),
        (Far(), "127.0.0.1:9000", "127.0.0.1:9000"),
    ],
)
def test_where_to_listen(registry: MemoryRegistry, configured: str | None, expected: str) -> None:
    assert listen_address(configured, registry) == expected


@pytest.mark.parametrize(
    ("registry", "bound", "advertise", "expected"),
    [
        (Here(), "127.0.0.1:4000", None, "127.0.0.1:4000"),
        (Far(), "0.0.0.0:4000", None, "10.1.2.3:4000"),
        (Far(), "[::]:4000", None, "10.1.2.3:4000"),
        (Near(), "0.0.0.0:4000", None, "127.0.0.1:4000"),
        (Near(), "127.0.0.1:4000", None, "127.0.0.1:4000"),
        (Far(), "192.168.7.7:4000", None, "192.168.7.7:4000"),
        (Far(), "127.0.0.1:4000", "example.test", "example.test:4000"),
        (Far(), "127.0.0.1:4000", "example.test:80", "example.test:80"),
        (Far(), "0.0.0.0:4000", "fd00::7", "[fd00::7]:4000"),
        (Far(), "0.0.0.0:4000", "[fd00::7]:80", "[fd00::7]:80"),
        (Far(), "memory-1", None, "memory-1"),
        (Far(), "_INBOX.abc", None, "_INBOX.abc"),
    ],
)
def test_what_is_advertised(
    registry: MemoryRegistry, bound: str, advertise: str | None, expected: str
) -> None:
    assert advertised(bound, advertise, registry) == expected


@pytest.mark.parametrize("bound", ["127.0.0.1:4000", "[::1]:4000", "localhost:4000"])
def test_loopback_towards_another_host_is_refused_with_the_flag(bound: str) -> None:
    with pytest.raises(OptionError, match="--server_advertise"):
        advertised(bound, None, Far())
