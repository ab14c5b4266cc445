"""What a terminal shows: the help, or the one error that ended the start."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import plugins
from .errors import BackendError, SettingsError
from .flags import variable_of
from .options import ADDRESSES, Option, Reader, reader_for, signature_of
from .plugin import Plugin
from .security import redact_url

if TYPE_CHECKING:
    from .settings import CoreOption

WIDTH = 100
HEIGHT = 24
_COLUMN = 30


# -- errors ----------------------------------------------------------------------------------


def report(error: BaseException, *, traceback: bool = False, kind: str = "") -> int:
    """Print an error on one screen of stderr, and return the exit code 2.

    ``kind`` is that of the component that failed, for the remedy of a BackendError.
    """
    if traceback:
        from traceback import print_exception

        print_exception(error)
    sys.stderr.write(screen(error, kind))
    return SettingsError.exit_code


def exit_with(error: BaseException, *, traceback: bool = False, kind: str = "") -> NoReturn:
    """:func:`report`, then SystemExit."""
    raise SystemExit(report(error, traceback=traceback, kind=kind))


def screen(error: BaseException, kind: str = "") -> str:
    """At most 24 lines of 100 columns: the error, its remedies and notes, without credentials."""
    text = redact_url(str(error) or type(error).__name__)
    notes: Sequence[str] = getattr(error, "__notes__", ())
    lines = ["error: " + text, *notes]
    if isinstance(error, BackendError) and not notes:
        lines += _remedy(error, kind or text.partition(" ")[0])
    wrapped = [row for line in "\n".join(lines).splitlines() for row in _wrap(line)]
    if len(wrapped) > HEIGHT:
        wrapped[HEIGHT - 1 :] = ["  …"]
    return "\n".join(wrapped) + "\n"


def _remedy(error: BackendError, kind: str) -> Iterator[str]:
    if kind not in plugins.KINDS:
        return
    flag = f"{kind}_address"
    yield f"{kind} {error.plugin}, address {error.address or 'not given'}: is its server up?"
    yield f"The address is set by --{flag} or {variable_of(flag)}, the plugin by --{kind}."


def _wrap(line: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        line,
        WIDTH,
        initial_indent="" if line.startswith("error: ") else "  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


# -- help ------------------------------------------------------------------------------------


_RULES = (
    "Every flag is a variable too: --registry_address is MICRO_REGISTRY_ADDRESS, and "
    "MICRO_REGISTRY_ADDRESS_FILE names a file that holds its value. A flag goes before a "
    "variable, a variable before code."
)


def help_text(
    prog: str, core: Sequence[CoreOption], chosen: Mapping[str, type[Plugin] | SettingsError]
) -> str:
    """Every flag with its meaning, its form and its default, as wide as the terminal."""
    import shutil

    width = min(WIDTH, shutil.get_terminal_size().columns)
    lines = [f"usage: {prog or 'program'} [--name value | --switch | --no-switch]...", ""]
    lines += [*_fold(_RULES, width), ""]
    for option in core:
        reader = reader_for(option.type)
        lines += _row(option.name, option.help, reader, option.default, width)
    names = {option.name for option in core}
    for kind, found in chosen.items():
        lines += ["", *_component(kind, found, names, width)]
    return "\n".join(lines) + "\n"


def _component(
    kind: str, found: type[Plugin] | SettingsError, core: Container[str], width: int
) -> Iterator[str]:
    which = f"one of {', '.join(plugins.names(kind)) or 'none'}"
    if isinstance(found, SettingsError):
        fault = str(found).partition("\n")[0]
        yield from _row(kind, f"{fault}; {which}", None, None, width)
        return
    yield from _row(kind, which, None, found.name, width)
    signature = signature_of(found)
    if signature.addresses:
        address = getattr(found, "default_address", None)
        yield from _row(f"{kind}_address", "its server", ADDRESSES, address, width)
    for option in signature.options.values():
        for part in option.flags():
            flag = f"{kind}_{part.name}"
            if flag not in core:
                yield from _row(flag, part.help, part.reader, _default(part), width)


def _default(option: Option) -> Any:
    hidden = option.reader is not None and option.reader.hidden
    return None if hidden or option.parts else option.default


def _row(name: str, help: str, reader: Reader | None, default: Any, width: int) -> list[str]:
    form = reader.form if reader and not reader.switch else ""
    text = "; ".join(filter(None, [help.rstrip("."), form]))
    if not (default is None or default is False or default in ("", ())):
        text += f" [{reader.show(default) if reader else default}]"
    flag = f"  --{name} ".ljust(_COLUMN)
    lines = _fold(text, max(width - _COLUMN, 20))
    if len(flag) > _COLUMN:
        lines.insert(0, "")
    return (flag + ("\n" + " " * _COLUMN).join(lines)).rstrip().split("\n")


def _fold(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False)
