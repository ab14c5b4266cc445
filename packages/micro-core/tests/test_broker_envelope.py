"""Go Micro's JSON envelope, against bytes that Go wrote."""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core.broker.envelope import decode, encode, read
from micro_core.message import Message

GO_PLAIN = b'{"Header":{"Content-Type":"text/plain","Id":"0"},"Body":"aGVsbG8gZnJvbSBnbw=="}'
GO_EVENT = (
    b'{"Header":{"Content-Type":"application/json","Micro-From-Service":"go.greeter",'
    b'"Micro-Topic":"go.fixture.topic"},"Body":"eyJuYW1lIjoiSm9obiIsImNvdW50IjowfQ=="}'
)
NAMES = st.text(string.ascii_letters + string.digits + "-", min_size=1)


def test_bytes_are_those_of_go() -> None:
    header = {
        "Content-Type": "application/json",
        "Micro-From-Service": "go.greeter",
        "Micro-Topic": "go.fixture.topic",
    }
    message = Message(header, b'{"name":"John","count":0}')
    assert encode(message) == GO_EVENT
    assert decode(GO_EVENT) == message
    assert decode(GO_PLAIN) == Message({"Content-Type": "text/plain", "Id": "0"}, b"hello from go")


@given(st.dictionaries(NAMES, st.text()), st.binary())
def test_any_message_survives_and_any_json_reader_understands_it(
    header: dict[str, str], body: bytes
) -> None:
    wire = encode(Message(header, body))
    parsed = json.loads(wire)
    assert list(parsed) == ["Header", "Body"]
    assert parsed["Header"] == header
    assert base64.b64decode(parsed["Body"], validate=True) == body
    back = decode(wire)
    assert back is not None
    assert back.body == body
    assert set(back.header.values()) <= set(header.values())


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b'{"Header":null,"Body":null}', Message()),
        (b'{"Header":{},"Body":""}', Message()),
        (b' {"Body":"YQ==","Header":{"micro-id":"1"}}\n', Message({"Micro-Id": "1"}, b"a")),
    ],
)
def test_null_and_other_spellings_are_understood(wire: bytes, message: Message) -> None:
    assert decode(wire) == message


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"hello",
        b"null",
        b"{}",
        b"[]",
        b'{"Header":{}}',
        b'{"Body":"YQ=="}',
        b'{"Header":{},"Body":"YQ==","Topic":"t"}',
        b'{"Header":{"a":1},"Body":"YQ=="}',
        b'{"Header":[],"Body":"YQ=="}',
        b'{"Header":{},"Body":"no base64!"}',
        b'{"Header":{},"Body":"YQ=="',
        b'{"Header":{},"Body":{}}',
        b'{"header":{},"body":"YQ=="}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"Header":{"a":"\xff"},"Body":"YQ=="}',
    ],
)
def test_any_other_value_is_the_body(value: bytes) -> None:
    assert decode(value) is None
    assert read(value, {"Trace": "1"}) == Message({"Trace": "1"}, value)


@given(st.binary())
def test_no_bytes_are_an_error(value: bytes) -> None:
    message = read(value, {})
    assert message.body == value or decode(value) == message


@pytest.mark.parametrize("name", ["content-type", "Micro-Topic"])
def test_native_headers_mean_that_the_value_is_the_body(name: str) -> None:
    message = read(GO_PLAIN, {name: "x", "id": "9"})
    assert message.body == GO_PLAIN
    assert message.header["Id"] == "9"


def test_without_them_the_envelope_is_opened() -> None:
    assert read(GO_PLAIN, {"Trace": "1"}) == decode(GO_PLAIN)
