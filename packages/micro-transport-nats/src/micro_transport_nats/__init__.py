"""NATS as a transport of micro-core."""

from .transport import NatsTransport

__all__ = ["NatsTransport"]
