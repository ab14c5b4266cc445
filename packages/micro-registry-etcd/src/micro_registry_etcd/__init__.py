"""etcd as a registry of micro-core."""

from .registry import EtcdRegistry, EtcdV3Registry

__all__ = ["EtcdRegistry", "EtcdV3Registry"]
