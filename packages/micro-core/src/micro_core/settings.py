"""Choices in layers: a flag, else a variable, else code, else the default.

Texts are kept as they came until somebody asks: only the plugin that was chosen knows which
options there are and of what types. So first every component is chosen, then :meth:`check`
refuses what nobody knew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import plugins
from .defaults import CORE, CoreOption
from .errors import OptionError, PluginIncomplete, SettingsError
from .flags import Environment, Flags, Given, log, nearest, variable_of
from .options import (
    ADDRESSES,
    SWITCH,
    TEXT,
    Option,
    Reader,
    Signature,
    reader_for,
    shown,
    signature_of,
)
from .plugin import Plugin
from .screen import exit_with, help_text, report
from .security import TLS, redact_url

__all__ = ["CORE", "CoreOption", "Settings", "exit_with", "report"]

Code = Plugin | type[Plugin] | str | None
Needs = Mapping[type, object]

_NO_NEEDS: Needs = MappingProxyType({})
_UNSET = object()


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text.strip()


_NAME = Reader(_name, "the name of a plugin")


_WITH_ADDRESS = ("registry", "broker", "transport", "store")


class Settings:
    """What the command line and the environment say, asked piece by piece.

    ``core`` answers for options of the core and ``choose`` builds components; both look at the
    flag, the variable, what code gave, and the default, in this order. An empty variable counts
    as none. All errors are SettingsError, and none shows a secret.
    """

    def __init__(self, flags: Flags, environ: Environment, core: Sequence[CoreOption]) -> None:
        self._flags = flags
        self._environ = environ
        self._core = {option.name: option for option in core}
        self._known: dict[str, Reader | None] = dict.fromkeys([*self._core, *plugins.KINDS])
        self._known |= {f"{kind}_address": None for kind in _WITH_ADDRESS}
        self._chosen: dict[str, str] = {}

    @classmethod
    def read(
        cls,
        argv: Iterable[str] | None,
        environ: Mapping[str, str],
        *,
        core: Sequence[CoreOption] = CORE,
    ) -> Settings:
        """``argv`` without the name of the program, ``None`` for no flags. Never raises."""
        return cls(Flags() if argv is None else Flags.read(argv), Environment(environ), core)

    # -- options of the core -----------------------------------------------------------------

    def core(self, name: str, code: Any = None, default: Any = None) -> Any:
        """The value of a core option; ``None`` in code is nothing said.

        ``default`` stands in for the one in the table. Raises OptionError.
        """
        option = self._core[name]
        value = self._typed(name, self._reader(option))
        if value is not _UNSET:
            return value
        if code is not None:
            return code
        return option.default if default is None else default

    def wants(self, name: str) -> bool:
        """Whether a switch of the core is on; one that cannot be read is."""
        try:
            return bool(self.core(name))
        except OptionError:
            return True

    def source(self, name: str) -> str:
        """The flag or the variable that gives an option, ``""`` when only code can have."""
        given = self._given(name)
        return given.source if given else ""

    def _reader(self, option: CoreOption) -> Reader:
        reader = reader_for(option.type) or TEXT
        return reader if option.least is None else _at_least(reader, option.least)

    # -- components --------------------------------------------------------------------------

    def choose(
        self, kind: str, code: Code = None, default: str = "", *, needs: Needs = _NO_NEEDS
    ) -> Any:
        """The component of a kind: the object in code itself, or a new one.

        Another plugin than that of the object replaces it and takes none of its options.
        Otherwise the object is kept; if a flag or a variable gives one of its options or its
        address, or if ``needs`` has a component that it takes and was not given, then it is
        built again with all the rest as it was.
        """
        kept, cls = self._which(kind, code, default)
        return self.configure(kind, cls if kept is None else kept, needs=needs)

    def configure(self, kind: str, what: Plugin | type[Plugin], *, needs: Needs = _NO_NEEDS) -> Any:
        """:meth:`choose` with the plugin settled: only its address and options are looked up."""
        kept = what if isinstance(what, Plugin) else None
        cls = type(what) if isinstance(what, Plugin) else what
        signature = signature_of(cls)
        self._admit(kind, cls, signature)
        had: Mapping[str, Any] = {} if kept is None else kept._options
        options: dict[str, Any] = {}
        for option in signature.options.values():
            value = self._value(kind, option, had, needs)
            if value is not _UNSET and had.get(option.name, _UNSET) != value:
                options[option.name] = value
        addresses = self._addresses(kind, cls, signature)
        if kept is not None and not options and addresses in (None, kept._positional):
            return kept
        return _build(kind, what, addresses, options, signature)

    def _which(self, kind: str, code: Code, default: str) -> tuple[Plugin | None, type[Plugin]]:
        """The class, and the object in code if it is of that class."""
        kept = code if isinstance(code, Plugin) else None
        own: type[Plugin] | None = None
        if code is not None and not isinstance(code, str):
            own = plugins.complete(kind, code if kept is None else type(kept), f"{kind}= in code")
        given = self._given(kind, files=False)
        try:
            name = given.read(_NAME) if given else code if isinstance(code, str) else ""
            if own is not None and name in ("", own.name):
                return kept, own
            cls = plugins.load(kind, name) if name else plugins.load_default(kind, default)
        except SettingsError as error:
            if given:
                error.add_note(f"It was asked for by {given.source}.")
            raise
        return (kept if cls is own else None), cls

    def _admit(self, kind: str, cls: type[Plugin], signature: Signature) -> None:
        """Make the options of a plugin known, unless one takes a name that is not its own."""
        self._chosen[kind] = cls.name
        own: dict[str, Reader | None] = {}
        for option in signature.options.values():
            for part in option.flags():
                flag = f"{kind}_{part.name}"
                core = self._core.get(flag)
                if flag in own or part.name == "address" or (core and not core.shared):
                    raise PluginIncomplete(
                        f"{kind} {cls.name}: its option {part.name!r} would be --{flag}, which "
                        "has another meaning\nIts author must rename the option."
                    )
                own[flag] = self._reader(core) if core else part.reader
        self._known |= own

    def _value(self, kind: str, option: Option, had: Mapping[str, Any], needs: Needs) -> Any:
        flag = f"{kind}_{option.name}"
        if option.need is not None:
            fitting = [one for one in needs.values() if isinstance(one, option.need)]
            return fitting[0] if fitting and had.get(option.name) is None else _UNSET
        if option.parts:
            return self._tls(kind, option, had.get(option.name, option.default))
        return self._typed(flag, self._known.get(flag))

    def _tls(self, kind: str, option: Option, code: Any) -> Any:
        """TLS as in code with the parts that are given; off when the switch says so."""
        from dataclasses import replace

        on = self._typed(f"{kind}_{option.name}", SWITCH)
        parts: dict[str, Any] = {}
        for part in option.parts:
            value = self._typed(f"{kind}_{part.name}", part.reader)
            if value is not _UNSET:
                parts[part.name.removeprefix(f"{option.name}_")] = value
        if on is False:
            return None
        if on is _UNSET and not parts:
            return _UNSET
        return replace(code if isinstance(code, TLS) else TLS(), **parts)

    def _addresses(
        self, kind: str, cls: type[Plugin], signature: Signature
    ) -> tuple[str, ...] | None:
        flag = f"{kind}_address"
        given = None if flag in self._core else self._given(flag)
        if given is None:
            return None
        if not signature.addresses:
            raise OptionError(f"{given.source}: {kind} {cls.name} has no address")
        return _addresses(given.source, given.read(ADDRESSES), cls)

    # -- what was given ----------------------------------------------------------------------

    def _given(self, name: str, *, path: bool = False, files: bool = True) -> Given | None:
        files = files and f"{name}_file" not in self._known
        return self._flags.given.get(name) or self._environ.get(name, path=path, files=files)

    def _typed(self, name: str, reader: Reader | None) -> Any:
        given = self._given(name, path=reader.path) if reader else None
        return given.read(reader) if given and reader else _UNSET

    def check(self) -> None:
        """Once everything is chosen: OptionError for a flag nobody knows, or a text that is wrong.

        A variable that is nearly one of ours is warned of; there may be others' below MICRO_.
        """
        for name, given in self._flags.given.items():
            if name not in self._known or not self._used(name):
                raise OptionError("\n".join(self._unknown(name, given.source)))
        for name in self._core:
            self.core(name)
        for text, before in self._flags.stray:
            raise OptionError(self._stray(text, before))
        for variable in self._environ.unknown(self._known):
            near = nearest(variable, map(variable_of, self._known), 0.9)
            if near:
                log.warning("%s is not used: did you mean %s?", variable, near)

    def _used(self, name: str) -> bool:
        return name in self._core or name.partition("_")[0] in self._chosen

    def _unknown(self, name: str, source: str) -> Iterator[str]:
        yield f"unknown flag {shown(source)}"
        kind = name.partition("_")[0]
        near = "" if name in self._known else nearest(name, filter(self._used, self._known))
        if near:
            yield f"Did you mean --{near}?"
        elif kind in plugins.KINDS and kind not in self._chosen:
            yield f"This program uses no {kind}."
        if kind in self._chosen:
            own = [f"--{flag}" for flag in self._known if flag.startswith(f"{kind}_")]
            yield f"Flags of {kind} {self._chosen[kind]}: {', '.join(own) or 'none'}"
        yield "All flags: --help"

    def _stray(self, text: str, before: str) -> str:
        reader = self._known.get(before)
        hidden = reader is not None and reader.hidden
        what = f"a second value for --{before}" if hidden else redact_url(shown(text))
        return f"unexpected argument: {what}\nFlags are --name value or --name=value: see --help"

    def help(self, components: Mapping[str, Code], *, prog: str = "") -> str:
        """The text of ``--help``, for the plugins chosen when code or defaults say these."""
        chosen: dict[str, type[Plugin] | SettingsError] = {}
        for kind, code in components.items():
            try:
                chosen[kind] = self._which(kind, code, "")[1]
            except SettingsError as error:
                chosen[kind] = error
        return help_text(prog, list(self._core.values()), chosen)

    def __repr__(self) -> str:
        return f"Settings({', '.join(self._flags.given)})"


def _at_least(reader: Reader, least: float) -> Reader:
    def read(text: str) -> Any:
        value = reader.read(text)
        if value < least:
            raise ValueError("too small")
        return value

    return reader._replace(read=read, form=f"{reader.form}, at least {least:g}")


def _addresses(source: str, text: str, cls: type[Plugin]) -> tuple[str, ...]:
    items = [item.strip() for item in text.split(",")]
    for number, item in enumerate(items, 1):
        try:
            cls.check_address(item)
        except ValueError as error:
            what = f"address {number} of {len(items)}" if set(text) & set("@?") else shown(item)
            example = getattr(cls, "default_address", "") or "127.0.0.1:8500"
            raise OptionError(
                f"{source}: {what} is no address: {error}\nFor example: {example}"
            ) from error
    return tuple(items)


def _build(
    kind: str,
    what: Plugin | type[Plugin],
    addresses: tuple[str, ...] | None,
    options: Mapping[str, Any],
    signature: Signature,
) -> Plugin:
    try:
        if isinstance(what, Plugin):
            return what.rebuilt(addresses, options)
        _check_required(kind, what, options, signature)
        return what(*(addresses or ()), **options)
    except SettingsError:
        raise
    except Exception as error:
        asks = signature.addresses and not addresses and isinstance(what, type)
        remedy = f"\nDoes it need an address? --{kind}_address host:port" if asks else ""
        raise OptionError(
            f"{kind} {what.name} refuses its options: {redact_url(str(error))}{remedy}"
        ) from error


def _check_required(
    kind: str, cls: type[Plugin], options: Mapping[str, Any], signature: Signature
) -> None:
    for option in signature.options.values():
        if option.required and option.name not in options:
            flag = f"{kind}_{option.name}"
            how = f"give --{flag} or {variable_of(flag)}" if option.reader else "give it in code"
            raise OptionError(f"{kind} {cls.name} needs the option {option.name!r}: {how}")
