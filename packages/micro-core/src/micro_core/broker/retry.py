"""Retry in place, then a dead letter: what a service puts around the handler of an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..backoff import Backoff
from ..errors import CodecError, InvalidName, UnsupportedMediaType
from ..message import Header, Message, checked_header

if TYPE_CHECKING:
    from .base import Broker, Handler
    from .subscription import Event

_UNREADABLE = (CodecError, UnsupportedMediaType)
log = logging.getLogger("micro.broker")

_ERROR_LIMIT = 4096


def retrying(
    handler: Handler,
    broker: Broker,
    *,
    attempts: int = 5,
    backoff: tuple[float, float] = (0.1, 5.0),
    dead_letters: bool = True,
) -> Handler:
    """``handler``, run up to ``attempts`` times for an event with ``backoff`` seconds between.

    What still fails is published to ``<topic>.dead`` and acked once that is confirmed; a failed
    publish raises, so that the event is nacked. What does not decode is not tried again. The dead
    letter has the header of the message and ``Micro-Error``, ``Micro-Attempts``, and in
    ``Micro-Topic`` and ``Micro-From-Topic`` the topic it came from. Without ``dead_letters`` the
    handler's last error is raised.
    """

    async def retried(event: Event) -> None:
        delays = Backoff(*backoff)
        while True:
            try:
                return await handler(event)
            except Exception as error:
                if event.settled:
                    raise
                if event.attempts >= attempts or isinstance(error, _UNREADABLE):
                    if not dead_letters:
                        raise
                    return await _bury(broker, event, error)
                log.warning("%s: attempt %d failed: %r", event.topic, event.attempts, error)
            event.attempts += 1
            await asyncio.sleep(delays.next())

    return retried


async def _bury(broker: Broker, event: Event, error: Exception) -> None:
    header = _publishable(event.message.header) | {
        "Micro-Error": _one_line(f"{type(error).__name__}: {error}"),
        "Micro-Attempts": str(event.attempts),
        "Micro-Topic": event.topic,
        "Micro-From-Topic": event.topic,  # some brokers write their own topic into Micro-Topic
    }
    letter = Message(header, event.message.body)
    key = event.key if broker.features.key else None
    await broker.publish(f"{event.topic}.dead", letter, key=key)
    log.error("%s: dead letter after %d attempts", event.topic, event.attempts, exc_info=error)
    await event.ack()


def _publishable(header: Mapping[str, str]) -> Header:
    """A foreign producer's header without what no publish would accept."""
    clean: Header = {}
    for name, value in header.items():
        try:
            clean |= checked_header({name: value})
        except InvalidName:
            continue
    return clean


def _one_line(text: str) -> str:
    """Printable ASCII, as a header of any broker can carry it."""
    flat = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
    return "".join(c for c in flat if c.isprintable())[:_ERROR_LIMIT]
