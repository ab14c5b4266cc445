"""A client that reaches nobody: it answers what the test says, and remembers what it was asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, Unpack, cast

from ..client.client import Client
from ..client.options import CallOptions, chosen_options
from ..client.stream import Stream
from ..codec.bytes import BytesCodec
from ..codec.json import JsonCodec
from ..codec.set import CodecSet
from ..message import checked_header

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Called:
    """A call, a stream or a publish, with the very objects that were given.

    ``options`` are all other keywords that were given, such as ``timeout``; ``sent`` are the
    messages sent into a stream. A publish has its topic in ``endpoint`` and no service.
    """

    service: str
    endpoint: str
    request: Any = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sent: list[Any] = field(default_factory=list[Any])


class RecordingClient(Client):
    """Give it to code that takes a Client. It needs no loop to be made, and no opening.

    Stubs, ``options`` and ``client.blocking`` work, the last once it is opened. Replies go the
    way over the codec: a script may say ``{"greeting": "hi"}`` where the caller asks for a
    class, and gets a CodecError for what would not fit. A call that nobody scripted is an
    AssertionError.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.calls: list[Called] = []
        self.published: list[Called] = []
        self._replies: dict[_Key, list[Any]] = {}
        self._codecs = CodecSet([JsonCodec(), BytesCodec()], JsonCodec())

    def reply(self, service: str, endpoint: str, *replies: Any) -> Self:
        """Script the calls of an endpoint: one reply each, the last one for ever.

        A reply is a value, an exception to raise, or a function, ``async`` or not, from the
        request to either. For a stream it is the list of its messages; an exception among them
        ends it.
        """
        if not replies:
            raise ValueError(f"no reply for {service} {endpoint}: give one or more")
        self._replies[service, endpoint] = list(replies)
        return self

    async def open(self, parts: object = None) -> None:
        self.blocking.open()

    async def close(self) -> None:
        await self.blocking.close()

    async def call(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        response: Any = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        self.calls.append(_called(service, endpoint, request, chosen_options(options)))
        reply = await self._next((service, endpoint), request)
        return self._as(response, _raised(reply))

    def stream(
        self,
        service: str,
        endpoint: str,
        request: object = None,
        *,
        response: Any = None,
        **options: Unpack[CallOptions],
    ) -> Stream[Any]:
        called = _called(service, endpoint, request, chosen_options(options))
        self.calls.append(called)
        return _Stream(self, called, response)

    async def publish(self, topic: str, message: object, **options: Any) -> None:
        self.published.append(_called("", topic, message, options))

    async def _next(self, key: _Key, request: object) -> Any:
        replies = self._replies.get(key)
        if replies is None:
            service, endpoint = key
            raise AssertionError(
                f"nobody scripted {service} {endpoint}: "
                f"client.reply({service!r}, {endpoint!r}, ...) does"
            )
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply) and not isinstance(reply, type):
            reply = reply(request)
            reply = await reply if inspect.isawaitable(reply) else reply
        return reply

    def _as(self, type_: Any, value: Any) -> Any:
        content_type = self._codecs.content_type_for(value)
        body = self._codecs.encode(content_type, value)
        return self._codecs.decode(content_type, Any if type_ is None else type_, body)


class _Stream(Stream[Any]):
    def __init__(self, client: RecordingClient, called: Called, type_: Any) -> None:
        self._client = client
        self._called = called
        self._type = type_
        self._messages: list[Any] = []

    async def __aenter__(self) -> Self:
        called = self._called
        reply = await self._client._next((called.service, called.endpoint), called.request)
        messages: Sequence[Any] = _raised(reply)
        self._messages = list(messages)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._messages.clear()

    async def send(self, message: object) -> None:
        self._called.sent.append(message)

    async def end(self) -> None:
        pass

    async def recv(self) -> Any:
        if not self._messages:
            raise StopAsyncIteration
        return self._client._as(self._type, _raised(self._messages.pop(0)))


def _called(service: str, endpoint: str, request: object, options: Mapping[str, Any]) -> Called:
    left = dict(options)
    metadata = checked_header(left.pop("metadata", None) or {})
    return Called(service, endpoint, request, metadata, left)


def _raised(reply: Any) -> Any:
    if isinstance(reply, BaseException):
        raise reply
    if isinstance(reply, type) and issubclass(reply, BaseException):
        raise reply()
    return cast(Any, reply)
