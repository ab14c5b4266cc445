"""Scripts as processes of their own, the way a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 30.0  # seconds in which any script is expected to do what it does
COLUMNS, LINES = 100, 24  # of one screen


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Nobody's choices but those in ``variables``; what is kept between processes is in ``home``.

    The runtime directory of the local registry is ``home`` too, so that no two tests meet.
    """
    ours = ("MICRO_", "PYTHON", "XDG_", "VIRTUAL_ENV", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), **variables}


class Result:
    """How a script ended and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"

    def ended_well(self) -> Self:
        assert self.code == 0, self
        return self

    def on_one_screen(self) -> bool:
        lines = self.err.splitlines()
        return len(lines) <= LINES and all(len(line) <= COLUMNS for line in lines)


def finish(
    command: Sequence[str | Path],
    environ: Mapping[str, str],
    cwd: Path,
    patience: float = PATIENCE,
) -> Result:
    """Run to the end."""
    done = subprocess.run(
        list(map(str, command)),
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=patience,
        stdin=subprocess.DEVNULL,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class Script:
    """A script that runs until it is told to stop; leaving the context kills it."""

    def __init__(
        self, command: Sequence[str | Path], environ: Mapping[str, str], cwd: Path
    ) -> None:
        self._process = subprocess.Popen(
            list(map(str, command)),
            env={**environ, "PYTHONUNBUFFERED": "1"},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self, text: str, patience: float = PATIENCE) -> str:
        """The first line that holds ``text``, as soon as it is there."""

        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, patience)
            line = found()
        assert line is not None, f"no {text!r} in\n" + "\n".join(self.lines)
        return line

    def send(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code."""
        code = self._process.wait(patience)
        self._reader.join(PATIENCE)
        return code

    def stop(self, patience: float = PATIENCE) -> int:
        """Ask it to stop, and return its exit code."""
        self.send()
        return self.wait(patience)
