"""Consul as a registry of micro-core."""

from .registry import ConsulRegistry

__all__ = ["ConsulRegistry"]
