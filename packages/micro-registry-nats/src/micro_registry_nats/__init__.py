"""NATS as a registry of micro-core."""

from .registry import NatsRegistry

__all__ = ["NatsRegistry"]
