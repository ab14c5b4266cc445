"""Protobuf: its messages as bytes and as JSON, and what is said where it is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import protobuf_messages as pb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_loops import in_loop

from micro_core import Client, CodecError, plugins
from micro_core.codec.json import JsonCodec
from micro_core.codec.protobuf import ProtobufCodec
from micro_core.errors import PluginLoadError, UnsupportedMediaType

codec = ProtobufCodec()
json = JsonCodec()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
items = st.builds(pb.Item, name=texts, price=st.floats(allow_nan=False))
orders = st.builds(
    pb.Order,
    id=st.integers(-(2**63), 2**63 - 1),
    items=st.lists(items, max_size=3),
    note_text=texts,
    first=st.none() | items,
    before=st.none() | st.builds(pb.Order, id=st.integers(0, 9), tags=st.lists(texts, max_size=2)),
    raw=st.binary(max_size=10),
    tags=st.lists(texts, max_size=3),
)


@given(orders)
def test_a_message_round_trips_as_bytes_and_as_json(order: Any) -> None:
    assert codec.decoder(pb.Order)(codec.encode(order)) == order
    assert json.decoder(pb.Order)(json.encode(order)) == order


def test_json_is_protobufs_own_mapping() -> None:
    order = pb.Order(id=1, note_text="n", raw=b"\xff")
    assert json.decoder(Any)(json.encode(order)) == {"id": "1", "noteText": "n", "raw": "/w=="}
    for text in (b'{"noteText":"n"}', b'{"note_text":"n"}'):
        assert json.decoder(pb.Order)(text).note_text == "n"


def test_unknown_fields_are_kept() -> None:
    body = codec.encode(pb.Order(id=1, note_text="kept"))
    assert codec.encode(codec.decoder(pb.Item)(body)) == body


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(CodecError, match=r"old\.Strict: missing \$\.name"):
        codec.decoder(pb.Strict)(b"")
    with pytest.raises(CodecError, match="name"):
        codec.encode(pb.Strict())


def test_none_is_an_empty_body() -> None:
    assert codec.encode(None) == b""
    assert codec.decoder(type(None))(b"\x08\x01") is None
    assert codec.decoder(Any)(b"") is None


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(CodecError, match="dict"):
        codec.encode({"id": 1})
    with pytest.raises(TypeError, match="protobuf messages"):
        codec.decoder(dict)
    with pytest.raises(CodecError, match="response="):
        codec.decoder(Any)(b"\x08\x01")


@pytest.mark.parametrize("body", [b"\xff", b"\x12\x7f", b"\x0a\x02\xff\xfe", b"\x2a" * 5000])
def test_broken_bytes_are_a_codec_error(body: bytes) -> None:
    with pytest.raises(CodecError, match=r"shop\.Item"):
        codec.decoder(pb.Item)(body)


def test_messages_within_themselves_without_end_are_a_codec_error() -> None:
    body = b""
    for _ in range(2000):
        body = b"\x2a" + _varint(len(body)) + body
    with pytest.raises(CodecError):
        codec.decoder(pb.Order)(body)
    with pytest.raises(CodecError):
        json.decoder(pb.Order)(b'{"before":' * 500 + b"{}" + b"}" * 500)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


# -- where protobuf is not installed -------------------------------------------------------------


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        if name.startswith("google."):
            raise ModuleNotFoundError("No module named 'google'")
        return found(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find)


@pytest.mark.usefixtures("absent")
def test_the_table_and_the_error_say_what_to_install() -> None:
    from micro_core.__main__ import table

    [line] = [line for line in table().splitlines() if "ProtobufCodec" in line]
    assert line.endswith(f"not available: {plugins.pip_line('protobuf')}")
    for load in (plugins.load, plugins.load_default):
        with pytest.raises(PluginLoadError) as caught:
            load("codec", "protobuf")
        assert "needs protobuf" in str(caught.value)
        assert plugins.pip_line("protobuf") in str(caught.value)


@pytest.mark.usefixtures("absent")
def test_a_client_does_without() -> None:
    async def body() -> None:
        async with Client(registry="memory", transport="memory", broker="memory") as client:
            assert client._parts is not None
            with pytest.raises(UnsupportedMediaType, match="application/json"):
                client._parts.codecs.codec("application/protobuf")

    in_loop(body)()


def test_it_is_available_here() -> None:
    assert plugins.load("codec", "protobuf") is ProtobufCodec
    done = subprocess.run(
        [sys.executable, "-m", "micro_core"], capture_output=True, text=True, check=True
    )
    assert "not available" not in done.stdout
