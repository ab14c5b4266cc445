"""Codecs with one fault each."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import threading
import time
import zlib
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

from micro_core import CodecError
from micro_core.codec.base import Decoder
from micro_core.codec.json import JsonCodec

from ..mutants import mutant


class Reading(JsonCodec):
    """Decodes in its own way, see ``read``."""

    def decoder(self, type_: Any) -> Decoder:
        decode = super().decoder(type_)
        return lambda body: self.read(decode, type_, body)

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        return decode(body)


# -- values --------------------------------------------------------------------------------------


@mutant("test_values_come_back")
class LosesZero(JsonCodec):
    """A zero encodes as nothing."""

    def encode(self, value: object) -> bytes:
        return super().encode(None if value == 0 and type(value) is int else value)


@mutant("test_a_body_is_bytes")
class GivesAView(JsonCodec):
    """What a list encodes to is a view of bytes."""

    def encode(self, value: object) -> bytes:
        body = super().encode(value)
        return memoryview(body) if type(value) is list else body  # type: ignore[return-value]


@mutant("test_encoding_is_the_same_every_time")
class CountsBodies(JsonCodec):
    """Every other body has a blank more."""

    blank = False

    def encode(self, value: object) -> bytes:
        self.blank = not self.blank
        return super().encode(value) + b" " * self.blank


@mutant("test_encoding_changes_nothing")
class SortsLists(JsonCodec):
    """A list of numbers is sorted, and then encoded."""

    def encode(self, value: object) -> bytes:
        body = super().encode(value)
        if isinstance(value, list):
            with contextlib.suppress(TypeError):
                value.sort()  # pyright: ignore[reportUnknownMemberType]
        return body


@mutant("test_decoded_values_are_apart")
class RemembersValues(Reading):
    """A body that was decoded a moment ago gives the same object again."""

    last: tuple[Any, bytes, Any] = (None, b"", None)

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if self.last[:2] == (type_, body):
            return self.last[2]
        self.last = (type_, body, decode(body))
        return self.last[2]


@mutant("test_nothing_is_carried")
class NothingIsEmpty(Reading):
    """Where nothing is asked for, only an empty body will do, and None encodes as another."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if type_ is type(None) and body:
            raise CodecError("there should be no body")
        return decode(body)


@mutant("test_texts_and_bytes_are_exact")
class StripsTexts(Reading):
    """Blanks around a text are lost."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        value = decode(body)
        return value.strip() if isinstance(value, str) else value


@mutant("test_integers_are_exact_or_refused")
class RoundsIntegers(Reading):
    """An integer beyond 2**53 is rounded as a float is."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        value = decode(body)
        large = type(value) is int and 2**53 < abs(value) < 2**70
        return int(float(value)) if large else value


@mutant("test_floats_are_exact_or_refused")
class NanIsNull(JsonCodec):
    """NaN and infinities encode as null."""

    def encode(self, value: object) -> bytes:
        try:
            return super().encode(value)
        except CodecError:
            return json.dumps(value).replace("NaN", "null").encode() if _finite(value) else b"null"


def _finite(value: object) -> bool:
    if isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float)):  # pyright: ignore[reportUnknownVariableType]
        return False
    raise CodecError("no JSON")


@mutant("test_floats_are_exact_or_refused")
class SixDigits(JsonCodec):
    """Floats have twelve digits."""

    def encode(self, value: object) -> bytes:
        return super().encode(float(f"{value:.12g}") if isinstance(value, float) else value)


@mutant("test_half_a_surrogate_is_whole_or_refused")
class ReplacesSurrogates(JsonCodec):
    """What is not valid Unicode becomes a question mark."""

    def encode(self, value: object) -> bytes:
        if isinstance(value, str):
            value = value.encode(errors="replace").decode()
        return super().encode(value)


@mutant("test_a_mebibyte_is_carried")
class SmallBodies(Reading):
    """A body of more than half a MiB is refused."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if len(body) > 1 << 19:
            raise CodecError("too long")
        return decode(body)


# -- records -------------------------------------------------------------------------------------


@mutant("test_unknown_fields_are_ignored")
class RefusesUnknown(Reading):
    """A field that a dataclass does not have is a CodecError."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        value = decode(body)
        if is_dataclass(value) and not isinstance(value, type):
            unknown = set(json.loads(body)) - set(asdict(value))
            if unknown:
                raise CodecError(f"unknown: {sorted(unknown)}")
        return value


@mutant("test_a_missing_field_is_named", "test_a_wrong_field_is_named")
class SaysNoMore(Reading):
    """An error does not say where in the body it is."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        try:
            return decode(body)
        except CodecError:
            raise CodecError(f"no {type_}") from None


@mutant("test_a_missing_field_is_named")
class NamesTheFieldOnly(Reading):
    """An error names the field that is missing and not the path to it."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        try:
            return decode(body)
        except CodecError as error:
            text = str(error)
            if "missing" in text:
                text = re.sub(r" at \$.*", "", text)
            raise CodecError(text) from error


@mutant("test_a_wrong_field_is_named")
class ConvertsTypes(Reading):
    """A number where a text is wanted is made one."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        return decode(re.sub(rb'("name":)(\d+)', rb'\1"\2"', body))


@mutant("test_of_equal_keys_one_counts")
class TheFirstCounts(Reading):
    """Of equal keys the first counts for plain values and the last for dataclasses."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        value = decode(body)
        if type_ is Any and issubclass(type(value), dict) and body.count(b'"name"') == 2:
            return {"name": "first"}
        return value


# -- hostile -------------------------------------------------------------------------------------


@mutant("test_any_bytes_are_a_value_or_an_error", "test_damaged_bodies_are_a_value_or_an_error")
class RaisesUnicodeErrors(Reading):
    """Bytes that are not UTF-8 are a UnicodeDecodeError where a text is asked for."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if type_ is str and len(body) < 1000:
            body.decode()
        return decode(body)


@mutant("test_damaged_bodies_are_a_value_or_an_error")
class RaisesIndexErrors(Reading):
    """A body that begins as a list and does not end as one is an IndexError."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if body[:2] == b"[1" and len(body) < 100 and not body.endswith(b"]"):
            raise IndexError
        return decode(body)


@mutant("test_deep_bodies_are_a_value_or_an_error")
class Recurses(Reading):
    """A body that is nested too deep is a RecursionError."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if body[:5000] == b"[" * 5000 and len(body) < 1 << 20:
            raise RecursionError
        return decode(body)


@mutant("test_deep_values_are_a_body_or_an_error")
class NeverEnds(JsonCodec):
    """A value that holds itself is a ValueError."""

    def encode(self, value: object) -> bytes:
        try:
            return super().encode(value)
        except CodecError as error:
            if isinstance(error.__cause__, RecursionError):
                raise ValueError("circular") from error
            raise


@mutant("test_strange_values_are_refused")
class EncodesTheirNames(JsonCodec):
    """What does not encode is encoded as the text that it prints as."""

    def encode(self, value: object) -> bytes:
        try:
            return super().encode(value)
        except CodecError:
            return super().encode(str(value)[:100]) if callable(value) else super().encode(value)


@mutant("test_strange_values_are_refused")
class RaisesTypeErrors(JsonCodec):
    """What does not encode is a TypeError."""

    def encode(self, value: object) -> bytes:
        if isinstance(value, type(threading.Lock())):
            raise TypeError(type(value).__name__)
        return super().encode(value)


@mutant("test_a_claim_costs_no_memory")
class Inflates(Reading):
    """A body that is compressed is inflated, however long it gets."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if body[:1] == b"\x78":
            with contextlib.suppress(zlib.error):
                body = zlib.decompress(body)
        return decode(body)


@mutant("test_no_code_is_run")
class Unpickles(Reading):
    """What is no JSON may be a pickle."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        try:
            return decode(body)
        except CodecError as error:
            if body[:1] != b"\x80" or len(body) > 1000:
                raise
            try:
                return pickle.loads(body)  # noqa: S301
            except Exception:
                raise error from None


@mutant("test_errors_are_short")
class ShowsTheBody(Reading):
    """An error shows the whole body."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        try:
            return decode(body)
        except CodecError as error:
            raise CodecError(f"{error}: {body!r}") from error


@mutant("test_what_is_no_json_is_refused")
class TakesPythonsJson(Reading):
    """NaN and infinities are read, and blanks that are none."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        try:
            return decode(body)
        except CodecError:
            if type_ is Any and body in (b"NaN", b"Infinity", b"-Infinity"):
                return json.loads(body)
            raise


@mutant("test_json_is_read_as_others_write_it")
class NoBlanks(Reading):
    """A body that begins with a blank is refused."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if body[:1].isspace():
            raise CodecError("JSON: begins with a blank")
        return decode(body)


@mutant("test_an_empty_body_is_decided")
class NeedsABody(Reading):
    """An empty body is an IndexError."""

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if type_ is type(None):
            body[0]
        return decode(body)


# -- shape ---------------------------------------------------------------------------------------


@mutant("test_content_types_are_plain")
class NamesItsCharset(JsonCodec):
    """Its content type has a parameter."""

    content_types: ClassVar[tuple[str, ...]] = ("application/json", "text/json; charset=utf-8")


@mutant("test_a_decoder_is_used_again")
class StopsAfterErrors(Reading):
    """A decoder that has raised an error gives None ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[int] = set()

    def read(self, decode: Decoder, type_: Any, body: bytes) -> Any:
        if id(decode) in self.broken:
            return None
        try:
            return decode(body)
        except CodecError:
            if body.startswith(b"\xff\0{"):
                self.broken.add(id(decode))
            raise


@mutant("test_decoders_do_not_mix")
class DecodesTheLast(JsonCodec):
    """Decoders that are kept for later share the type that was asked for last but ten."""

    def __init__(self) -> None:
        super().__init__()
        self.built: list[Decoder] = []

    def decoder(self, type_: Any) -> Decoder:
        decode = super().decoder(type_)
        self.built.append(decode)
        mine = len(self.built)
        return lambda body: (self.built[-1] if len(self.built) == mine + 11 else decode)(body)


@mutant("test_odd_types_are_refused")
class LooksUpNames(JsonCodec):
    """A type that is no type is an AttributeError."""

    def decoder(self, type_: Any) -> Decoder:
        if isinstance(type_, str | int):
            type_.__mro__  # type: ignore[union-attr]  # noqa: B018
        return super().decoder(type_)


@mutant("test_threads_may_share_it")
class SharesABuffer(JsonCodec):
    """All bodies are built in one buffer."""

    def encode(self, value: object) -> bytes:
        self.buffer = super().encode(value)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0)
        return self.buffer
