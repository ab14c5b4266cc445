"""What arrives of what was sent."""

from __future__ import annotations

import asyncio

from micro_core import Message, Transport
from micro_core.transport.base import Socket

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import TransportLab, all_of, asked, echo

VALUES = {
    "Empty": "",
    "Words": "two words",
    "Tab": "a\tb",
    "Punctuation": "\"quoted\", 'a;b' \\ %41 %0d%0a =?utf-8?q?a?= <x>&amp; {}[]()|",
    "Number": "0012",
    "Letters": "Жанна 你好 é",
    "Emoji": "👋🏽",
    "No-Break": "a\u00a0b",
    "Long": "x" * 4000,
    "Json": '{"id":"x","code":500}',
}
BODIES = (
    b"",
    b"\0",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"\n.\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b'{"a":1}\n',
    bytes(range(256)),
    bytes(range(255, -1, -1)) * 64,
    b"\xff\xfe\x00\x01",
    "Жанна 👋".encode(),
)


class Messages(Suite[Transport]):
    @promise()
    async def test_a_message_arrives_whole(self, lab: TransportLab) -> None:
        """Header and body of a message arrive as they were sent, in either direction."""
        client, server = await lab.pair()
        sent = Message({"Micro-Id": "1", "Content-Type": "application/json"}, b'{"a":1}')
        await _pass(client, server, sent)
        await _pass(server, client, sent)

    @promise()
    async def test_empty_messages_arrive(self, lab: TransportLab) -> None:
        """A message without a body, and one with neither body nor header, is a message."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            await _pass(one, other, Message({"Micro-Id": "1"}, b""))
            await _pass(one, other, Message({}, b""))
            await _pass(one, other, Message({}, b"last"))

    @promise()
    async def test_bodies_of_any_bytes_arrive(self, lab: TransportLab) -> None:
        """A body may hold any bytes, also those that mean something to a protocol."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            for body in BODIES:
                await _pass(one, other, Message({"Micro-Id": "1"}, body))

    @promise()
    async def test_a_body_of_a_mebibyte_arrives(self, lab: TransportLab) -> None:
        """A body of 1 MiB arrives whole, in either direction."""
        client, server = await lab.pair()
        body = bytes(range(256)) * 4096
        for one, other in ((client, server), (server, client)):
            receiving = asyncio.create_task(other.recv())
            try:
                await one.send(Message({}, body))
                received = await receiving
            finally:
                receiving.cancel()
                await asyncio.wait([receiving])
            same(received.body, body)

    @promise()
    async def test_header_names_have_no_case(self, lab: TransportLab) -> None:
        """Header names arrive in their canonical spelling, however they were written."""
        client, server = await lab.pair()
        sent = {"micro-id": "1", "CONTENT-TYPE": "text/plain", "x": "y", "X-mIxEd-cAse": "z"}
        wanted = {"Micro-Id": "1", "Content-Type": "text/plain", "X": "y", "X-Mixed-Case": "z"}
        for one, other in ((client, server), (server, client)):
            await one.send(Message(sent, b"body"))
            received = (await other.recv()).header
            assert {name: received.get(name) for name in wanted} == wanted

    @promise()
    async def test_header_values_are_any_text(self, lab: TransportLab) -> None:
        """Header values may be empty, long, quoted, and in any script."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            for name, value in VALUES.items():
                await _pass(one, other, Message({name: value}, b"body"))
            await _pass(one, other, Message(dict(VALUES), b"body"))

    @promise()
    async def test_many_headers_arrive(self, lab: TransportLab) -> None:
        """Eighty header fields arrive, all of them."""
        client, server = await lab.pair()
        header = {f"X-Field-{number}": f"value {number}" for number in range(80)}
        for one, other in ((client, server), (server, client)):
            await _pass(one, other, Message(header, b"body"))

    @promise()
    async def test_messages_keep_their_order(self, lab: TransportLab) -> None:
        """A thousand messages of different sizes arrive once each and in order."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            await _many(one, other, 1000)

    @promise()
    async def test_both_sides_may_talk_at_once(self, lab: TransportLab) -> None:
        """While both sides send hundreds of messages, each receives those of the other in order."""
        client, server = await lab.pair()
        await asyncio.gather(_many(client, server, 500), _many(server, client, 500))

    @promise()
    async def test_directions_are_not_paired(self, lab: TransportLab) -> None:
        """Either side may send as many messages as it likes, whether they are answered or not."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            for number in range(5):
                await one.send(Message({}, b"%d" % number))
            await other.send(Message({}, b"back"))
            assert (await one.recv()).body == b"back"
            got = [message.body for message in await all_of(other, 5)]
            assert got == [b"0", b"1", b"2", b"3", b"4"]

    @promise()
    async def test_the_sides_share_nothing(self, lab: TransportLab) -> None:
        """Changing a header after it was sent, or one that was received, changes no other."""
        client, server = await lab.pair()
        sent = Message({"Micro-Id": "1"}, b"body")
        await client.send(sent)
        sent.header["Micro-Id"] = "2"
        received = await server.recv()
        assert received.header.get("Micro-Id") == "1"
        received.header["Other"] = "3"
        assert sent.header == {"Micro-Id": "2"}
        await client.send(Message({"Micro-Id": "1"}))
        assert "Other" not in (await server.recv()).header

    @promise()
    async def test_sending_changes_no_message(self, lab: TransportLab) -> None:
        """What was sent is as it was, so that it may be sent again."""
        client, server = await lab.pair()
        sent = Message({"micro-id": "1", "Name": "x"}, b"body")
        await client.send(sent)
        assert sent == Message({"micro-id": "1", "Name": "x"}, b"body")
        await server.recv()

    @promise()
    async def test_sockets_do_not_mix(self, lab: TransportLab) -> None:
        """Two hundred sockets that talk at once each get their own answers."""
        listener = await lab.listen(echo)
        transport = await lab.new()

        async def talk(number: int) -> None:
            socket = await lab.dial(listener, transport)
            for turn in range(10):
                body = b"%d:%d" % (number, turn)
                assert await asked(socket, body) == body
            await socket.close()

        await asyncio.gather(*[talk(number) for number in range(200)])


async def _pass(one: Socket, other: Socket, message: Message) -> None:
    await one.send(message)
    received = await other.recv()
    same(received.body, message.body)
    got = {name: received.header.get(name) for name in message.header}
    assert got == message.header


async def _many(one: Socket, other: Socket, count: int) -> None:
    async def send() -> None:
        for number in range(count):
            await one.send(Message({"Number": str(number)}, b"%d " % number * (number % 50)))

    sending = asyncio.create_task(send())
    try:
        for number in range(count):
            message = await other.recv()
            assert message.header.get("Number") == str(number)
            assert message.body == b"%d " % number * (number % 50)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
