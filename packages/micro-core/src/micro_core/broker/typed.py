"""From a subscriber's annotations to a handler of events."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..codec.set import CodecSet
from ..context import Call, Metadata, enter, user_metadata
from ..server.endpoint import type_hints
from .subscription import Event

Subscriber = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SubscriberPlan:
    """A function that takes the message and, when one parameter is annotated with it, the Event."""

    function: Subscriber
    message: Any
    message_name: str | None
    event_name: str | None

    def bind(self, service: str, codecs: CodecSet) -> Callable[[Event], Awaitable[None]]:
        """A handler that decodes by the event's content type. CodecError is not for retrying."""

        async def handle(event: Event) -> None:
            header = event.message.header
            enter(Call(service, event.topic, Metadata(user_metadata(header))))
            arguments: dict[str, Any] = {}
            if self.message_name is not None:
                content_type = header.get("Content-Type") or "application/json"
                value = codecs.decode(content_type, self.message, event.message.body)
                arguments[self.message_name] = value
            if self.event_name is not None:
                arguments[self.event_name] = event
            await self.function(**arguments)

        return handle


def subscriber_plan(function: Subscriber) -> SubscriberPlan:
    """Raises TypeError naming the function and what is missing."""
    where = getattr(function, "__qualname__", str(function))
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{where}: a subscriber is an 'async def'")
    hints = type_hints(function, where)
    message_name = event_name = None
    for name in inspect.signature(function).parameters:
        if name not in hints:
            raise TypeError(f"{where}: annotate {name!r}; Any carries plain values")
        if hints[name] is Event:
            event_name = name
        elif message_name is None:
            message_name = name
        else:
            raise TypeError(f"{where}: a subscriber takes one message and, if it likes, the Event")
    message = hints[message_name] if message_name is not None else None
    return SubscriberPlan(function, message, message_name, event_name)
