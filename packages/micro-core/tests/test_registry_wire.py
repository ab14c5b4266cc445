"""Go Micro's JSON of a service, byte for byte where it can be, and hostile input."""

from __future__ import annotations

import contextlib
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro_core.registry.records import Endpoint, Node, ServiceInfo, Value
from micro_core.registry.wire import (
    DEPTH,
    endpoint_from_json,
    endpoint_to_json,
    from_json,
    to_json,
)

# what Go Micro v2 wrote into etcd for a service of one node
GO = (
    '{"name":"go.fix","version":"1.0.0","metadata":{"team":"a b=c"},"endpoints":[{"name":"Say.Hello'
    '","request":{"name":"Req","type":"Req","values":[{"name":"name","type":"string","values":null}'
    ']},"response":{"name":"Rsp","type":"Rsp","values":null},"metadata":{"stream":"false"}}],'
    '"nodes":[{"id":"go.fix-1","address":"127.0.0.1:9999","metadata":{"protocol":"mucp","zone":"z1"'
    "}}]}"
)
# what it asks other nodes of its NATS registry
QUERY = '{"name":"go.fix","version":"","metadata":null,"endpoints":null,"nodes":null}'

NESTED = '{"name":"a","endpoints":[{"name":"Say.Hello","request":%s%s}]}'

INFO = ServiceInfo(
    "go.fix",
    "1.0.0",
    [Node("go.fix-1", "127.0.0.1:9999", {"protocol": "mucp", "zone": "z1"})],
    [
        Endpoint(
            "Say.Hello",
            Value("Req", "Req", [Value("name", "string")]),
            Value("Rsp", "Rsp"),
            {"stream": "false"},
        )
    ],
    {"team": "a b=c"},
)


def test_what_go_wrote_is_read() -> None:
    assert from_json(GO) == INFO
    assert from_json(GO.encode()) == INFO


def test_what_we_write_is_what_go_writes() -> None:
    assert to_json(INFO) == GO
    assert to_json(ServiceInfo("go.fix", "")) == QUERY


def test_nulls_and_missing_optional_keys_are_empty() -> None:
    assert from_json(QUERY) == ServiceInfo("go.fix", "")
    assert from_json('{"name": "a"}') == ServiceInfo("a", "")
    assert from_json('{"name":"a","version":null,"nodes":null}') == ServiceInfo("a", "")
    endpoint = endpoint_from_json('{"name":"A.B","request":null,"response":{"name":""}}')
    assert endpoint == Endpoint("A.B", None, Value(""))


def test_unknown_keys_are_ignored() -> None:
    text = '{"name":"a","version":"1","x":[1],"nodes":[{"id":"n","address":"","y":2}]}'
    assert from_json(text) == ServiceInfo("a", "1", [Node("n", "")])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `name`"),
        ('{"name": 1}', r"Expected `str`, got `int` - at `\$\.name`"),
        ('{"name": "", "metadata": []}', r"`object`.*\$\.metadata`"),
        ('{"name": "", "metadata": {"a": {}}}', r"`str`.*\$\.metadata"),
        ('{"name": "", "nodes": {}}', r"`array`.*\$\.nodes`"),
        ('{"name": "", "nodes": [{"id": "a", "address": ""}, 3]}', r"`object`.*\$\.nodes\[1\]`"),
        ('{"name": "", "nodes": [{"id": true}]}', r"`str`.*\$\.nodes\[0\]\.id`"),
        ('{"name": "", "endpoints": [{"request": "x"}]}', r"\$\.endpoints\[0\]\.request`"),
        (
            '{"name": "", "endpoints": [{"request": {"values": [{"name": 1}]}}]}',
            r"`str`.*\$\.endpoints\[0\]\.request\.values\[0\]\.name`",
        ),
        ("{", "Expecting"),
        ('{"version": ' + "9" * 5000 + "}", "integer"),
        ("[" * 200_000, "too deeply"),
        (NESTED % ('{"name":"","values":[' * 60, "]}" * 60), "'Say.Hello' is nested too deeply"),
        (NESTED % ('{"name":"","values":[' * 400, "]}" * 400), "nested too deeply"),
    ],
)
def test_wrong_input_names_its_path(text: str, path: str) -> None:
    with pytest.raises(ValueError, match=path):
        from_json(text)


def test_values_may_be_nested_so_far() -> None:
    text = NESTED % ('{"name":"","values":[' * DEPTH, "]}" * DEPTH)
    assert from_json(text).endpoints[0].request is not None


texts = st.text(max_size=20)
metadata = st.dictionaries(texts, texts, max_size=3)
values: st.SearchStrategy[Value] = st.recursive(
    st.builds(Value, texts, texts),
    lambda inner: st.builds(Value, texts, texts, st.lists(inner, max_size=3)),
    max_leaves=5,
)
endpoints = st.builds(Endpoint, texts, st.none() | values, st.none() | values, metadata)
infos = st.builds(
    ServiceInfo,
    texts,
    texts,
    st.lists(st.builds(Node, texts, texts, metadata), max_size=3),
    st.lists(endpoints, max_size=3),
    metadata,
)


@given(infos)
def test_every_record_survives_the_way_there_and_back(info: ServiceInfo) -> None:
    assert from_json(to_json(info)) == info
    for endpoint in info.endpoints:
        assert endpoint_from_json(endpoint_to_json(endpoint)) == endpoint


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_garbage_is_a_value_error_or_a_record(garbage: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(from_json(garbage), ServiceInfo)


def test_any_mapping_is_written() -> None:
    node = Node("a", "a:1", MappingProxyType({"k": "v"}))
    assert from_json(to_json(ServiceInfo("n", "1", [node]))).nodes[0].metadata == {"k": "v"}
