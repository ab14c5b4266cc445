"""Go Micro's mucp in messages: which headers say what. Shared by its client and its server.

Source: the behaviour of Go Micro v2. Requests name ``Micro-Service``, ``Micro-Endpoint`` and
``Micro-Id``; ``Timeout`` is in decimal nanoseconds; errors are JSON in ``Micro-Error``, and the
error ``EOS`` ends one direction of a stream. ``Micro-Happened: no`` is ours: no handler saw the
request, so it may be sent elsewhere; so is ``Micro-Attempt``, sent from the second on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from .client.base import RpcRequest
from .context import user_metadata
from .errors import Draining, EndpointNotFound, MicroError, error_for
from .message import Header, Message

EOS = "EOS"
DETAIL_LIMIT = 8192  # bytes of an error's detail in JSON, of the 16 KiB that a header may have
_TEXT_LIMIT = 1024  # of its other texts
_NANOSECONDS = 1_000_000_000
_ENDPOINT = ("Micro-Method", "X-Micro-Endpoint", "X-Micro-Method")
_NOT_FOUND_TEXTS = ("rpc: can't find service", "rpc: can't find method")


def request_header(request: RpcRequest, id: str, now: float) -> Header:
    """The header of a request that is sent at ``now`` on the event loop's clock."""
    header = {
        "Content-Type": request.content_type,
        "Accept": request.content_type,
        "Micro-Id": id,
        "Micro-Service": request.service,
        "Micro-Method": request.endpoint,
        "Micro-Endpoint": request.endpoint,
    }
    if request.deadline is not None:
        header["Timeout"] = str(max(1, int((request.deadline - now) * _NANOSECONDS)))
    if request.attempt > 1:
        header["Micro-Attempt"] = str(request.attempt)
    if request.header:
        header = {**request.header, **header}
    return header


def read_request(message: Message, now: float, peer: str) -> RpcRequest:
    """The request in a message. A missing content type is protobuf, as Go has it."""
    header = message.header
    return RpcRequest(
        header.get("Micro-Service") or header.get("X-Micro-Service", ""),
        header.get("Micro-Endpoint") or _endpoint(header),
        header.get("Content-Type") or "application/protobuf",
        message.body,
        user_metadata(header),
        _deadline(header.get("Timeout"), now),
        peer,
        _attempt(header["Micro-Attempt"]) if "Micro-Attempt" in header else 1,
    )


def _attempt(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and 0 < len(text) <= 6 else 1


def _endpoint(header: Mapping[str, str]) -> str:
    """The endpoint under one of its older names."""
    for name in _ENDPOINT:
        if value := header.get(name):
            return value
    return ""


def _deadline(text: str | None, now: float) -> float | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 20:
        return None  # Go ignores what it cannot read, too
    return now + int(text) / _NANOSECONDS


def error_header(error: MicroError) -> Header:
    """``Micro-Error`` as ASCII JSON, with Go's keys and Go's omission of empty ones."""
    fields = {
        "id": _cut(error.id, _TEXT_LIMIT),
        "code": error.code,
        "detail": _cut(error.detail, DETAIL_LIMIT),
        "status": _cut(error.status, _TEXT_LIMIT),
    }
    text = json.dumps({k: v for k, v in fields.items() if v}, separators=(",", ":"))
    header = {"Micro-Error": text}
    if error.happened == "no":
        header["Micro-Happened"] = "no"
    return header


def _cut(text: str, limit: int) -> str:
    """What fits into ``limit`` bytes of JSON, where a character may take twelve."""
    kept = text[:limit]
    while len(kept) * 12 > limit and (size := len(json.dumps(kept)) - 2) > limit:
        kept = kept[: len(kept) * limit // size]
    return text if kept == text else kept[:-1] + "…"


def raise_error(header: Mapping[str, str]) -> None:
    """Raise what ``Micro-Error`` says, if it is there; the plain texts of Go have their classes."""
    text = header.get("Micro-Error")
    if text:
        raise _parse_error(text, header.get("Micro-Happened") == "no")


def _parse_error(text: str, unseen: bool) -> MicroError:
    fields = _json_object(text)
    if fields is None:
        if text.startswith(_NOT_FOUND_TEXTS):
            return EndpointNotFound(text)
        return MicroError(text, code=500)
    code = fields.get("code")
    code = code if isinstance(code, int) and 100 <= code <= 599 else 500
    kind = Draining if code == 503 and unseen else error_for(code)
    error = kind(
        str(fields.get("detail") or ""),
        id=str(fields.get("id") or ""),
        code=code,
        status=str(fields.get("status") or ""),
    )
    error.happened = "no" if unseen else "yes"
    return error


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
