"""Backends, against the real Consul where docker can start one and against a scripted docker."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from micro_conformance import (
    AddressBackend,
    Backend,
    BackendFailure,
    CannotBreak,
    ComposeBackend,
    Ready,
)

COMPOSE = os.environ.get("MICRO_TEST_COMPOSE", "")
needs_docker = pytest.mark.skipif(not shutil.which("docker"), reason="needs docker")
needs_files = pytest.mark.skipif(
    not COMPOSE, reason="needs MICRO_TEST_COMPOSE, which backends/up writes to .backends.env"
)
FAULTS = ["kill", "stop", "start", "pause", "resume", "wipe"]


def request(method: str, url: str, body: bytes | None) -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url, data=body, method=method), timeout=2
    ) as reply:
        return bytes(reply.read())


async def http(method: str, address: str, path: str, body: bytes | None = None) -> bytes:
    return await asyncio.to_thread(request, method, f"http://{address}/v1/{path}", body)


async def put(address: str, value: bytes) -> None:
    assert (await http("PUT", address, "kv/color", value)).strip() == b"true"


async def get(address: str) -> bytes | None:
    try:
        return await http("GET", address, "kv/color?raw")
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 404
        return None


async def consul_ready(address: str) -> None:
    # A new leader answers other reads before it has applied its log: what was written looks lost.
    await http("GET", address, "catalog/nodes?consistent")


def consul(ready: Ready = consul_ready, **options: float) -> ComposeBackend:
    return ComposeBackend("consul", 8500, files=COMPOSE.split(os.pathsep), ready=ready, **options)


def leftovers(project: str) -> str:
    label = f"label=com.docker.compose.project={project}"
    kinds = ["ps -a", "volume ls", "network ls"]
    return "".join(
        subprocess.check_output(["docker", *kind.split(), "-q", "--filter", label], text=True)
        for kind in kinds
    )


@needs_docker
@needs_files
@pytest.mark.parametrize("fault", ["kill", "stop"])
def test_what_was_written_is_there_after_a_start(fault: str) -> None:
    async def main() -> None:
        async with consul() as backend:
            address = backend.address
            await put(address, b"blue")
            await getattr(backend, fault)()
            with pytest.raises(OSError):
                await get(address)
            await backend.start()
            assert backend.address == address
            assert await get(address) == b"blue"

    asyncio.run(main())


@needs_docker
@needs_files
def test_a_wiped_server_is_empty_and_takes_writes() -> None:
    async def main() -> None:
        async with consul() as backend:
            address = backend.address
            await put(address, b"blue")
            await backend.wipe()
            assert backend.address == address
            assert await get(address) is None
            await put(address, b"green")
            assert await get(address) == b"green"

    asyncio.run(main())


@needs_docker
@needs_files
def test_a_dead_or_frozen_server_can_be_wiped() -> None:
    async def main() -> None:
        async with consul() as backend:
            for fault in (backend.kill, backend.pause):
                await put(backend.address, b"blue")
                await fault()
                await backend.wipe()
                assert await get(backend.address) is None

    asyncio.run(main())


@needs_docker
@needs_files
def test_a_paused_server_is_silent_until_it_is_resumed() -> None:
    async def main() -> None:
        async with consul() as backend:
            await put(backend.address, b"blue")
            await backend.pause()
            with pytest.raises(TimeoutError):
                await get(backend.address)
            await backend.resume()
            assert await get(backend.address) == b"blue"

    asyncio.run(main())


@needs_docker
@needs_files
def test_a_paused_server_is_killed_and_taken_down() -> None:
    async def main() -> str:
        async with consul() as backend:
            await backend.pause()
            await backend.kill()
            await backend.start()
            await backend.pause()
        return backend.project

    assert leftovers(asyncio.run(main())) == ""


@needs_docker
@needs_files
def test_two_backends_share_nothing() -> None:
    async def main() -> None:
        async with consul() as one, consul() as other:
            assert one.address != other.address
            await put(one.address, b"blue")
            assert await get(other.address) is None

    asyncio.run(main())


@needs_docker
@needs_files
def test_nothing_is_left_when_it_never_answers() -> None:
    async def never(address: str) -> None:
        raise ConnectionError("not yet")

    backend = consul(never, patience=5.0)

    async def main() -> None:
        async with backend:
            pytest.fail("it is up")

    with pytest.raises(BackendFailure, match=r"does not answer at 127\.0\.0\.1:.*not yet"):
        asyncio.run(main())
    assert leftovers(backend.project) == ""


@needs_docker
@needs_files
def test_nothing_is_left_when_the_start_is_cancelled() -> None:
    backend = consul(lambda address: asyncio.sleep(60.0))

    async def main() -> None:
        async with asyncio.timeout(3.0):
            async with backend:
                pytest.fail("it is up")

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert leftovers(backend.project) == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_known_by_its_address_cannot_be_broken(fault: str) -> None:
    backend: Backend = AddressBackend("10.0.0.1:8500")

    async def main() -> None:
        async with backend:
            await getattr(backend, fault)()

    assert not backend.can_break
    with pytest.raises(CannotBreak, match=rf"cannot {fault} 10\.0\.0\.1:8500: "):
        asyncio.run(main())


@pytest.mark.parametrize("address", ["10.0.0.1", ":8500", "10.0.0.1:http", ""])
def test_an_address_has_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        AddressBackend(address)


class Docker:
    """A scripted docker: logs each compose command, then does what the script says about it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "compose.yaml").write_text(
            "ports: ['${MICRO_PORT_A}:1', '${MICRO_PORT_B_2:?}:2', '${MICRO_PORT_A}:3']"
        )
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self.does('[ $1 != port ] || echo "127.0.0.1:$MICRO_PORT_A"')

    def does(self, script: str) -> None:
        docker = self.folder / "docker"
        log = self.folder / "log"
        docker.write_text(f'#!/bin/bash\nshift 5\necho "$*" >> {log}\n{script}\n')
        docker.chmod(0o755)

    @property
    def commands(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def backend(self, **options: float) -> ComposeBackend:
        async def ready(address: str) -> None:
            pass

        files = [self.folder / "compose.yaml"]
        return ComposeBackend("a", 1, files=files, ready=ready, **options)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    return Docker(tmp_path, monkeypatch)


async def up_and_down(backend: ComposeBackend) -> None:
    async with backend:
        pass


def test_every_port_variable_of_the_files_has_a_port_of_its_own(docker: Docker) -> None:
    docker.does("env | grep MICRO_PORT_ >&2; [ $1 == port ] && echo 127.0.0.1:1; exit $((2 - $#))")
    with pytest.raises(BackendFailure) as caught:
        asyncio.run(up_and_down(docker.backend()))
    lines = set(str(caught.value).splitlines()[1:])
    assert {line.partition("=")[0] for line in lines} == {"MICRO_PORT_A", "MICRO_PORT_B_2"}
    assert len({line.partition("=")[2] for line in lines}) == 2


def test_a_command_that_hangs_is_killed_with_its_children(docker: Docker) -> None:
    children = docker.folder / "children"
    docker.does(f"[ $1 != up ] || {{ sleep 60 & echo $! > {children}; wait; }}")
    began = time.monotonic()
    with pytest.raises(BackendFailure, match=r"took longer than 0\.5 s: docker compose .* up -d"):
        asyncio.run(up_and_down(docker.backend(patience=0.5)))
    assert time.monotonic() - began < 5.0
    stat = Path(f"/proc/{children.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
    assert docker.commands[-1].startswith("down -v ")


def test_a_failed_start_says_what_docker_said_and_is_taken_down(docker: Docker) -> None:
    docker.does('[ $1 != up ] || { echo "no such image" >&2; exit 1; }')
    with pytest.raises(BackendFailure, match="no such image"):
        asyncio.run(up_and_down(docker.backend()))
    assert [command.split()[0] for command in docker.commands] == ["up", "down"]


def test_a_server_that_moves_is_refused(docker: Docker) -> None:
    async def main() -> None:
        async with docker.backend() as backend:
            docker.does("[ $1 != port ] || echo 127.0.0.1:4")
            await backend.start()

    with pytest.raises(BackendFailure, match=r"moved from 127.0.0.1:\d+ to 127.0.0.1:4: publish"):
        asyncio.run(main())


def test_a_server_published_everywhere_is_reached_by_loopback(docker: Docker) -> None:
    docker.does("[ $1 != port ] || echo 0.0.0.0:4")
    backend = docker.backend()
    asyncio.run(up_and_down(backend))
    assert backend.address == "127.0.0.1:4"


def test_without_docker_it_says_so(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BackendFailure, match="docker is not installed"):
        asyncio.run(up_and_down(docker.backend()))


def test_an_address_before_it_is_up_is_refused(docker: Docker) -> None:
    with pytest.raises(BackendFailure, match="use async with"):
        _ = docker.backend().address
