"""The bytes that Go Micro writes and reads, without a server."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_core.errors import OptionError
from micro_core.registry.records import Endpoint, Node, ServiceInfo, Value
from micro_registry_consul import ConsulRegistry
from micro_registry_consul.entries import from_entries, from_tags, to_entry, to_tags

# Captured from Go Micro v2.9.1 with its consul plugin, against Consul 1.14.4.
GO_TAGS = [
    "t-789caa56aacacf4b55b252aa3254aa05040000ffff1eae0422",
    "t-789caa562a28ca2fc94fcecf51b252ca2d4d2e50aa05040000ffff46a906e2",
    "e-789c548c41aa02311044ef52ebf00f9013fcb52ec54583a5089d4c26dd1106c9dd656611e3aa29fabdf7469644"
    "449c65fbfba7ea8280cab5d11c717c4f5c11e05bf98e9768a3215e06749c4199d7677e4c606eaafddaf7bc952"
    "51be7be95a97f8c1f2d20d1e5262ebb645e2909117751237aff040000ffff167e41a2",
    "v-789c32d433d03300040000ffff02ce00ee",
]
GO_ENTRY: dict[str, Any] = {
    "Node": {"Node": "vm", "Address": "127.0.0.1"},
    "Service": {
        "ID": "go.fix-1",
        "Service": "go.fix",
        "Tags": GO_TAGS,
        "Address": "127.0.0.1",
        "Port": 9999,
    },
}
GO_INFO = ServiceInfo(
    "go.fix",
    "1.0.0",
    [Node("go.fix-1", "127.0.0.1:9999", {"zone": "z1", "protocol": "mucp"})],
    [
        Endpoint(
            "Say.Hello",
            Value("Req", "Req", [Value("name", "string")]),
            Value("Rsp", "Rsp"),
            {"stream": "false"},
        )
    ],
)


def unpack(tag: str) -> tuple[str, str]:
    """As Go does it: the letter, the dash, hex, one whole zlib stream."""
    assert tag[1] == "-"
    return tag[0], zlib.decompress(bytes.fromhex(tag[2:])).decode()


def pack(form: str, text: bytes | str) -> str:
    return form + zlib.compress(text if isinstance(text, bytes) else text.encode()).hex()


def test_go_record_is_read() -> None:
    assert from_entries("go.fix", [GO_ENTRY]) == [GO_INFO]


def test_go_record_is_written_as_go_writes_it() -> None:
    tags = to_tags(GO_INFO, GO_INFO.nodes[0])
    assert [unpack(tag) for tag in tags] == [unpack(tag) for tag in GO_TAGS]


def test_entry_has_the_shape_of_go() -> None:
    entry = dict(to_entry(GO_INFO, GO_INFO.nodes[0], 60, ()))
    assert entry.pop("Tags")
    assert entry == {
        "ID": "go.fix-1",
        "Name": "go.fix",
        "Port": 9999,
        "Address": "127.0.0.1",
        "Check": {"TTL": "1m0s", "DeregisterCriticalServiceAfter": "1m5s"},
    }


@pytest.mark.parametrize(
    ("ttl", "texts"),
    [
        (30, ("30s", "1m5s")),
        (60, ("1m0s", "1m5s")),
        (90, ("1m30s", "1m35s")),
        (1.5, ("1.5s", "1m5s")),
        (0.25, ("0.25s", "1m5s")),
        (3600, ("60m0s", "60m5s")),
    ],
)
def test_durations_are_go_text(ttl: float, texts: tuple[str, str]) -> None:
    assert tuple(to_entry(GO_INFO, GO_INFO.nodes[0], ttl, ())["Check"].values()) == texts


FOREIGN = [
    "",
    "e",
    "t",
    "v",
    "m",
    "e-",
    "t-",
    "v-",
    "traefik.enable=true",
    "env=prod",
    "v2",
    "e-zz",
    "t-00",
    "v-789c",
    pack("e-", "no json"),
    pack("e-", "[1]"),
    pack("e-", '{"request":{}}'),
    pack("e-", '{"name":7}'),
    pack("t-", "7"),
    pack("t-", '{"k":7}'),
    pack("t-", "[" * 100_000),
    pack("v-", b"\xff"),
    GO_TAGS[3][:-8],
    GO_TAGS[2] + "00",
    "é-☃",
]


@pytest.mark.parametrize("tag", FOREIGN)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_foreign_tags_hide_nothing(tag: str, place: int) -> None:
    tags = [*GO_TAGS[:place], tag, *GO_TAGS[place:]]
    entry = {**GO_ENTRY, "Service": {**GO_ENTRY["Service"], "Tags": tags}}
    # one valid stream with rubbish after it is still that stream, to zlib and to Go
    expected = from_entries("go.fix", [GO_ENTRY])[0]
    found = from_entries("go.fix", [entry])[0]
    assert (found.version, found.nodes, set(map(repr, found.endpoints))) == (
        expected.version,
        expected.nodes,
        set(map(repr, expected.endpoints)),
    )


@pytest.mark.parametrize("tags", [None, [], ["primary"], FOREIGN[:14]])
def test_a_service_of_others_is_given_without_endpoints(tags: list[str] | None) -> None:
    entry = {**GO_ENTRY, "Service": {**GO_ENTRY["Service"], "Tags": tags}}
    node = Node("go.fix-1", "127.0.0.1:9999")
    assert from_entries("go.fix", [entry]) == [ServiceInfo("go.fix", "latest", [node])]


def test_names_that_differ_in_case_are_other_services() -> None:
    assert from_entries("Go.Fix", [GO_ENTRY]) == []


def test_plain_legacy_tags_are_read() -> None:
    endpoint = '{"name":"Say.Hello","request":null,"response":null,"metadata":null}'
    plain = ["v=2.0", 't={"zone":"z1"}', f"e={endpoint}"]
    expected: Any = ("2.0", [Endpoint("Say.Hello")], {"zone": "z1"}, {})
    assert from_tags(plain) == expected
    both = [*plain, pack("v-", "2.0"), pack("t-", '{"zone":"z1"}'), pack("e-", endpoint)]
    assert from_tags(both) == expected


def test_nulls_of_go_are_read() -> None:
    text = '{"name":"A","request":{"name":"R","type":null,"values":null},"response":null}'
    version, endpoints, *_ = from_tags([pack("e-", text), pack("v-", "")])
    assert version == "latest"
    assert endpoints == [Endpoint("A", Value("R"), None, {})]


@pytest.mark.parametrize("form", ["v-", "e-", "t-", "m-"])
def test_a_bomb_costs_no_memory(form: str) -> None:
    bomb = pack(form, b"0" * (64 << 20))
    tracemalloc.start()
    try:
        decoded = from_tags([bomb] * 20 + [GO_TAGS[3]])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoded == ("1.0.0", [], {}, {})
    assert peak < 5 << 20


def test_the_tags_of_a_node_are_bounded_together() -> None:
    def pair(key: str, size: int) -> str:
        return pack("t-", json.dumps({key: "x" * size}))

    tags = [pair("a", 600_000), pair("b", 600_000), pair("c", 300_000), GO_TAGS[3]]
    version, _, metadata, _ = from_tags(tags)
    assert (version, sorted(metadata)) == ("1.0.0", ["a", "c"])


@pytest.mark.parametrize("left", [0, 1])
def test_a_bomb_after_the_last_byte_allowed_costs_no_memory(left: int) -> None:
    filler = '{"a":"' + "x" * 1000 + '"}'
    tags = [pack("t-", filler), pack("t-", b"0" * (64 << 20)), GO_TAGS[3]]
    tracemalloc.start()
    try:
        from_tags(tags, len(filler) + left)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_tags_of_an_answer_are_bounded_together() -> None:
    tags = [pack("t-", json.dumps({"a": "x" * 600_000})), GO_TAGS[3]]
    entry = {**GO_ENTRY, "Service": {**GO_ENTRY["Service"], "Tags": tags}}
    infos = from_entries("go.fix", [entry] * 200)
    assert {info.version for info in infos} == {"1.0.0"}
    assert all(node.metadata == {} for info in infos for node in info.nodes)


def test_an_endpoint_nested_without_end_is_passed_over() -> None:
    text = '{"name":"A","request":' + '{"values":[' * 400 + "]}" * 400 + "}"
    assert from_tags([pack("e-", text), GO_TAGS[3]]) == ("1.0.0", [], {}, {})


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.7:9000", "10.0.0.7", 9000),
        ("box.local:1", "box.local", 1),
        ("[2001:db8::7]:9000", "2001:db8::7", 9000),
        ("_INBOX.abc", "_INBOX.abc", None),
        ("greeter-3f2a", "greeter-3f2a", None),
        ("queue:name", "queue:name", None),
        ("2001:db8::7", "2001:db8::7", None),
    ],
)
def test_addresses_go_and_come(address: str, host: str, port: int | None) -> None:
    node = Node("n", address)
    entry = to_entry(ServiceInfo("s", "1", [node]), node, 30, ())
    assert (entry["Address"], entry.get("Port")) == (host, port)
    health = {"Node": {"Address": "9.9.9.9"}, "Service": {**entry, "Service": "s"}}
    assert from_entries("s", [health])[0].nodes == (node,)


def test_a_service_without_an_address_has_that_of_its_agent() -> None:
    service = {**GO_ENTRY["Service"], "Address": ""}
    [info] = from_entries("go.fix", [{**GO_ENTRY, "Service": service, "Node": {"Address": "::1"}}])
    assert info.nodes[0].address == "[::1]:9999"


def test_own_tags_come_last_and_hide_nothing_from_go() -> None:
    tags = to_entry(GO_INFO, GO_INFO.nodes[0], 30, ("primary", "http"))["Tags"]
    assert tags[-2:] == ["primary", "http"]
    assert {tag[0] for tag in tags[:-2]} == {"t", "e", "v"}


@pytest.mark.parametrize("tag", ["env=prod", "traefik.enable=true", "v2", "e", ""])
def test_own_tags_that_break_go_readers_are_refused(tag: str) -> None:
    with pytest.raises(OptionError, match="Go Micro"):
        ConsulRegistry(tags=("primary", tag))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PAIRS = st.dictionaries(TEXT, TEXT, max_size=4)
VALUES = st.recursive(
    st.builds(Value, TEXT, TEXT),
    lambda inner: st.builds(Value, TEXT, TEXT, st.lists(inner, max_size=2)),
    max_leaves=5,
)
ENDPOINTS = st.builds(Endpoint, TEXT.filter(bool), st.none() | VALUES, st.none() | VALUES, PAIRS)


@settings(deadline=None)
@given(
    st.builds(
        ServiceInfo, st.just("s"), TEXT.filter(bool), st.just(()), st.lists(ENDPOINTS), PAIRS
    ),
    PAIRS,
)
def test_whatever_is_written_is_read(info: ServiceInfo, metadata: dict[str, str]) -> None:
    assert from_tags(to_tags(info, Node("n", "a", metadata))) == (
        info.version,
        list(info.endpoints),
        metadata,
        info.metadata,
    )


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "values", "request", "response", "metadata", "x"]),
            inner,
        )
    ),
    max_leaves=12,
)
STRANGE = st.one_of(
    st.text(),
    st.builds(pack, st.sampled_from(["v-", "e-", "t-", "m-"]), st.binary()),
    st.builds(lambda f, v: pack(f, json.dumps(v)), st.sampled_from(["e-", "t-", "m-"]), JSON),
    st.builds(lambda f, v: f + json.dumps(v), st.sampled_from(["e=", "t=", "v="]), JSON),
)


@settings(deadline=None)
@given(st.lists(STRANGE, max_size=5))
def test_no_tag_is_fatal(tags: list[str]) -> None:
    version, endpoints, metadata, more = from_tags(tags)
    assert version
    assert all(isinstance(endpoint, Endpoint) for endpoint in endpoints)
    assert all(isinstance(text, str) for text in [*metadata.values(), *more.values()])
