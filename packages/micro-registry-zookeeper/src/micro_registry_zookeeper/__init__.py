"""ZooKeeper as the registry of Go Micro for Python."""

from .registry import ZooKeeperRegistry

__all__ = ["ZooKeeperRegistry"]
