"""What is refused."""

from __future__ import annotations

from micro_core import BadRequest, InvalidName, Message, MicroError, TooLarge, Transport
from micro_core.transport.base import Socket

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import TransportLab

UNFIT_VALUES = ("a\r\nInjected: yes", "a\nb", "a\rb", "\0", "a\r\n\r\nbody", "\r\n")
UNFIT_NAMES = ("", "a b", "a:b", "a\r\nInjected", "a\n", "a\0b", " a", "a ", "é")
RESERVED = (
    "Content-Length",
    "Transfer-Encoding",
    "Content-Encoding",
    "Connection",
    "Keep-Alive",
    "Host",
    "Expect",
    "Upgrade",
    "Te",
    "Trailer",
    "Reply-To",
    "Correlation-Id",
    "Message-Id",
    "Grpc-Timeout",
    "Status",
)


class Limits(Suite[Transport]):
    @promise()
    async def test_a_body_too_large_is_refused(self, lab: TransportLab) -> None:
        """Sending a body over the limit is TooLarge before any of it is sent."""
        client, server = await lab.pair()
        size: int = getattr(self, "too_large", 4 * 1024 * 1024 + 1)
        for one, other in ((client, server), (server, client)):
            async with lab.refusing(TooLarge, happened="no"):
                await one.send(Message({"Micro-Id": "large"}, bytes(size)))
            await _still_right(lab, one, other)

    @promise()
    async def test_a_header_too_large_is_refused(self, lab: TransportLab) -> None:
        """A header of a MiB arrives whole, or its sender or its receiver gets a typed error."""
        client, server = await lab.pair()
        value = "x" * (1 << 20)
        try:
            await client.send(Message({"Large": value}, b"body"))
            received = await server.recv()
        except MicroError as error:
            assert error.code in (400, 413, 431, 503), f"{error!r} does not say what is wrong"
        else:
            same(received.header.get("Large", ""), value, "the header")
            assert received.body == b"body"

    @promise()
    async def test_header_values_cannot_inject(self, lab: TransportLab) -> None:
        """A header value with CR, LF or NUL is refused with InvalidName and never sent."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            for value in UNFIT_VALUES:
                async with lab.refusing(InvalidName, happened="no"):
                    await one.send(Message({"Name": value}, b"injected"))
            await _still_right(lab, one, other)

    @promise()
    async def test_header_names_cannot_inject(self, lab: TransportLab) -> None:
        """A header name that is no token of ASCII is refused with InvalidName and never sent."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            for name in UNFIT_NAMES:
                async with lab.refusing(InvalidName, happened="no"):
                    await one.send(Message({name: "value"}, b"injected"))
            await _still_right(lab, one, other)

    @promise(timeout=120)
    async def test_reserved_headers_are_whole_or_refused(self, lab: TransportLab) -> None:
        """Headers with names that protocols use arrive as they are or are refused."""
        for name in RESERVED:
            client, server = await lab.pair()
            try:
                await client.send(Message({name: "7"}, b"body"))
            except BadRequest:
                pass
            else:
                received = await server.recv()
                assert received.header.get(name) == "7", f"{name} was lost or changed"
                assert received.body == b"body"
                await server.send(Message({}, b"answer"))
                assert (await client.recv()).body == b"answer"


async def _still_right(lab: TransportLab, one: Socket, other: Socket) -> None:
    """What comes next is the next message, or the end."""
    try:
        await one.send(Message({"Micro-Id": "next"}, b"next"))
        received = await other.recv()
    except MicroError:
        return
    assert received.body == b"next", "something of what was refused has been sent"
    assert set(received.header) == {"Micro-Id"} or received.header.get("Micro-Id") == "next"
