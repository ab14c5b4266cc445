"""The tests that a plugin must pass, and the servers they run against."""

from micro_conformance.backend import (
    AddressBackend,
    Backend,
    BackendFailure,
    CannotBreak,
    ComposeBackend,
    Ready,
)
from micro_conformance.codec import CodecSuite
from micro_conformance.promise import promise
from micro_conformance.registry import RegistrySuite
from micro_conformance.selector import SelectorSuite
from micro_conformance.transport import TransportSuite

__all__ = [
    "AddressBackend",
    "Backend",
    "BackendFailure",
    "CannotBreak",
    "CodecSuite",
    "ComposeBackend",
    "Ready",
    "RegistrySuite",
    "SelectorSuite",
    "TransportSuite",
    "promise",
]
