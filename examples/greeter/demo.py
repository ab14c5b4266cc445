"""The whole story in one command: a greeter, a mailer and a caller, each a process of its own.

Takes the flags of a service and hands them to all three:

    python demo.py
    python demo.py --registry=consul --registry_address=127.0.0.1:8500
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
PATIENCE = 30.0


class Process:
    """A script beside this one; its output is shown line by line as it comes."""

    def __init__(self, script: str, arguments: Sequence[str], environ: dict[str, str]) -> None:
        self.name = script
        self.lines: list[str] = []
        self._seen = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout])
        self._reader.start()

    def _read(self, output: IO[str]) -> None:
        for line in output:
            # of a log line, what it says
            print(f"  {line.rpartition(' INFO micro: ')[2]}", end="", flush=True)
            with self._seen:
                self.lines.append(line)
                self._seen.notify_all()
        with self._seen:
            self._seen.notify_all()

    def saw(self, text: str) -> bool:
        """Wait until a line holds ``text``; False when the process ends without."""

        def settled() -> bool:
            return any(text in line for line in self.lines) or not self._reader.is_alive()

        with self._seen:
            self._seen.wait_for(settled, PATIENCE)
        return any(text in line for line in self.lines)

    def finish(self, *, terminate: bool) -> int:
        if terminate:
            self._process.terminate()
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        return code


def environment(flags: Sequence[str], runtime: str) -> dict[str, str]:
    """The same choices as variables, for the caller, which is no service and reads no flags."""
    name, variables = "", dict[str, str]()
    for word in flags:
        flag, _, value = word.partition("=") if word.startswith("--") else (name, "", word)
        name = flag.removeprefix("--").replace("-", "_").upper()
        variables[f"MICRO_{name}"] = value
    return {**os.environ, "XDG_RUNTIME_DIR": runtime, "PYTHONUNBUFFERED": "1", **variables}


def main(flags: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as runtime:
        environ = environment([], runtime)
        print("Starting the greeter and the mailer, each in a process of its own.")
        greeter = Process("service.py", flags, environ)
        mailer = Process("mailer.py", flags, environ)
        ready = greeter.saw("started") and mailer.saw("started")
        called = 1
        if ready:
            print("A caller in a third process finds the greeter by name.")
            caller = Process("caller.py", [], environment(flags, runtime))
            called = caller.finish(terminate=False)
        received = ready and called == 0 and mailer.saw("received")
        print("Stopping both: they leave the registry, finish their work and exit.")
        codes = [process.finish(terminate=True) for process in (greeter, mailer)]
    done = received and codes == [0, 0]
    print("All of it worked." if done else f"It did not work: exit codes {codes}.")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
