"""The connection to NATS that the plugins share: kept, bounded, with the core's errors."""

from .connection import Connection
from .link import Link, LinkOptions, server_url

__all__ = ["Connection", "Link", "LinkOptions", "server_url"]
