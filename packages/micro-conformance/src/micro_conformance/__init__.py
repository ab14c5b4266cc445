"""The tests that a plugin must pass, and the servers they run against."""

from micro_conformance.backend import (
    AddressBackend,
    Backend,
    BackendFailure,
    CannotBreak,
    ComposeBackend,
    Ready,
)

__all__ = [
    "AddressBackend",
    "Backend",
    "BackendFailure",
    "CannotBreak",
    "ComposeBackend",
    "Ready",
]
