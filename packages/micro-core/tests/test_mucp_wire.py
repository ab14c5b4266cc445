"""Errors, deadlines and names of mucp in headers, and what Go Micro writes there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core import Draining, EndpointNotFound, MicroError, NotFound, Unavailable, mucp
from micro_core.client.base import RpcRequest
from micro_core.errors import error_for
from micro_core.message import Message


def received(header: dict[str, str]) -> MicroError:
    with pytest.raises(MicroError) as caught:
        mucp.raise_error(header)
    return caught.value


texts = st.text(max_size=200)


@given(texts, texts, st.integers(100, 599), st.text(min_size=1, max_size=50))
def test_an_error_arrives_whole(id: str, detail: str, code: int, status: str) -> None:
    sent = MicroError(detail, id=id, code=code, status=status)
    header = mucp.error_header(sent)
    assert header["Micro-Error"].isascii()
    assert "\n" not in header["Micro-Error"]
    error = received(header)
    assert (error.id, error.code, error.detail, error.status) == (id, code, detail, status)
    assert isinstance(error, error_for(code))


def test_the_error_of_the_capture_is_read_and_written_as_go_does() -> None:
    text = '{"id":"go.greeter.fail","code":404,"detail":"nobody called John","status":"Not Found"}'
    error = received({"Micro-Error": text})
    assert isinstance(error, NotFound)
    assert mucp.error_header(error)["Micro-Error"] == text


def test_a_long_detail_is_cut() -> None:
    header = mucp.error_header(MicroError("x" * 100_000))
    assert len(json.loads(header["Micro-Error"])["detail"]) == mucp.DETAIL_LIMIT


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("rpc: can't find method Nope", EndpointNotFound, 404),
        ("rpc: can't find service Nope", EndpointNotFound, 404),
        ("anything else", MicroError, 500),
        ("[1]", MicroError, 500),
        ('{"code":"x"}', MicroError, 500),
        ('{"code":7}', MicroError, 500),
        ("[" * 100_000, MicroError, 500),
    ],
)
def test_texts_that_are_no_error_json(text: str, kind: type[MicroError], code: int) -> None:
    error = received({"Micro-Error": text})
    assert isinstance(error, kind)
    assert error.code == code


def test_draining_is_told_from_a_handler_that_says_503() -> None:
    assert isinstance(received(mucp.error_header(Draining("draining"))), Draining)
    handler = received(mucp.error_header(Unavailable("draining", happened="yes")))
    assert not isinstance(handler, Draining)
    assert handler.happened == "yes"


@given(st.floats(0.001, 1e6))
def test_the_deadline_travels_as_what_is_left_in_nanoseconds(seconds: float) -> None:
    request = RpcRequest("s", "A.B", "application/json", deadline=1000.0 + seconds)
    header = mucp.request_header(request, "1", 1000.0)
    assert header["Timeout"].isdecimal()
    read = mucp.read_request(Message(header), 5000.0, "peer")
    assert read.deadline == pytest.approx(5000.0 + seconds, abs=1e-3)


@pytest.mark.parametrize("text", ["", "-1", "x", "1e9", "٣", "9" * 30])
def test_a_deadline_nobody_can_read_is_none(text: str) -> None:
    read = mucp.read_request(Message({"Micro-Endpoint": "A.B", "Timeout": text}), 0.0, "")
    assert read.deadline is None


@pytest.mark.parametrize("name", ["Micro-Endpoint", "Micro-Method", "X-Micro-Endpoint"])
def test_the_endpoint_is_found_under_each_of_its_names(name: str) -> None:
    read = mucp.read_request(Message({name: "Say.Hello"}), 0.0, "")
    assert (read.endpoint, read.content_type) == ("Say.Hello", "application/protobuf")


def test_metadata_is_what_is_not_the_protocols() -> None:
    header = {
        "Micro-Endpoint": "A.B",
        "Content-Type": "application/json",
        "X-Tenant": "7",
        "Micro-Trace-Id": "t",
        "Authorization": "Bearer x",
    }
    read = mucp.read_request(Message(header), 0.0, "")
    assert read.header == {"X-Tenant": "7", "Micro-Trace-Id": "t", "Authorization": "Bearer x"}
