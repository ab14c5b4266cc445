"""Choices in layers: a flag, else a variable, else code, else the default.

Texts are kept as they came until somebody asks: only the plugin that was chosen knows which
options there are and of what types. So first every component is chosen, then :meth:`check`
refuses what nobody knew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from . import plugins
from .defaults import CORE, CoreOption
from .errors import OptionError, PluginIncomplete, SettingsError
from .flags import Given, content, nearest, read_environment, read_flags, variable_of
from .options import NAME, TEXT, Option, Reader, at_least, options_of, reader_for, shown
from .plugin import Plugin
from .screen import help_text, report
from .security import TLS, redact_url

__all__ = ["CORE", "CoreOption", "Settings", "report"]

Code = Plugin | type[Plugin] | str | None
Needs = Mapping[type, object] | None
Core = Sequence[CoreOption]
log = logging.getLogger("micro.settings")


class Settings:
    """What the command line and the environment say, asked piece by piece.

    ``core`` answers for options of the core and ``choose`` builds components; both look at the
    flag, the variable, what code gave, and the default, in this order. An empty variable counts
    as none. All errors are SettingsError, and none shows a secret.
    """

    def __init__(self, argv: Iterable[str], environ: Mapping[str, str], core: Core) -> None:
        self._flags, self._stray = read_flags(argv)
        self._environ = read_environment(environ)
        self._core = {option.name: option for option in core}
        self._known: dict[str, Reader] = {one.name: _reader_of(one) for one in core}
        self._chosen: dict[str, str] = {}

    @classmethod
    def read(
        cls, argv: Iterable[str] | None, environ: Mapping[str, str], *, core: Core = CORE
    ) -> Settings:
        """``argv`` without the name of the program, ``None`` for no flags. Never raises."""
        return cls(argv or (), environ, core)

    # -- options of the core -----------------------------------------------------------------

    def core(self, name: str, code: Any = None, default: Any = None) -> Any:
        """The value of a core option; ``None`` in code is nothing said.

        ``default`` stands in for the one in the table. Raises OptionError.
        """
        layers = (self._value(name), code, default, self._core[name].default)
        return next((value for value in layers if value is not None), None)

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

    # -- components --------------------------------------------------------------------------

    def choose(
        self, kind: str, code: Code = None, default: str = "", *, needs: Needs = None
    ) -> Any:
        """The component of a kind: the object in code itself, or a new one.

        Another plugin than that of the object replaces it and takes none of its options.
        Otherwise the object is kept; if a flag or a variable gives one of its options or its
        address, or if ``needs`` has a component that it takes and was not given, then it is
        built again with all the rest as it was.
        """
        cls = self._which(kind, code, default)
        what = code if isinstance(code, Plugin) and type(code) is cls else cls
        return self.configure(kind, what, needs=needs)

    def configure(self, kind: str, what: Plugin | type[Plugin], *, needs: Needs = None) -> Any:
        """:meth:`choose` with the plugin settled: only its address and options are looked up."""
        kept, cls = (None, what) if isinstance(what, type) else (what, type(what))
        had = {} if kept is None else {"address": kept._positional, **kept._options}
        given: dict[str, Any] = {}
        options = self._admit(kind, cls)
        for option in options:
            value = self._value(option.flag) if option.reader else None
            if option.need and had.get(option.name) is None:
                fitting = (one for one in (needs or {}).values() if isinstance(one, option.need))
                value = next(fitting, None)
            if value is not None:
                given[option.name] = value
        _join_tls(options, given, had)
        given = {name: value for name, value in given.items() if had.get(name, ...) != value}
        return _build(what, options, given) if given or kept is None else kept

    def _which(self, kind: str, code: Code, default: str) -> type[Plugin]:
        """The class that is asked for: that of code, or another one."""
        own: type[Plugin] | None = None
        if code is not None and not isinstance(code, str):
            cls = type(code) if isinstance(code, Plugin) else code
            own = plugins.complete(kind, cls, f"{kind}= in code")
        given = self._given(kind)
        try:
            name = given.read(NAME) if given else code if isinstance(code, str) else None
            if own is not None and name in (None, own.name):
                return own
            return plugins.load_default(kind, default) if name is None else plugins.load(kind, name)
        except SettingsError as error:
            if given:
                error.add_note(f"It was asked for by {given.source}.")
            raise

    def _admit(self, kind: str, cls: type[Plugin]) -> list[Option]:
        """The options of a plugin, known from now on, unless one takes a name that is another's.

        The address of a server is an option of the core.
        """
        address, *options = options_of(cls)
        if address.flag in self._core:
            address = address._replace(reader=None)
        elif not address.reader and (given := self._given(address.flag)):
            raise OptionError(f"{given.source}: {kind} {cls.name} has no address")
        own = {address.flag: address.reader}
        for option in options:
            core = self._core.get(option.flag)
            if option.flag in own or (core and not core.shared):
                raise PluginIncomplete(
                    f"{kind} {cls.name}: its option {option.name!r} would be --{option.flag}, "
                    "which has another meaning\nIts author must rename the option."
                )
            own[option.flag] = self._known[option.flag] if core else option.reader
        self._known |= {kind: NAME} | {flag: reader for flag, reader in own.items() if reader}
        self._chosen[kind] = cls.name
        return [address, *options]

    # -- what was given ----------------------------------------------------------------------

    def _given(self, name: str) -> Given | None:
        variable, file = variable_of(name), f"{variable_of(name)}_FILE"
        given = self._flags.get(name) or self._environ.get(variable)
        another = name in plugins.KINDS or f"{name}_file" in self._known
        if name in self._flags or file not in self._environ or another:
            return given
        if (reader := self._known.get(name)) and reader.path:
            raise OptionError(f"{file}: a path is not kept in a file: set {variable}")
        if given:
            raise OptionError(f"{variable} and {file} are both set: unset one of them")
        return content(self._environ[file])

    def _value(self, name: str) -> Any:
        given = self._given(name)
        return given.read(self._known[name]) if given else None

    def check(self) -> None:
        """Once everything is chosen: OptionError for a flag nobody knows, or a text that is wrong.

        A variable that is nearly one of ours is warned of; there may be others' below MICRO_.
        """
        for name, given in self._flags.items():
            if name not in self._known:
                raise OptionError("\n".join(self._unknown(name, given.source)))
        for name in self._core:
            self.core(name)
        for text, before in self._stray:
            hidden = before and self._known[before].hidden
            what = f"a second value for --{before}" if hidden else redact_url(shown(text))
            raise OptionError(
                f"unexpected argument: {what}\nFlags are --name value or --name=value: see --help"
            )
        known = set(map(variable_of, [*self._known, *plugins.KINDS]))
        for variable in sorted(self._environ.keys() - known):
            near = nearest(variable, known, 0.9)
            if near and variable.removesuffix("_FILE") not in known:
                log.warning("%s is not used: did you mean %s?", variable, near)

    def _unknown(self, name: str, source: str) -> Iterator[str]:
        yield f"unknown flag {shown(source)}"
        kind = name.partition("_")[0]
        own = [flag for flag in self._known if flag.startswith(f"{kind}_")]
        near = nearest(name, own if kind in plugins.KINDS else self._known)
        if near:
            yield f"Did you mean --{near}?"
        elif kind in plugins.KINDS and kind not in self._chosen:
            yield f"This program uses no {kind}."
        if kind in self._chosen:
            flags = ", ".join(f"--{flag}" for flag in own) or "none"
            yield f"Flags of {kind} {self._chosen[kind]}: {flags}"
        yield "All flags: --help"

    def help(self, components: Mapping[str, Code], *, prog: str = "") -> str:
        """The text of ``--help``, for the plugins chosen when code or defaults say these."""
        core = self._core.values()
        sections = [[Option("", o.name, self._known[o.name], o.default, o.help) for o in core]]
        for kind, code in components.items():
            which = f"one of {', '.join(plugins.names(kind)) or 'none'}"
            try:
                cls = self._which(kind, code, "")
                own = [one for one in self._admit(kind, cls) if one.flag not in self._core]
            except SettingsError as error:
                fault = str(error).partition("\n")[0]
                sections.append([Option(kind, "", help=f"{fault}; {which}")])
            else:
                flags = (one for one in own if one.reader)
                sections.append([Option(kind, "", None, cls.name, which), *flags])
        return help_text(prog, sections)

    def __repr__(self) -> str:
        return f"Settings({', '.join(self._flags)})"


def _reader_of(option: CoreOption) -> Reader:
    reader = reader_for(option.type) or TEXT
    return reader if option.least is None else at_least(reader, option.least)


def _join_tls(options: Sequence[Option], given: dict[str, Any], had: Mapping[str, Any]) -> None:
    """TLS as in code with the parts that are given; off when the switch says so."""
    for switch in [option for option in options if option.of == option.name]:
        name = switch.name
        own = [one.name for one in options if one.of == name != one.name and one.name in given]
        parts = {part.removeprefix(f"{name}_"): given.pop(part) for part in own}
        if given.get(name, bool(parts)):
            given[name] = replace(had.get(name, switch.default) or TLS(), **parts)
        elif name in given:
            given[name] = None


def _build(what: Plugin | type[Plugin], options: Sequence[Option], given: dict[str, Any]) -> Plugin:
    for option in options:
        if option.required and option.name not in given and isinstance(what, type):
            how = (
                f"--{option.flag} or {variable_of(option.flag)}" if option.reader else "it in code"
            )
            raise OptionError(
                f"{what.kind} {what.name} needs the option {option.name!r}: give {how}"
            )
    addresses = given.pop("address", None)
    try:
        if isinstance(what, Plugin):
            return what.rebuilt(addresses, given)
        return what(*(addresses or ()), **given)
    except SettingsError:
        raise
    except Exception as error:
        text = redact_url(str(error))
        raise OptionError(f"{what.kind} {what.name} refuses its options: {text}") from error
