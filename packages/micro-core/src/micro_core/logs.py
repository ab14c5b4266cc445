"""The ``micro`` logger tree of a process, and the line that says what runs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from .context import TRACE_KEYS, maybe_current
from .security import redact_url

if TYPE_CHECKING:
    from .plugin import Plugin
    from .service import Service
    from .settings import Settings

log = logging.getLogger("micro")


_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says besides its text: ``extra=``, and the request being handled."""
    found: dict[str, Any] = {}
    if (call := maybe_current()) is not None:
        found = {"service": call.service, "endpoint": call.endpoint}
        found |= {key.lower(): call.metadata[key] for key in TRACE_KEYS if key in call.metadata}
    return found | {key: value for key, value in vars(record).items() if key not in _PLAIN}


class TextFormatter(logging.Formatter):
    """A line for people; credentials in addresses are hidden, as they are in the JSON."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        extra = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        return redact_url(super().formatMessage(record) + extra)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return redact_url(super().formatException(ei))


class JsonFormatter(TextFormatter):
    """One JSON object a line: time, level, logger, message, fields, exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        fields = fields_of(record) | {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_url(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def configure(settings: Settings) -> None:
    """``--log_level`` and ``--log_format`` for the ``micro`` tree, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    json = settings.core("log_format") == "json"
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    log.setLevel(settings.core("log_level").upper())
    log.handlers[:] = [handler]
    log.propagate = False


def started_line(service: Service) -> str:
    """Service, version, node, address, and each plugin with its distribution and version."""
    from .plugins import origin

    running = service.running
    parts, info = running.parts, running.info
    chosen: list[Plugin] = [parts.registry, parts.transport, parts.broker, running.rpc]
    plugins = ", ".join(f"{p.kind} {p.name} ({origin(type(p))})" for p in chosen)
    node = info.nodes[0]
    return f"{info.name} {info.version} started as {node.id} at {node.address}: {plugins}"
