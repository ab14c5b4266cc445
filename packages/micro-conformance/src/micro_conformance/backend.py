"""The server behind a plugin, and the faults that a test can inject into it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import secrets
import shlex
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from pytest_docker.plugin import get_docker_services

Ready = Callable[[str], Awaitable[None]]
"""Tries ``host:port`` once: returns when the server there answers in its own protocol."""

COMMAND_TIMEOUT = 60.0  # of a compose command that starts nothing, in seconds
TRY_TIMEOUT = 5.0  # of one call of `ready`
PROJECT_PREFIX = "micro-test-"  # `backends/down` sweeps compose projects of this name
PORT_VARIABLE = re.compile(r"\bMICRO_PORT_[A-Z0-9_]*[A-Z0-9]\b")


class BackendFailure(Exception):
    """A server could not be brought up, broken or mended as asked."""


class CannotBreak(BackendFailure):
    """A fault was asked of a server that the tests do not own."""


class Backend(ABC):
    """A server that tests run against; tests that break one own it.

    ``async with`` brings it up and takes it down. A fault is in effect when its method returns.
    Every method raises ``BackendFailure`` when it cannot do what it says in bounded time, and the
    faults raise ``CannotBreak`` when ``can_break`` is false.
    """

    can_break: ClassVar[bool] = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    @property
    @abstractmethod
    def address(self) -> str:
        """``host:port``, the same for as long as the backend lives."""

    @abstractmethod
    async def kill(self) -> None:
        """End the server with SIGKILL. What it has written stays."""

    @abstractmethod
    async def stop(self) -> None:
        """End the server with SIGTERM. What it has written stays."""

    @abstractmethod
    async def start(self) -> None:
        """Start the server after ``kill`` or ``stop``; returns when it answers."""

    @abstractmethod
    async def pause(self) -> None:
        """Freeze the server: connections stay open, and nothing answers."""

    @abstractmethod
    async def resume(self) -> None:
        """Thaw the server after ``pause``."""

    @abstractmethod
    async def wipe(self) -> None:
        """Kill the server, lose all its data, and start it empty; returns when it answers."""

    async def mend(self) -> None:
        """Undo the fault that is in effect, if any. Data may be lost."""
        await self.wipe()


class AddressBackend(Backend):
    """A server that somebody else runs: known by its ``host:port``, and not to be broken."""

    can_break = False

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"a backend's address is host:port, not {address!r}")
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def kill(self) -> None:
        self._refuse("kill")

    async def stop(self) -> None:
        self._refuse("stop")

    async def start(self) -> None:
        self._refuse("start")

    async def pause(self) -> None:
        self._refuse("pause")

    async def resume(self) -> None:
        self._refuse("resume")

    async def wipe(self) -> None:
        self._refuse("wipe")

    def _refuse(self, fault: str) -> NoReturn:
        raise CannotBreak(
            f"cannot {fault} {self._address}: it is known by its address alone; "
            f"a test that breaks its server needs one from docker compose"
        )


class ComposeBackend(Backend):
    """One service of some compose files, in a compose project of its own with a random name.

    ``port`` is the server's port inside its container. Each variable ``MICRO_PORT_…`` that the
    files name is set to a free port of 127.0.0.1 for the backend's life: the server must be
    published on one of them, since Docker's own choice changes with every start.

    A start lasts ``patience`` seconds at most for the container, which may have to be built, and
    as long again until ``ready`` returns. It is called until then, and cut off after 5 s each time.
    """

    def __init__(
        self,
        service: str,
        port: int,
        *,
        files: Sequence[str | os.PathLike[str]],
        ready: Ready,
        patience: float = 120.0,
    ) -> None:
        self.project = PROJECT_PREFIX + secrets.token_hex(6)
        self._service = service
        self._port = port
        self._files = [Path(file).resolve() for file in files]
        self._ready = ready
        self._patience = patience
        self._ports: dict[str, str] = {}
        self._address = ""
        self._fault = ""

    @property
    def address(self) -> str:
        if not self._address:
            raise BackendFailure(f"{self._service} has no address before it is up: use async with")
        return self._address

    @property
    def ports(self) -> Mapping[str, str]:
        """The port of each variable ``MICRO_PORT_…``, for a server with more than one."""
        return self._ports

    async def __aenter__(self) -> Self:
        self._ports = _free_ports(_port_variables(self._files))
        try:
            await self.start()
        except BaseException:
            await self._down()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._down()

    @contextmanager
    def composed(self) -> Generator[Self]:
        """Up and down through pytest-docker, for a fixture: like ``async with``, without a loop."""
        self._ports = _free_ports(_port_variables(self._files))
        variables = [f"{name}={value}" for name, value in self._ports.items()]
        command = shlex.join(["env", *variables, "docker", "compose"])
        up, down = f"up -d --no-recreate {self._service}", "down -v -t 1 --remove-orphans"
        files = [str(file) for file in self._files]
        with get_docker_services(command, files, self.project, [], [down]) as services:
            services._docker_compose.execute(up)  # only what runs inside is cleaned up
            asyncio.run(self.start())
            yield self

    async def kill(self) -> None:
        self._fault = "down"
        await self._compose("kill", "-s", "KILL", self._service)

    async def stop(self) -> None:
        self._fault = "down"
        await self._compose("stop", "-t", "30", self._service)

    async def start(self) -> None:
        await self._compose("up", "-d", "--no-recreate", self._service, timeout=self._patience)
        self._settle(await self._published())
        await self._answer()
        self._fault = ""

    async def pause(self) -> None:
        self._fault = "frozen"
        await self._compose("pause", self._service)

    async def resume(self) -> None:
        await self._compose("unpause", self._service)
        self._fault = ""

    async def wipe(self) -> None:
        self._fault = "down"
        await self._compose("down", "-v", "-t", "0")
        await self.start()

    async def mend(self) -> None:
        if self._fault == "frozen":
            await self.resume()
        elif self._fault:
            await self.start()

    async def _down(self) -> None:
        await self._compose("down", "-v", "-t", "1", "--remove-orphans")

    async def _published(self) -> str:
        address = (await self._compose("port", self._service, str(self._port))).strip()
        return address.replace("0.0.0.0:", "127.0.0.1:")

    def _settle(self, address: str) -> None:
        if self._address not in ("", address):
            raise BackendFailure(
                f"{self._service} moved from {self._address} to {address}: publish its port "
                f"{self._port} on ${{MICRO_PORT_…}} in the compose file"
            )
        self._address = address

    async def _answer(self) -> None:
        error: Exception | None = None
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    error = await self._try()
                    if error is None:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise BackendFailure(await self._silence(error)) from error

    async def _try(self) -> Exception | None:
        try:
            async with asyncio.timeout(TRY_TIMEOUT):
                await self._ready(self._address)
        except Exception as error:
            return error
        return None

    async def _silence(self, error: Exception | None) -> str:
        log = await self._compose("logs", "--no-color", "--tail", "20", self._service)
        return (
            f"{self._service} does not answer at {self._address} after {self._patience:g} s: "
            f"{error!r}; its log ends:\n{log}"
        )

    async def _compose(self, *arguments: str, timeout: float = COMMAND_TIMEOUT) -> str:
        files = [part for file in self._files for part in ("-f", str(file))]
        command = ["docker", "compose", "-p", self.project, *files, *arguments]
        return await _run(command, {**os.environ, **self._ports}, timeout)


async def _run(command: Sequence[str], environment: Mapping[str, str], timeout: float) -> str:
    """The command's standard output. Its whole process group is gone when this returns."""
    process = await _spawn(command, environment)
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate()
    except TimeoutError:
        raise BackendFailure(f"took longer than {timeout:g} s: {' '.join(command)}") from None
    finally:
        await _kill_group(process)
    if process.returncode:
        raise BackendFailure(f"failed: {' '.join(command)}\n{(output + errors).decode()}")
    return output.decode()


async def _spawn(
    command: Sequence[str], environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # docker runs compose as a child, and Ctrl-C must not reach either during the clean-up
            start_new_session=True,
        )
    except FileNotFoundError:
        raise BackendFailure(f"{command[0]} is not installed") from None


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _port_variables(files: Iterable[Path]) -> list[str]:
    return sorted({name for file in files for name in PORT_VARIABLE.findall(file.read_text())})


def _free_ports(names: Sequence[str]) -> dict[str, str]:
    """Each name with a port of 127.0.0.1 that nobody listens on.

    They lie below those the kernel gives to outgoing connections, one of which could take the
    port of a server that is down. The system's randomness, because tests seed the other.
    """
    candidates = random.SystemRandom().sample(range(20_000, 32_000), 1_000)
    free = (str(port) for port in candidates if _is_free(port))
    return dict(zip(names, free, strict=False))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
