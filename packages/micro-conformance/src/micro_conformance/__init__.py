"""The tests that a plugin must pass, and the servers they run against."""

from micro_conformance.backend import (
    AddressBackend,
    Backend,
    BackendFailure,
    CannotBreak,
    ComposeBackend,
    Ready,
)
from micro_conformance.broker import BrokerSuite
from micro_conformance.codec import CodecSuite
from micro_conformance.promise import promise
from micro_conformance.registry import RegistrySuite
from micro_conformance.rpc import Pair, RpcFeatures, RpcSuite
from micro_conformance.selector import SelectorSuite
from micro_conformance.store import StoreSuite
from micro_conformance.transport import TransportSuite

__all__ = [
    "AddressBackend",
    "Backend",
    "BackendFailure",
    "BrokerSuite",
    "CannotBreak",
    "CodecSuite",
    "ComposeBackend",
    "Pair",
    "Ready",
    "RegistrySuite",
    "StoreSuite",
    "RpcFeatures",
    "RpcSuite",
    "SelectorSuite",
    "TransportSuite",
    "promise",
]
