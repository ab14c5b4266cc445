"""Options: what the signature of a constructor says about them, and how texts become values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from .errors import PluginIncomplete
from .plugin import Plugin, check_address
from .security import TLS, Secret

Duration = Annotated[float, "seconds"]
"""Seconds; written ``250ms``, ``5s``, ``1m30s``, ``1h`` or as a bare number."""

Address = Annotated[str, "address"]
"""Where to listen, or what to advertise: ``host:port``, where the host may be missing."""

_UNITS = {"h": (3600, 1), "m": (60, 1), "s": (1, 1), "ms": (1, 1_000), "us": (1, 1_000_000)}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = rf"({_NUMBER})(ms|us|h|m|s)"
_DURATION = rf"(?:{_NUMBER}(?:ms|us|h|m|s))+|{_NUMBER}"
_TLS_HELP = {
    "ca": "authorities to trust, instead of the system's",
    "cert": "certificate to show",
    "key": "its private key",
    "server_name": "name to expect in the peer's certificate, instead of the host",
    "verify": "verify the peer; off for experiments only",
    "client_ca": "where listening: authorities, one of which must have signed a client's",
}


class Reader(NamedTuple):
    """How a text becomes a value; ``read`` raises ValueError and ``form`` says what it takes.

    show: the value as a text. hidden: the text is never shown. switch: a flag of it needs no
    value. path: the text names a file, so no other file can hold it.
    """

    read: Callable[[str], Any]
    form: str
    show: Callable[[Any], str] = str
    hidden: bool = False
    switch: bool = False
    path: bool = False


class Option(NamedTuple):
    """A keyword-only parameter of a constructor.

    It has a ``reader``, or ``parts`` with one each (TLS), or it is a component that the caller
    fills in (``need``); without any of them only code can give it.
    """

    name: str
    reader: Reader | None = None
    default: Any = None
    required: bool = False
    help: str = ""
    need: type[Plugin] | None = None
    parts: tuple[Option, ...] = ()

    def flags(self) -> list[Option]:
        """This option and its parts as far as a text can give them, under their whole names."""
        return [option for option in (self, *self.parts) if option.reader is not None]


class Signature(NamedTuple):
    """What a plugin can be given: addresses or none, and options by name."""

    addresses: bool
    options: Mapping[str, Option]


# -- signatures ------------------------------------------------------------------------------


def signature_of(cls: type[Plugin]) -> Signature:
    """The options of ``cls``, and of its bases as long as ``**options`` hands them on.

    Raises PluginIncomplete for an annotation that cannot be evaluated.
    """
    addresses, options = False, dict[str, Option]()
    for base in cls.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        passed_on = False
        for parameter in _parameters(cls, base)[1:]:
            passed_on = passed_on or parameter.kind is parameter.VAR_KEYWORD
            if parameter.kind is parameter.KEYWORD_ONLY:
                options.setdefault(parameter.name, _option(cls, parameter))
            elif parameter.kind is not parameter.VAR_KEYWORD:
                addresses = True
        if not passed_on:
            break
    return Signature(addresses, options)


def _parameters(cls: type[Plugin], base: type) -> list[Any]:
    import inspect

    try:
        signature = inspect.signature(vars(base)["__init__"], eval_str=True)
    except Exception as error:
        raise PluginIncomplete(
            f"{cls.kind} {cls.name}: an annotation of {base.__qualname__}.__init__ cannot be "
            f"evaluated: {error}\nIts author must import what it names outside TYPE_CHECKING."
        ) from error
    return list(signature.parameters.values())


def _option(cls: type[Plugin], parameter: Any) -> Option:
    required = parameter.default is parameter.empty
    hint, default = parameter.annotation, None if required else parameter.default
    text = _help(cls, parameter.name)
    if TLS in _members(hint):
        return Option(parameter.name, SWITCH, default, required, text, None, _tls(parameter.name))
    need = next((member for member in _members(hint) if _is_plugin(member)), None)
    reader = None if need else reader_for(hint)
    return Option(parameter.name, reader, default, required, text, need)


def _tls(name: str) -> tuple[Option, ...]:
    from typing import get_type_hints

    return tuple(
        Option(f"{name}_{part}", reader_for(hint), getattr(TLS(), part), False, _TLS_HELP[part])
        for part, hint in get_type_hints(TLS).items()
    )


def _help(cls: type[Plugin], name: str) -> str:
    """The paragraph ``name: text`` of the class docstring, or of the nearest base's."""
    pattern = re.compile(rf"^[ \t]*{name}: (.+(?:\n[ \t]+(?!\w+: )\S.*)*)", re.MULTILINE)
    for base in cls.__mro__:
        if found := pattern.search(base.__doc__ or ""):
            return " ".join(found[1].split())
    return ""


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_plugin(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Plugin)


# -- readers ---------------------------------------------------------------------------------


def reader_for(hint: Any) -> Reader | None:
    """The reader of an annotation, ``None`` for a type that no text can give."""
    origin = get_origin(hint)
    if origin is Annotated:
        special = [reader for annotation, reader in _SPECIAL if annotation == hint]
        return special[0] if special else reader_for(get_args(hint)[0])
    if origin is Literal:
        return _one_of({str(value): value for value in get_args(hint)})
    if origin in (Union, UnionType):
        return _any_of(get_args(hint))
    if isinstance(origin, type):
        return _generic(origin, get_args(hint))
    return _plain(cast("type[Any]", hint)) if isinstance(hint, type) else None


def _plain(hint: type[Any]) -> Reader | None:
    if issubclass(hint, Enum):
        return _one_of({str(member.value): member for member in hint})
    if hasattr(hint, "__fspath__"):
        return _PATH
    return _PLAIN.get(hint)


def _generic(origin: type, args: tuple[Any, ...]) -> Reader | None:
    if hasattr(origin, "__fspath__"):
        return _PATH
    item = reader_for(args[0]) if args else None
    if item is None:
        return None
    if issubclass(dict, origin) and args == (str, str):
        return PAIRS
    if issubclass(tuple, origin) and (origin is not tuple or args[1:] == (...,)):
        return _list_of(item, tuple)
    return _list_of(item, list) if origin is list else None


def _any_of(hints: tuple[Any, ...]) -> Reader | None:
    if Secret in hints:
        return SECRET
    readers = [reader for hint in hints if hint is not NoneType and (reader := reader_for(hint))]
    if len(readers) < 2 or _PATH in readers:
        return _PATH if _PATH in readers else next(iter(readers), None)

    def read(text: str) -> Any:
        for reader in readers:
            try:
                return reader.read(text)
            except ValueError:
                continue
        raise ValueError("none of them")

    return Reader(
        read,
        " or ".join(reader.form for reader in readers),
        hidden=any(reader.hidden for reader in readers),
        switch=any(reader.switch for reader in readers),
    )


def _one_of(choices: Mapping[str, Any]) -> Reader:
    values = {text.lower(): value for text, value in choices.items()}

    def read(text: str) -> Any:
        if text.lower() not in values:
            raise ValueError("no such choice")
        return values[text.lower()]

    def show(value: Any) -> str:
        return next((text for text, choice in choices.items() if choice == value), str(value))

    return Reader(read, "one of " + ", ".join(choices), show)


def _list_of(item: Reader, make: Callable[[Any], Any]) -> Reader:
    def read(text: str) -> Any:
        return make(item.read(part) for part in _items(text))

    def show(values: Any) -> str:
        return ",".join(map(item.show, values))

    each = "" if item is TEXT else f", each {item.form}"
    return Reader(read, f"a list with commas{each}", show, item.hidden)


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not all(items):
        raise ValueError("an empty item")
    return items


def _pairs(text: str) -> dict[str, str]:
    pairs = [item.partition("=") for item in _items(text)]
    if not all(equals and key.strip() for key, equals, _ in pairs):
        raise ValueError("not key=value")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _shown_pairs(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in pairs.items())


def _switch(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if text.strip().lower() not in words:
        raise ValueError("not a switch")
    return words[text.strip().lower()]


def _shown_switch(on: bool) -> str:
    return str(on).lower()


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _path(text: str) -> Any:
    from pathlib import Path

    return Path(text)


def _address(text: str) -> str:
    check_address(text)
    return text


def seconds(text: str) -> float:
    """``1m30s`` as 90.0. Raises ValueError for what is no duration, or is negative."""
    text = text.strip()
    if not re.fullmatch(_DURATION, text):
        raise ValueError("not a duration")
    parts = cast("list[tuple[str, str]]", re.findall(_PART, text)) or [(text, "s")]
    total = 0.0
    for number, unit in parts:
        times, over = _UNITS[unit]
        total += float(number) * times / over
    if math.isinf(total):
        raise ValueError("too long")
    return total


def duration_text(value: float) -> str:
    """90 as ``1m30s``, 0.25 as ``250ms``; :func:`seconds` reads it back exactly."""
    if value != int(value) or value >= 2**53:
        short = f"{value * 1000:.0f}ms"
        return short if value < 1 and seconds(short) == value else f"{_decimal(value)}s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = {"h": hours, "m": minutes, "s": rest}
    return "".join(f"{number}{unit}" for unit, number in parts.items() if number) or "0s"


def _decimal(value: float) -> str:
    from decimal import Decimal

    return f"{Decimal(repr(value)):f}"


def shown(text: str, limit: int = 60) -> str:
    """A text in quotes, short enough for an error and without control characters."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


TEXT = Reader(str, "text")
SECRET = Reader(Secret, "a secret", hidden=True)
SWITCH = Reader(_switch, "true or false", _shown_switch, switch=True)
PAIRS = Reader(_pairs, "a list key=value,key=value", _shown_pairs)
ADDRESSES = Reader(str, "an address, or several with commas")
DURATION = Reader(seconds, "a duration such as 250ms or 1m30s", duration_text)
_PATH = Reader(_path, "a path", path=True)
_SPECIAL: list[tuple[Any, Reader]] = [
    (Duration, DURATION),
    (Address, Reader(_address, "an address such as 0.0.0.0:8080")),
]
_PLAIN: dict[type, Reader] = {
    str: TEXT,
    int: Reader(int, "a whole number"),
    float: Reader(_number, "a number"),
    bool: SWITCH,
    Secret: SECRET,
}
