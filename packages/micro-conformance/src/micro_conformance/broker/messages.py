"""What is published is what is delivered, where it is to be."""

from __future__ import annotations

from typing import ClassVar

from micro_core import Broker, Event, InvalidName, Message, MessageTooLarge, NotSupported
from micro_core.broker.base import PublishOptions

from ..bodies import same
from ..promise import promise
from ..suite import Suite
from .lab import BrokerLab, Sink, raises

ODD_VALUES = {
    "Blanks": "a b  c",
    "Signs": "a=b; c: d, \"e\" 'f' \\ / ? & % %41 + # { } [ ] < > | ~ ^ `",
    "Json": '{"a": ["b", null]}',
    "Long": "x" * 4000,
    "Number": "0042",
    "Case": "MiXeD",
}
ODD_NAMES = ("a.b", "a/b", "a b", "a:b", "a*", "a>", "a#", "a+b", "a%2Fb", "Ä-ж-🐙", "$a", "a..b")
NO_NAMES = ("", " a", "a ", "a\nb", "a\r", "a\0b", "a\tb", "x" * 256, "ж" * 128)


class Foreign(PublishOptions):
    """Options that no plugin has."""


class Messages(Suite[Broker]):
    """huge: a body of so many bytes may be refused. pattern: stands for one part of a topic."""

    huge: ClassVar[int] = 16 << 20
    pattern: ClassVar[str] = "*"

    async def _round(self, lab: BrokerLab, *messages: Message) -> list[Event]:
        """Publish them, and the events in their order."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        for number, message in enumerate(messages, 1):
            await broker.publish(topic, message)
            await lab.eventually(
                lambda number=number: len(sink.events) >= number,  # type: ignore[misc]
                f"message {number} is delivered",
            )
        assert len(sink.events) == len(messages), "some were delivered more than once"
        return sink.events

    async def _bodies(self, lab: BrokerLab, *bodies: bytes) -> None:
        events = await self._round(lab, *(Message({}, body) for body in bodies))
        for event, body in zip(events, bodies, strict=True):
            same(event.message.body, body)

    async def _header(self, lab: BrokerLab, header: dict[str, str]) -> None:
        [event] = await self._round(lab, Message(header, b"x"))
        found = {name: event.message.header.get(name) for name in header}
        assert found == header

    @promise()
    async def test_a_message_arrives_whole(self, lab: BrokerLab) -> None:
        """A subscriber gets a message's body and header, and the topic it was published to."""
        publisher, subscriber, topic = await lab.new(), await lab.new(), lab.topic()
        sink = await lab.listen(subscriber, topic)
        header = {"Content-Type": "application/json", "Micro-Id": "4711", "Colour": "blue"}
        await publisher.publish(topic, Message(header, b'{"a": 1}'))
        await lab.gets(sink, [b'{"a": 1}'])
        [event] = sink.events
        assert event.topic == topic
        assert event.key is None
        assert header.items() <= event.message.header.items()

    @promise()
    async def test_an_empty_body_arrives(self, lab: BrokerLab) -> None:
        """A message without a body is delivered, and its body is empty."""
        await self._bodies(lab, b"", b"x", b"")

    @promise()
    async def test_a_body_of_any_bytes_arrives(self, lab: BrokerLab) -> None:
        """A body may be any bytes: no text, no JSON, no line, no end of one."""
        await self._bodies(lab, bytes(range(256)), b"\xff\xfe\xc3", b"\r\n.\r\n\0", b" \n")

    @promise()
    async def test_a_body_is_not_taken_for_an_envelope(self, lab: BrokerLab) -> None:
        """A body that looks like the envelope of an event is delivered as it is."""
        await self._bodies(lab, b'{"Header":{"A":"b"},"Body":"eA=="}', b'{"Header":null}', b"{}")

    @promise()
    async def test_a_body_of_a_mebibyte_arrives(self, lab: BrokerLab) -> None:
        """A body of one mebibyte arrives as it was."""
        await self._bodies(lab, bytes(range(256)) * 4096)

    @promise()
    async def test_a_body_too_large_is_a_clear_error(self, lab: BrokerLab) -> None:
        """A huge body arrives, or is refused with MessageTooLarge; then all goes on as before."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        wanted = [b"before", b"x" * self.huge, b"after"]
        for body in list(wanted):
            try:
                await broker.publish(topic, Message({}, body))
            except MessageTooLarge as error:
                assert error.happened == "no"
                assert len(body) > 1 << 20, "smaller ones are not too large"
                wanted.remove(body)
        lab.figure("refuses a huge body", len(wanted) == 2)
        await lab.gets(sink, wanted)

    @promise()
    async def test_header_values_arrive(self, lab: BrokerLab) -> None:
        """Header values arrive letter by letter, whatever signs are in them."""
        await self._header(lab, ODD_VALUES)

    @promise()
    async def test_header_values_in_any_script_arrive(self, lab: BrokerLab) -> None:
        """Header values may be in any script."""
        await self._header(lab, {"Name": "Жанна Müller 🐙", "Other": "日本語"})

    @promise()
    async def test_an_empty_header_value_arrives(self, lab: BrokerLab) -> None:
        """A header with an empty value is there, and empty."""
        await self._header(lab, {"Empty": "", "Full": "x"})

    @promise()
    async def test_many_headers_arrive(self, lab: BrokerLab) -> None:
        """A message may have a hundred headers."""
        await self._header(lab, {f"Name-{number}": f"value {number}" for number in range(100)})

    @promise()
    async def test_header_names_have_one_case(self, lab: BrokerLab) -> None:
        """However a header's name is written, it arrives as Canonical-Case."""
        names = {"lower-case": "1", "UPPER-CASE": "2", "miXed-cAse": "3", "x": "4", "A_b.c": "5"}
        [event] = await self._round(lab, Message(names, b"x"))
        header = event.message.header
        found = [header.get(n) for n in ("Lower-Case", "Upper-Case", "Mixed-Case", "X", "A_b.c")]
        assert found == ["1", "2", "3", "4", "5"]

    @promise()
    async def test_a_header_that_cannot_travel_is_refused(self, lab: BrokerLab) -> None:
        """A header with a line break or a NUL, or no token as its name, is an InvalidName."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        for header in ({"A": "b\nc"}, {"A": "b\rc"}, {"A": "\0"}, {"": "a"}, {"A b": "c"}):
            with raises(InvalidName):
                await broker.publish(topic, Message(header, b"refused"))
        await lab.publish(broker, topic, [b"sent"])
        await lab.gets_no_more(sink, [b"sent"])

    @promise()
    async def test_headers_belong_to_their_message(self, lab: BrokerLab) -> None:
        """A message has no header of the one before."""
        one, two = Message({"One": "1"}, b"1"), Message({"Two": "2"}, b"2")
        first, second = await self._round(lab, one, two)
        assert "Two" not in first.message.header
        assert "One" not in second.message.header

    @promise()
    async def test_a_published_message_stays_the_publishers(self, lab: BrokerLab) -> None:
        """Publishing leaves a message as it was, and changing it afterwards changes nothing."""
        broker, topic = await lab.new(), lab.topic()
        sink = Sink()
        message = Message({"lower": "1"}, b"x")
        await lab.give(broker, topic, sink)
        await broker.publish(topic, message)
        assert message == Message({"lower": "1"}, b"x")
        message.header["lower"] = "changed"
        await lab.gets(sink, [b"x"])
        assert sink.events[0].message.header["Lower"] == "1"

    @promise()
    async def test_subscribers_do_not_share_a_message(self, lab: BrokerLab) -> None:
        """What one subscriber does to the message it got, another one does not see."""
        broker, topic = await lab.new(), lab.topic()
        one, two = await lab.listen(broker, topic), await lab.listen(broker, topic)
        await broker.publish(topic, Message({"Colour": "blue"}, b"x"))
        for sink in (one, two):
            await lab.gets(sink, [b"x"])
            assert sink.events[0].message.header["Colour"] == "blue"
            sink.events[0].message.header["Colour"] = "changed"

    @promise(ability="key")
    async def test_a_key_arrives(self, lab: BrokerLab) -> None:
        """The key that a message was published with comes with it, and none comes with others."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        for key in (b"blue", None, b"\xff\0"):
            await broker.publish(topic, Message({}, b"x"), key=key)
        await lab.gets(sink, [b"x"] * 3)
        assert {event.key for event in sink.events} == {b"blue", None, b"\xff\0"}

    @promise()
    async def test_topics_are_apart(self, lab: BrokerLab) -> None:
        """A subscriber gets no message of another topic, however alike their names are."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        for other in (f"{topic}.more", f"{topic}-more", topic[:-2], topic.upper(), f"x{topic}"):
            await lab.publish(broker, other, [b"other"])
        await lab.publish(broker, topic, [b"own"])
        await lab.gets_no_more(sink, [b"own"])

    @promise()
    async def test_an_odd_topic_works_or_is_refused(self, lab: BrokerLab) -> None:
        """A topic of odd signs works like any other, or is an InvalidName to both sides."""
        broker = await lab.new()
        refused: list[str] = []
        for odd in ODD_NAMES:
            topic = f"{lab.topic()}.{odd}"
            try:
                sink = await lab.listen(broker, topic)
            except InvalidName:
                refused.append(odd)
                with raises(InvalidName):
                    await lab.publish(broker, topic, [b"x"])
                continue
            if self._is_pattern(lab, odd):
                continue
            await lab.publish(broker, topic, [odd.encode()])
            await lab.gets(sink, [odd.encode()])
            assert sink.events[0].topic == topic
        lab.figure("topics refused", refused)

    def _is_pattern(self, lab: BrokerLab, odd: str) -> bool:
        return bool(lab.features.wildcard) and any(sign in odd for sign in "*>#+")

    @promise()
    async def test_a_pattern_matches_where_patterns_are(self, lab: BrokerLab) -> None:
        """A pattern gets the topics it stands for; to a broker without patterns it is a name."""
        broker, other, topic = await lab.new(), await lab.new(), lab.topic()
        try:
            sink = await lab.listen(broker, f"{topic}.{self.pattern}")
        except (InvalidName, NotSupported):
            assert not lab.features.wildcard, "patterns are declared, and one was refused"
            return
        names = [f"{topic}.a", f"{topic}.b", f"{topic}x.a"]
        for name in names:
            await lab.publish(other, name, [name.encode()])
        wanted = names[:2] if lab.features.wildcard else []
        await lab.gets_no_more(sink, [name.encode() for name in wanted])
        assert [event.topic for event in sink.events] == wanted

    @promise()
    async def test_a_name_that_no_broker_carries_is_refused(self, lab: BrokerLab) -> None:
        """Empty, endless and unprintable names of topics and queues are an InvalidName."""
        broker = await lab.new()
        for name in NO_NAMES:
            with raises(InvalidName):
                await lab.publish(broker, name, [b"x"])
            with raises(InvalidName):
                await lab.listen(broker, name)
            with raises(InvalidName):
                await lab.listen(broker, lab.topic(), queue=name)

    @promise()
    async def test_options_of_another_plugin_are_refused(self, lab: BrokerLab) -> None:
        """Options of a type that is not the plugin's own are NotSupported, and nothing is sent."""
        broker, topic = await lab.new(), lab.topic()
        sink = await lab.listen(broker, topic)
        with raises(NotSupported):
            await broker.publish(topic, Message({}, b"refused"), options=Foreign())
        await lab.publish(broker, topic, [b"sent"])
        await lab.gets_no_more(sink, [b"sent"])
