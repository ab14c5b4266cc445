"""Folders with a service script, and with distributions that nobody published."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import Result, Script, environment, finish

from micro_core import Client, ServiceInfo
from micro_core.registry.local import LocalRegistry

SERVICE = """
from micro_core import Service

class Say:
    async def hello(self, request: dict[str, str]) -> dict[str, str]:
        return {"greeting": "Hello " + request["name"]}

service = Service("chooser", version="1.0.0", CODE)
service.handle(Say())

if __name__ == "__main__":
    service.run()
"""
PICKY = """
    from micro_core import Secret
    from micro_core.registry.memory import MemoryRegistry

    class Picky(MemoryRegistry):
        '''token: what the server asks for'''
        name = "picky"
        default_address = "127.0.0.1:7000"

        def __init__(
            self, *addresses: str, token: Secret | None = None, wait: float = 1.0, port: int = 1
        ) -> None:
            super().__init__(*addresses)
            if wait > 600:
                raise ValueError("wait is more than 600 seconds")
"""
NOTED = "from pathlib import Path\nPath(__file__ + '.imported').touch()\n"  # who was imported


@dataclass
class Place:
    """A folder with scripts and distributions, which only the scripts of this test see."""

    folder: Path

    def __post_init__(self) -> None:
        self.packages = self.folder / "packages"
        self.packages.mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        fresh = path.with_name(f"{name}.{threading.get_ident()}")
        fresh.write_text(text)
        fresh.replace(path)  # another script may be about to read it
        return path

    def install(
        self,
        dist: str,
        code: str,
        *entries: str,
        requires: Sequence[str] = ("micro-core",),
    ) -> None:
        """``entries`` are ``kind name = Class`` of one module that holds ``code``."""
        module = dist.replace("-", "_")
        info = self.packages / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (self.packages / f"{module}.py").write_text(NOTED + textwrap.dedent(code))
        metadata = ["Metadata-Version: 2.1", f"Name: {dist}", "Version: 1.0"]
        metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(metadata) + "\n")
        groups = [entry.split(" ", 1) for entry in entries]
        lines = [f"[micro.{kind}]\n{line.replace('= ', f'= {module}:')}\n" for kind, line in groups]
        (info / "entry_points.txt").write_text("\n".join(lines))

    def imported(self) -> list[str]:
        return sorted(path.name.partition(".")[0] for path in self.packages.glob("*.imported"))

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return environment(self.folder, PYTHONPATH=str(self.packages), **variables)

    def run(self, *arguments: str | Path, **variables: str) -> Result:
        command = [sys.executable, *arguments]
        return finish(command, self.environment(variables), self.folder)

    def service(self, *flags: str, code: str = "", **variables: str) -> Result:
        """Run the service ``chooser``, which is given ``code``, until it ends by itself."""
        self.write("chooser.py", SERVICE.replace("CODE", code))
        return self.run("chooser.py", *flags, **variables)

    def start(self, script: Path | str, *flags: str, **variables: str) -> Script:
        command = [sys.executable, script, *flags]
        return Script(command, self.environment(variables), self.folder)

    def start_service(self, *flags: str, code: str = "", **variables: str) -> Script:
        self.write("chooser.py", SERVICE.replace("CODE", code))
        return self.start("chooser.py", *flags, **variables)

    def record(self, name: str) -> list[ServiceInfo]:
        """What the local registry of these scripts says."""

        async def body() -> list[ServiceInfo]:
            async with LocalRegistry(str(self.folder / "micro")) as registry:
                return await registry.get_service(name)

        return asyncio.run(body())

    def ask(self, name: str, endpoint: str = "Say.Hello") -> Any:
        """The answer of a service to a caller in another process, which is this one."""

        async def body() -> Any:
            async with Client(registry=LocalRegistry(str(self.folder / "micro"))) as client:
                return await client.call(name, endpoint, {"name": "John"})

        return asyncio.run(body())


def memory(kind: str, *names: str) -> str:
    """The code of plugins like the memory one of a kind, under other names: ``First(...)``."""
    base = f"Memory{kind.capitalize()}"
    classes = [f"class {name.capitalize()}({base}):\n    name = {name!r}\n" for name in names]
    return f"from micro_core.{kind}.memory import {base}\n" + "\n".join(classes)


def said(result: Result, *texts: str) -> bool:
    """In any line break: errors are wrapped."""
    flat = " ".join(result.err.split())
    return all(" ".join(text.split()) in flat for text in texts)
