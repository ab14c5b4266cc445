"""What a terminal shows: the help, or the one error that ended the start."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from . import plugins
from .errors import BackendError, SettingsError
from .flags import variable_of
from .options import Option
from .security import redact_url

WIDTH = 100
HEIGHT = 24
_COLUMN = 30
_RULES = (
    "Every flag is a variable too: --registry_address is MICRO_REGISTRY_ADDRESS, and "
    "MICRO_REGISTRY_ADDRESS_FILE names a file that holds its value. A flag goes before a "
    "variable, a variable before code."
)


def report(error: BaseException, *, traceback: bool = False, kind: str = "") -> int:
    """Print an error on one screen of stderr, and return the exit code 2.

    ``kind`` is that of the component that failed, for the remedy of a BackendError.
    """
    if traceback:
        from traceback import print_exception

        print_exception(error)
    sys.stderr.write(screen(error, kind))
    return SettingsError.exit_code


def screen(error: BaseException, kind: str = "") -> str:
    """At most 24 lines of 100 columns: the error, its remedies and notes, without credentials."""
    text = redact_url(str(error) or type(error).__name__)
    notes: list[str] = getattr(error, "__notes__", [])
    kind = kind or text.partition(" ")[0]
    if isinstance(error, BackendError) and kind in plugins.KINDS and not notes:
        flag = f"{kind}_address"
        notes = [
            f"{kind} {error.plugin}, address {error.address or 'not given'}: is its server up?",
            f"The address is set by --{flag} or {variable_of(flag)}, the plugin by --{kind}.",
        ]
    first, *lines = "\n".join([f"error: {text}", *notes]).splitlines()
    rows = [row for line in (first, *(f"  {line}" for line in lines)) for row in _fold(line)]
    if len(rows) > HEIGHT:
        rows[HEIGHT - 1 :] = ["  …"]
    return "\n".join(rows) + "\n"


def help_text(prog: str, sections: Iterable[Sequence[Option]]) -> str:
    """Every flag with its meaning, its form and its default, as wide as the terminal."""
    import shutil

    width = min(WIDTH, shutil.get_terminal_size().columns)
    lines = [f"usage: {prog or 'program'} [--name value | --switch | --no-switch]...", ""]
    lines += _fold(_RULES, width, "")
    for section in sections:
        lines += ["", *(line for option in section for line in _row(option, width))]
    return "\n".join(lines) + "\n"


def _row(option: Option, width: int) -> list[str]:
    reader, default = option.reader, option.default
    form = reader.form if reader and not reader.switch else ""
    hidden = reader is not None and reader.hidden
    text = "; ".join(filter(None, [option.help.rstrip("."), form]))
    if not (default is None or default is False or default in ("", ()) or hidden):
        text += f" [{reader.show(default) if reader else default}]"
    flag, indent = f"  --{option.flag} ".ljust(_COLUMN), " " * _COLUMN
    beside = len(flag) == _COLUMN
    lines = _fold((flag if beside else indent) + text, max(width, _COLUMN + 20), indent)
    return lines if beside else [flag.rstrip(), *lines]


def _fold(text: str, width: int = WIDTH, indent: str = "    ") -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)
