"""One value in every content type, and the endpoints of gRPC's interoperability tests for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from micro_core import MicroError, current

Endpoints = Mapping[str, Callable[..., Any]]


@dataclass
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Wire:
    """A content type, the type of values that it carries here, and those values as texts."""

    content_type: str
    type: Any
    make: Callable[[str], Any]
    text: Callable[[Any], str]


def wire(content_type: str) -> Wire:
    """Raises LookupError for a content type that has no value here."""
    match content_type:
        case "application/json":
            return Wire(content_type, Text, Text, _text)
        case "application/octet-stream":
            return Wire(content_type, bytes, str.encode, bytes.decode)
        case "application/protobuf":
            kind = _message()
            return Wire(content_type, kind, lambda text: kind(text=text), _text)
        case _:
            raise LookupError(f"no value for {content_type}: override RpcSuite.wire")


def _text(value: Any) -> str:
    return str(value.text)


@cache
def _message() -> Any:
    """A protobuf message with one field, in a pool of its own."""
    new = import_module("google.protobuf.descriptor_pb2")
    file = new.FileDescriptorProto(name="interop.proto", package="interop", syntax="proto3")
    fields = new.FieldDescriptorProto
    file.message_type.add(name="Text").field.add(
        name="text", number=1, type=fields.TYPE_STRING, label=fields.LABEL_OPTIONAL
    )
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    factory = import_module("google.protobuf.message_factory")
    return factory.GetMessageClass(pool.FindMessageTypeByName("interop.Text"))


@dataclass
class Interop:
    """Handlers of one content type, and their account."""

    wire: Wire
    seen: list[str] = field(default_factory=list[str])
    left: list[float | None] = field(default_factory=list["float | None"])
    running: int = 0
    cancelled: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def endpoints(self) -> Endpoints:
        one, many = self.wire.type, AsyncIterator[self.wire.type]  # type: ignore[name-defined]
        return dict(
            _typed(name, function, request, response)
            for name, function, request, response in (
                ("Echo", self.echo, one, one),
                ("Fail", self.fail, one, one),
                ("Crash", self.crash, one, one),
                ("Wait", self.wait, one, one),
                ("Tell", self.tell, one, one),
                ("Join", self.join, many, one),
                ("Split", self.split, one, many),
                ("Talk", self.talk, many, many),
                ("Crack", self.crack, one, many),
            )
        )

    async def echo(self, request: Any) -> Any:
        self.seen.append(self.wire.text(request))
        remaining = current().remaining()
        self.left.append(remaining)
        return request

    async def fail(self, request: Any) -> Any:
        """The text is the detail."""
        self.seen.append(self.wire.text(request))
        raise MicroError(self.wire.text(request), id="interop", code=409, status="Odd One")

    async def crash(self, request: Any) -> Any:
        raise LookupError(f"secret {self.wire.text(request)}")

    async def wait(self, request: Any) -> Any:
        self.seen.append(self.wire.text(request))
        self.running += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return request

    async def tell(self, request: Any) -> Any:
        """All metadata, as lines."""
        lines = sorted(f"{name}: {value}" for name, value in current().metadata.items())
        return self.wire.make("\n".join(lines))

    async def join(self, requests: AsyncIterator[Any]) -> Any:
        return self.wire.make(" ".join([self.wire.text(request) async for request in requests]))

    async def split(self, request: Any) -> AsyncIterator[Any]:
        for word in self.wire.text(request).split():
            yield self.wire.make(word)

    async def crack(self, request: Any) -> AsyncIterator[Any]:
        """The text is the detail of the error after one message, which is the same text."""
        yield request
        await self.fail(request)

    async def talk(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self.running += 1
        try:
            async for request in requests:
                self.seen.append(self.wire.text(request))
                yield request
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def _typed(
    name: str, function: Callable[..., Any], request: Any, response: Any
) -> tuple[str, Callable[..., Any]]:
    """``function`` as an endpoint whose annotations are these types."""
    if function.__name__ in ("split", "talk", "crack"):

        async def stream(value: Any) -> AsyncIterator[Any]:
            async with aclosing(function(value)) as items:
                async for item in items:
                    yield item

        made: Callable[..., Any] = stream
    else:

        async def call(value: Any) -> Any:
            return await function(value)

        made = call
    made.__annotations__ = {"value": request, "return": response}
    return f"Interop.{name}", made
