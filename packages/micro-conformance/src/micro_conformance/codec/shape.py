"""What a codec is, and how it is used."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

from micro_core import Codec

from ..promise import promise
from ..suite import Suite
from .lab import CodecLab, survived

CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
ODD_TYPES: tuple[Any, ...] = (5, "no type", object(), len, threading.Lock, ..., b"", int | bytes)


class Shape(Suite[Codec]):
    @promise()
    async def test_content_types_are_plain(self, lab: CodecLab) -> None:
        """A codec names at least one content type, each in lower case and without parameters."""
        names = lab.make().content_types
        assert isinstance(names, tuple)
        assert names, "it names no content type"
        assert len(set(names)) == len(names), f"one is named twice: {names}"
        odd = [name for name in names if not CONTENT_TYPE.fullmatch(name)]
        assert not odd, f"not type/subtype in lower case: {odd}"

    @promise()
    async def test_a_decoder_is_used_again(self, lab: CodecLab) -> None:
        """A decoder that was built once is right every time, also after it raised an error."""
        codec = lab.make()
        built = [(codec.decoder(t), codec.encode(value), value) for t, value in lab.values]
        for turn in range(20):
            for decode, body, value in built:
                back = decode(body)
                assert lab.same(back, value), f"turn {turn}: {value!r} came back as {back!r}"
                survived(decode, body[: turn % (len(body) + 1)])
                survived(decode, b"\xff\0{" + body)

    @promise()
    async def test_decoders_do_not_mix(self, lab: CodecLab) -> None:
        """Decoders of several types, built one after the other, each give their own."""
        codec = lab.make()
        decoders = [codec.decoder(type_) for type_, _ in lab.values]
        for decode, (type_, value) in reversed([*zip(decoders, lab.values, strict=True)]):
            back = decode(codec.encode(value))
            assert lab.same(back, value), f"{value!r} as {type_} came back as {back!r}"

    @promise()
    async def test_odd_types_are_refused(self, lab: CodecLab) -> None:
        """Asking for what is no type is a TypeError at once, or a CodecError for every body."""
        codec = lab.make()
        bodies = [codec.encode(value) for _, value in lab.values]
        for type_ in ODD_TYPES:
            try:
                decode = codec.decoder(type_)
            except TypeError:
                continue
            for body in bodies:
                survived(decode, body)

    @promise(real=True)
    async def test_threads_may_share_it(self, lab: CodecLab) -> None:
        """One codec and its decoders give right results in eight threads at once."""
        codec = lab.make()
        built = [(codec.decoder(type_), value) for type_, value in lab.values]

        def work() -> None:
            for _ in range(50):
                for decode, value in built:
                    assert lab.same(decode(codec.encode(value)), value), repr(value)

        await asyncio.gather(*[asyncio.to_thread(work) for _ in range(8)])
