"""Bodies and values that are not meant well."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

from micro_core import Codec, CodecError

from ..promise import promise
from ..suite import Suite
from . import canary, corpus
from .lab import CodecLab, passed, survived, try_many

DEEP = 100_000
MIB = 1 << 20
CLAIMS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\x9b\x00\x00\x00\x00\xff\xff\xff\xff",
    b"\x5b\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x0a\xff\xff\xff\xff\x07",
    b"\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"99999999:",
    b"#999999999\n",
    b"1e99999999",
    zlib.compress(bytes(32 * MIB)),
)


class Hostile(Suite[Codec]):
    @promise()
    async def test_any_bytes_are_a_value_or_an_error(self, lab: CodecLab) -> None:
        """Whatever the bytes, decoding gives a value or raises CodecError and nothing else."""
        from hypothesis import strategies

        codec = lab.make()
        decoders = [codec.decoder(type_) for type_ in lab.types]

        def check(body: bytes) -> None:
            for decode in decoders:
                survived(decode, body)

        text = strategies.text('{}[]",:0123456789.eE+-truefalsn\\u \n\0').map(str.encode)
        try_many(strategies.binary() | text, check)

    @promise()
    async def test_damaged_bodies_are_a_value_or_an_error(self, lab: CodecLab) -> None:
        """A body that was cut or changed anywhere gives a value or a CodecError."""
        from hypothesis import strategies as s

        codec = lab.make()
        bodies = [(codec.decoder(type_), codec.encode(value)) for type_, value in lab.values]

        def check(drawn: tuple[int, int, int, bytes]) -> None:
            which, begin, length, put = drawn
            decode, body = bodies[which % len(bodies)]
            at = begin % (len(body) + 1)
            survived(decode, body[:at] + put + body[at + length :])

        where, some = s.integers(0, 500), s.binary(max_size=3)
        try_many(s.tuples(where, where, s.integers(0, 4), some), check, 60)
        for decode, body in bodies:
            for end in range(min(len(body), 200)):
                survived(decode, body[:end])

    @promise()
    async def test_deep_bodies_are_a_value_or_an_error(self, lab: CodecLab) -> None:
        """A body that is nested a hundred thousand deep gives a value or a CodecError."""
        codec = lab.make()
        bodies = [bytes([byte]) * (DEEP // 20) for byte in range(256)]
        bodies += [b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"people":[' * DEEP]
        for type_ in lab.types:
            decode = codec.decoder(type_)
            for body in bodies:
                survived(decode, body)

    @promise()
    async def test_deep_values_are_a_body_or_an_error(self, lab: CodecLab) -> None:
        """A value nested twenty thousand deep, or within itself, is a body or a CodecError."""
        codec = lab.make()
        lists: list[Any] = []
        dicts: dict[str, Any] = {}
        for _ in range(DEEP // 5):
            lists, dicts = [lists], {"a": dicts}
        ring: list[Any] = []
        ring.append(ring)
        round_: dict[str, Any] = {}
        round_["a"] = [round_]
        for value in (lists, dicts, ring, round_):
            survived(lambda _, value=value: codec.encode(value), b"")  # type: ignore[misc]

    @promise()
    async def test_strange_values_are_refused(self, lab: CodecLab) -> None:
        """A value that no codec carries, alone or within another, is a CodecError."""
        codec = lab.make()
        for value in corpus.STRANGE:
            try:
                body = codec.encode(value)
            except CodecError:
                continue
            raise AssertionError(f"{value!r} was encoded as {body[:100]!r}")

    @promise()
    async def test_a_claim_costs_no_memory(self, lab: CodecLab) -> None:
        """A short body that claims to be long, or inflates, takes no more than 8 MiB to refuse."""
        codec = lab.make()
        decoders = [codec.decoder(type_) for type_ in lab.types]
        tracemalloc.start()
        try:
            for body in CLAIMS:
                for decode in decoders:
                    survived(decode, body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB, f"{peak // MIB} MiB"

    @promise()
    async def test_no_code_is_run(self, lab: CodecLab) -> None:
        """Nothing that a body says is run: no pickle, no tag of YAML, no expression."""
        codec = lab.make()
        canary.sung.clear()
        for type_ in lab.types:
            for body in canary.bodies():
                survived(codec.decoder(type_), body)
        passed(codec, Any, canary.Canary())
        assert not canary.sung, f"{canary.sung[0]} was run"

    @promise()
    async def test_errors_are_short(self, lab: CodecLab) -> None:
        """The text of a CodecError does not grow with what was wrong."""
        codec = lab.make()
        bodies = [b"\xff" * MIB, b'"' + b"secret " * 100_000 + b'"', b"9" * MIB, b"[" * MIB]
        bodies += [b'{"name":"' + b"secret" * 100_000 + b'","age":"' + b"secret" * 100_000 + b'"}']
        for type_ in lab.types:
            for body in bodies:
                try:
                    codec.decoder(type_)(body)
                except CodecError as error:
                    assert len(str(error)) < 2000, f"{len(str(error))} characters for {type_}"

    @promise()
    async def test_what_is_no_json_is_refused(self, lab: CodecLab) -> None:
        """What the standard does not count as JSON is a CodecError, whatever is asked for."""
        codec = lab.only_json()
        decode = codec.decoder(Any)
        passing = [body for body in corpus.NO_JSON if survived(decode, body)]
        assert not passing, f"these passed: {passing}"

    @promise()
    async def test_json_is_read_as_others_write_it(self, lab: CodecLab) -> None:
        """Blanks, escapes, exponents and whatever else the standard allows in JSON are read."""
        codec = lab.only_json()
        for body, wanted in corpus.JSON:
            assert codec.decoder(Any)(body) == wanted, body

    @promise()
    async def test_an_empty_body_is_decided(self, lab: CodecLab) -> None:
        """An empty body is None where nothing is asked for, else a value or a CodecError."""
        codec = lab.make()
        assert codec.decoder(type(None))(b"") is None
        for type_ in lab.types:
            survived(codec.decoder(type_), b"")
