"""Every option of the core, with its default: each is a flag and a variable."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .optiontypes import Address, Duration


class CoreOption(NamedTuple):
    """An option of the core. ``least`` bounds numbers.

    shared: a plugin may have an option of this flag, and reads it as the core does; any other
    flag of the core is refused to plugins.
    """

    name: str
    type: Any
    default: Any = None
    help: str = ""
    least: float | None = None
    shared: bool = False


CORE: tuple[CoreOption, ...] = (
    CoreOption("server_name", str, None, "name of the service"),
    CoreOption("server_id", str, None, "id of this node; a random one by default"),
    CoreOption("server_version", str, "latest", "version of the service"),
    CoreOption("server_address", Address, None, "where to listen"),
    CoreOption("server_advertise", Address, None, "the address that peers are told to dial"),
    CoreOption("server_metadata", dict[str, str], None, "metadata of this node"),
    CoreOption("server_threads", int, 32, "threads that run handlers without async", 1),
    CoreOption("server_max_calls", int, 1000, "calls in flight; one more is answered 503", 1),
    CoreOption("register_ttl", Duration, 30.0, "how long a registration outlives its node", 1),
    CoreOption("register_interval", Duration, None, "between heartbeats; a third of the ttl", 0.1),
    CoreOption("watch_resync", Duration, 30.0, "between full lists of a watched service", 1),
    CoreOption("connect_timeout", Duration, 5.0, "for a component to connect", 0.01),
    CoreOption("close_timeout", Duration, 5.0, "for a component to close", 0.01),
    CoreOption("client_request_timeout", Duration, 5.0, "deadline of a call, over all attempts"),
    CoreOption("client_retries", int, 1, "repeats of an idempotent call that may have run", 0),
    CoreOption("client_retry_budget", float, 0.2, "retries as a share of the calls", 0),
    CoreOption("client_retry_floor", float, 10.0, "retries a second that are always allowed", 0),
    CoreOption("client_ejection_failures", int, 5, "failures in a row before ejection; 0: off", 0),
    CoreOption(
        "client_ejection_time", Duration, 30.0, "of the first; the nth takes n times that", 0
    ),
    CoreOption("client_ejection_max", Duration, 300.0, "the longest ejection", 0),
    CoreOption("client_pool_size", int, 100, "idle connections kept for each node", 0, True),
    CoreOption("client_pool_ttl", Duration, 60.0, "how long they are kept", 0, True),
    CoreOption("client_forward", tuple[str, ...], (), "metadata that calls of a handler pass on"),
    CoreOption("publish_timeout", Duration, 5.0, "for the broker to confirm a message", 0.01),
    CoreOption("subscriber_attempts", int, 5, "runs of a handler before a message is dead", 1),
    CoreOption("subscriber_backoff", Duration, 0.1, "the first wait between attempts", 0),
    CoreOption("subscriber_backoff_max", Duration, 5.0, "the longest wait between attempts", 0),
    CoreOption("subscriber_prefetch", int, 100, "messages delivered and not yet acked", 1),
    CoreOption("drain_delay", Duration, 2.0, "at a stop: answer as before for so long"),
    CoreOption("grace", Duration, 10.0, "at a stop: time for what still runs"),
    CoreOption("log_level", Literal["debug", "info", "warning", "error", "critical"], "info"),
    CoreOption("log_format", Literal["text", "json"], "text"),
    CoreOption("loop", Literal["auto", "uvloop", "asyncio"], "auto", "auto: uvloop if installed"),
    CoreOption("traceback", bool, False, "show the traceback of an error at start"),
    CoreOption("help", bool, False, "show this and stop"),
)
