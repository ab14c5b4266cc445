"""The ``micro`` logger tree of a process, and the line that says what runs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plugin import Plugin
    from .service import Service
    from .settings import Settings

log = logging.getLogger("micro")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure(settings: Settings) -> None:
    """``--log_level`` and ``--log_format`` for the ``micro`` tree, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.core("log_format", None, "text") == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.setLevel(settings.core("log_level", None, "info").upper())
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
