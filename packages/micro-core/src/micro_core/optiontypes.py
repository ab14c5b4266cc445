"""Options: what the signature of a constructor says about them, and how texts become values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from .errors import PluginIncomplete
from .plugin import Plugin, check_address
from .security import TLS, Secret

Duration = Annotated[float, "seconds"]
"""Seconds; written ``250ms``, ``5s``, ``1m30s``, ``1h`` or as a bare number."""

Address = Annotated[str, "address"]
"""Where to listen, or what to advertise: ``host:port``, where the host may be missing."""

_UNITS = {"h": (3600, 1), "m": (60, 1), "s": (1, 1), "ms": (1, 1_000), "us": (1, 1_000_000)}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PART = f"({_NUMBER})(ms|us|h|m|s)"
_TLS_HELP = {
    "ca": "authorities to trust, instead of the system's",
    "cert": "certificate to show",
    "key": "its private key",
    "server_name": "name to expect in the peer's certificate, instead of the host",
    "verify": "verify the peer; off for experiments only",
    "client_ca": "where listening: authorities, one of which must have signed a client's",
}


def text_of(value: Any) -> str:
    """A value as a text that its reader takes."""
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(value, "items"):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if type(value) in (list, tuple):
        return ",".join(map(text_of, value))
    return str(value.value if isinstance(value, Enum) else value)


class Reader(NamedTuple):
    """How a text becomes a value; ``read`` raises ValueError and ``form`` says what it takes.

    show: the value as a text. hidden: the text is never shown. switch: a flag of it needs no
    value. path: the text names a file, so no other file can hold it. reason: what ``read``
    raises says more than the form.
    """

    read: Callable[[str], Any]
    form: str
    show: Callable[[Any], str] = text_of
    hidden: bool = False
    switch: bool = False
    path: bool = False
    reason: bool = False


class Option(NamedTuple):
    """What one flag gives: the addresses or a keyword of a plugin, or an option of the core.

    ``need`` is the kind of component that the caller fills in. Without it and without a
    ``reader`` only code can give the option. ``of`` is the name of the TLS that it switches or
    is a part of.
    """

    kind: str
    name: str
    reader: Reader | None = None
    default: Any = None
    help: str = ""
    required: bool = False
    need: type[Plugin] | None = None
    of: str = ""

    @property
    def flag(self) -> str:
        return f"{self.kind}_{self.name}".strip("_")


# -- signatures ------------------------------------------------------------------------------


def options_of(cls: type[Plugin]) -> list[Option]:
    """Its address, its options, and those of its bases as long as ``**options`` hands them on.

    The address is always the first, without a reader where the constructor takes none.
    Raises PluginIncomplete for an annotation that cannot be evaluated.
    """
    found = [Option(cls.kind, "address", None)]
    for one in _parameters(cls):
        if one.kind is one.KEYWORD_ONLY:
            found += _options(cls, one)
        elif one.kind is not one.VAR_KEYWORD:
            required = one.kind is not one.VAR_POSITIONAL and one.default is one.empty
            default = getattr(cls, "default_address", None)
            found[0] = Option(cls.kind, "address", _addresses(cls), default, "its server", required)
    return found


def _parameters(cls: type[Plugin]) -> list[Any]:
    import inspect

    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        try:
            own = list(inspect.signature(vars(base)["__init__"], eval_str=True).parameters.values())
        except Exception as error:
            raise PluginIncomplete(
                f"{cls.kind} {cls.name}: an annotation of {base.__qualname__}.__init__ cannot be "
                f"evaluated: {error}\nIts author must import what it names outside TYPE_CHECKING."
            ) from error
        found |= {one.name: one for one in own[1:] if one.name not in found}
        if all(one.kind is not one.VAR_KEYWORD for one in own):
            break
    return list(found.values())


def _options(cls: type[Plugin], parameter: Any) -> list[Option]:
    kind, name, hint = cls.kind, parameter.name, parameter.annotation
    required, text = parameter.default is parameter.empty, _help(cls, name)
    default = None if required else parameter.default
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if TLS in hints:
        return [
            Option(kind, name, SWITCH, default, text, required, of=name),
            *(
                Option(kind, f"{name}_{part}", reader_for(of), help=_TLS_HELP[part], of=name)
                for part, of in get_type_hints(TLS).items()
            ),
        ]
    need = next((one for one in hints if isinstance(one, type) and issubclass(one, Plugin)), None)
    reader = None if need else reader_for(hint)
    return [Option(kind, name, reader, default, text, required, need)]


def _help(cls: type[Plugin], name: str) -> str:
    """The paragraph ``name: text`` of the class docstring, or of the nearest base's."""
    pattern = re.compile(rf"^[ \t]*{name}: (.+(?:\n[ \t]+(?!\w+: )\S.*)*)", re.MULTILINE)
    found = (pattern.search(base.__doc__ or "") for base in cls.__mro__)
    return next((" ".join(match[1].split()) for match in found if match), "")


# -- readers ---------------------------------------------------------------------------------


def reader_for(hint: Any) -> Reader | None:
    """The reader of an annotation, ``None`` for a type that no text can give."""
    origin, args = get_origin(hint), get_args(hint)
    for known, ready in _READERS.items():
        if hint == known:
            return ready
    if hasattr(origin or hint, "__fspath__"):
        return _PATH
    if origin is Annotated:
        return reader_for(args[0])
    if origin in (Union, UnionType):
        return _any_of([reader for one in args if (reader := reader_for(one))])
    if origin is Literal:
        return _one_of({str(value): value for value in args})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of({str(member.value): member for member in hint})
    return _list_of(origin, args) if isinstance(origin, type) else None


def _any_of(readers: list[Reader]) -> Reader | None:
    readers = [one for one in readers if one in (_PATH, SECRET)] or readers
    if len(readers) < 2:
        return readers[0] if readers else None

    def read(text: str) -> Any:
        for reader in readers:
            with suppress(ValueError):
                return reader.read(text)
        raise ValueError("none of them")

    return Reader(
        read,
        " or ".join(reader.form for reader in readers),
        hidden=any(reader.hidden for reader in readers),
        switch=any(reader.switch for reader in readers),
    )


def _one_of(choices: Mapping[str, Any], form: str = "") -> Reader:
    values = {text.lower(): value for text, value in choices.items()}

    def read(text: str) -> Any:
        if text.strip().lower() not in values:
            raise ValueError("no such choice")
        return values[text.strip().lower()]

    return Reader(read, form or "one of " + ", ".join(choices))


def _list_of(origin: type, args: tuple[Any, ...]) -> Reader | None:
    make: Any = list if origin is list else tuple if issubclass(tuple, origin) else None
    item = reader_for(args[0]) if make and (origin is not tuple or args[1:] == (...,)) else None
    if make is None or item is None:
        return None

    def read(text: str) -> Any:
        return make(map(item.read, _items(text)))

    form = "a list with commas" + ("" if item is TEXT else f", each {item.form}")
    return Reader(read, form, hidden=item.hidden)


def at_least(reader: Reader, least: float) -> Reader:
    """``reader`` for numbers from ``least``."""

    def read(text: str) -> Any:
        value = reader.read(text)
        if value < least:
            raise ValueError("too small")
        return value

    return reader._replace(read=read, form=f"{reader.form}, at least {least:g}")


def _addresses(cls: type[Plugin]) -> Reader:
    def read(text: str) -> tuple[str, ...]:
        items = [item.strip() for item in text.split(",")]
        for number, item in enumerate(items, 1):
            try:
                cls.check_address(item)
            except ValueError as error:
                raise ValueError(f"number {number} of {len(items)}: {error}") from error
        return tuple(items)

    example = getattr(cls, "default_address", "") or "127.0.0.1:8500"
    return Reader(read, f"an address such as {example}, or several with commas", reason=True)


def _address(text: str) -> str:
    check_address(text)
    return text


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


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("not finite")
    return number


def seconds(text: str) -> float:
    """``1m30s`` as 90.0. Raises ValueError for what is no duration, or is negative."""
    text = re.sub(f"^{_NUMBER}$", r"\g<0>s", text.strip())
    if not re.fullmatch(f"({_PART})+", text):
        raise ValueError("not a duration")
    parts = [(float(number), _UNITS[unit]) for number, unit in re.findall(_PART, text)]
    if math.isinf(total := sum(number * times / over for number, (times, over) in parts)):
        raise ValueError("too long")
    return total


def _duration(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def shown(text: str, limit: int = 60) -> str:
    """A text in quotes, short enough for an error and without control characters."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


TEXT = Reader(str, "text")
NAME = Reader(str.strip, "the name of a plugin")
SECRET = Reader(Secret, "a secret", hidden=True)
_YES: dict[str, bool] = dict.fromkeys(("true", "yes", "on", "1"), True)
_NO: dict[str, bool] = dict.fromkeys(("false", "no", "off", "0"), False)
SWITCH = _one_of(_YES | _NO, "true or false")._replace(switch=True)
_PATH = Reader(Path, "a path", path=True)
_PAIRS = Reader(_pairs, "a list key=value,key=value")
_READERS: dict[Any, Reader] = {
    str: TEXT,
    int: Reader(int, "a whole number"),
    float: Reader(_number, "a number"),
    bool: SWITCH,
    Secret: SECRET,
    dict[str, str]: _PAIRS,
    Mapping[str, str]: _PAIRS,
    Duration: Reader(seconds, "a duration such as 250ms or 1m30s", _duration),
    Address: Reader(_address, "an address such as 0.0.0.0:8080", reason=True),
}
