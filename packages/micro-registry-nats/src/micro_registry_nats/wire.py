"""The messages of Go Micro's NATS registry, and the one key that is ours: ``ttl``, in seconds.

Go ignores it. A record without it is Go's, or old.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import MsgspecError, Raw, Struct
from msgspec.json import Decoder

from micro_core.registry.records import ServiceInfo
from micro_core.registry.wire import from_json, to_json


class _Ask(Struct):
    Action: str
    Service: Raw = Raw(b"null")
    ttl: float | None = None


class _Life(Struct):
    ttl: float | None = None


_ask = Decoder(_Ask).decode
_life = Decoder(_Life).decode
LIST = b'{"Action":"list","Service":null}'


@dataclass(frozen=True, slots=True)
class Notice:
    """A question or a broadcast: ``service`` is what it is about, ``ttl`` how long that lives."""

    action: str
    service: ServiceInfo | None
    ttl: float | None


def get(name: str) -> bytes:
    return f'{{"Action":"get","Service":{to_json(ServiceInfo(name, ""))}}}'.encode()


def broadcast(action: Literal["create", "delete"], info: ServiceInfo, ttl: float) -> bytes:
    return f'{{"Action":"{action}","Service":{to_json(info)},"ttl":{ttl:.3f}}}'.encode()


def read_notice(data: bytes) -> Notice:
    """Raises ValueError for anything else."""
    try:
        found = _ask(data)
        text = bytes(found.Service)
        service = None if text == b"null" else from_json(text)
        return Notice(found.Action, service, found.ttl)
    except (MsgspecError, RecursionError) as error:
        raise ValueError(f"not a message of Go Micro's NATS registry: {error}") from error


def answer(info: ServiceInfo, ttl: float) -> bytes:
    return f'{to_json(info)[:-1]},"ttl":{ttl:.3f}}}'.encode()


def read_answer(data: bytes) -> tuple[ServiceInfo, float | None]:
    """Raises ValueError for anything else."""
    try:
        return from_json(data), _life(data).ttl
    except (MsgspecError, RecursionError) as error:
        raise ValueError(f"not a record of Go Micro's NATS registry: {error}") from error
