"""What may be said of a call, said once: in the call, around it, or for a stub."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from ..registry.records import Node, ServiceInfo

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Reply = TypeVar("Reply", default=Any)
else:
    from typing import TypeVar

    Reply = TypeVar("Reply")


class CallOptions(TypedDict, total=False):
    """The keyword arguments of calls, streams, stubs and :func:`options`.

    timeout: seconds over all attempts, ``None`` for no deadline. Left out, a call has the
        client's and a stream none; a stream's is over its whole life.
    metadata: goes into the header of the request.
    version: nodes of this version only, an exact match.
    labels: nodes whose metadata has all of these.
    retries: repeats of a call that failed, or may have run, when that is no harm. Left out, an
        endpoint marked idempotent has the client's and any other none.
    content_type: instead of the one that suits the request.
    wait: wait, within the deadline, for a usable node to appear.
    """

    timeout: float | None
    metadata: Mapping[str, str] | None
    version: str | None
    labels: Mapping[str, str] | None
    retries: int
    content_type: str | None
    wait: bool


_NAMES = frozenset(CallOptions.__annotations__)
_NONE: CallOptions = {}
around: ContextVar[CallOptions] = ContextVar("micro_options", default=_NONE)


@contextmanager
def options(**given: Unpack[CallOptions]) -> Generator[None, None, None]:
    """Set options of the calls and streams that this task begins inside.

    An argument of the call itself wins, and this wins over what a stub was made with; metadata
    is merged by name. Calls of the handlers that are called do not inherit it.
    """
    token = around.set(chosen_options(given))
    try:
        yield
    finally:
        around.reset(token)


def chosen_options(given: CallOptions) -> CallOptions:
    """``given`` over what surrounds the call. Raises TypeError for a name that is no option."""
    if given and not given.keys() <= _NAMES:
        raise TypeError(f"no option of a call: {', '.join(sorted(given.keys() - _NAMES))}")
    return joined(around.get(), given)


def joined(lower: CallOptions, upper: CallOptions) -> CallOptions:
    if not lower:
        return upper
    both: CallOptions = {**lower, **upper}
    if metadata := {**(lower.get("metadata") or {}), **(upper.get("metadata") or {})}:
        both["metadata"] = metadata
    return both


@dataclass(frozen=True, slots=True)
class Limits:
    """The options ``client_*`` of these names."""

    retries: int
    retry_budget: float
    retry_floor: float
    ejection_failures: int
    ejection_time: float
    ejection_max: float


class Filter(NamedTuple):
    """Which nodes a call may go to; hashable, as views remember their nodes by it."""

    version: str | None
    labels: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, chosen: CallOptions) -> Filter | None:
        version, labels = chosen.get("version"), chosen.get("labels")
        if version is None and not labels:
            return None
        return cls(version, frozenset(labels.items() if labels else ()))

    def passes(self, info: ServiceInfo, node: Node) -> bool:
        return self.version in (None, info.version) and self.labels <= node.metadata.items()
