"""From a subscriber's annotations to a handler of events."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..codec.set import CodecSet
from ..context import Call, Metadata, enter, user_metadata
from ..server.endpoint import type_hints
from ..wrapper.base import WrappedRequest, Wrapper, enter_wrapped, wrapped
from .subscription import Event

Subscriber = Callable[..., Awaitable[None]]
_event: ContextVar[Event] = ContextVar("micro_event")  # for what is inside the wrappers


@dataclass(frozen=True, slots=True)
class SubscriberPlan:
    """A function that takes the message and, when one parameter is annotated with it, the Event."""

    function: Subscriber
    message: Any
    message_name: str | None
    event_name: str | None

    def bind(
        self, service: str, codecs: CodecSet, wrappers: Sequence[Wrapper] = ()
    ) -> Callable[[Event], Awaitable[None]]:
        """A handler that decodes by the event's content type. CodecError is not for retrying.

        Raises TypeError, naming the function, for a message that no codec carries.
        """
        try:
            read = codecs.reader(self.message)
        except TypeError as error:
            raise TypeError(f"{self.function.__qualname__}: {error}") from error
        run = wrapped(wrappers, self._last) if wrappers else None

        async def handle(event: Event) -> None:
            header = event.message.header
            metadata = user_metadata(header)
            enter(Call(service, event.topic, Metadata(metadata)))
            value = None
            if self.message_name is not None:
                content_type = header.get("Content-Type") or "application/json"
                value = read(content_type, event.message.body)
            if run is None:
                await self._call(event, value)
                return
            _event.set(event)
            await run(WrappedRequest("subscriber", service, event.topic, value, dict(metadata)))

        return handle

    async def _last(self, request: WrappedRequest) -> None:
        enter_wrapped(request)
        await self._call(_event.get(), request.value)

    async def _call(self, event: Event, value: Any) -> None:
        arguments: dict[str, Any] = {}
        if self.message_name is not None:
            arguments[self.message_name] = value
        if self.event_name is not None:
            arguments[self.event_name] = event
        await self.function(**arguments)


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
