"""The real servers answer in their own protocols, and tests can own one and break it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import SERVERS, kafka_ask, kafka_brokers

from micro_conformance import ComposeBackend
from micro_conformance.proxy import ChaosProxy

ROOT = Path(__file__).parent.parent
FOLDERS = {dockerfile.parent.name for dockerfile in ROOT.glob("backends/*/Dockerfile")}


def services(file: str) -> dict[str, str]:
    """The text of each service of a compose file of ours."""
    part = re.search(r"^services:\n(.*?)(?=^\w|\Z)", (ROOT / file).read_text(), re.M | re.S)
    assert part
    pieces = re.split(r"^  ([\w-]+):\n", part[1], flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def items(service: str, key: str) -> list[str]:
    part = re.search(rf"^    {key}:\n((?:      - .*\n)+)", service, re.M)
    return re.findall(r'^      - "?(.*?)"?$', part[1], re.M) if part else []


def test_the_compose_files_and_the_folders_name_the_same_servers() -> None:
    assert set(services("compose.yaml")) == FOLDERS == set(SERVERS)
    assert set(services("compose.offline.yaml")) == FOLDERS


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_service_is_pinned_bounded_checked_kept_and_on_loopback_alone(name: str) -> None:
    service = services("compose.yaml")[name]
    assert service.startswith("    <<: *server\n")
    assert re.search(r"^    mem_limit: \d+m\b", service, re.M)
    assert re.search(r"^    image: \S+:v?\d+\.\d+\.\d+(-alpine)?$", service, re.M)
    assert re.search(r"^    healthcheck:.*\n      test: \[", service, re.M)
    assert [volume.partition(":")[0] for volume in items(service, "volumes")] == [name]
    assert f"\n  {name}:\n" in (ROOT / "compose.yaml").read_text().partition("\nvolumes:")[2]
    ports = items(service, "ports")
    variable = rf"\$\{{MICRO_PORT_{name.upper()}(_[A-Z]+)?:\?backends/up sets it\}}"
    assert ports
    assert all(re.fullmatch(rf"127\.0\.0\.1:{variable}:\d+", port) for port in ports)
    assert ports[0].endswith(f":{SERVERS[name].port}")


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_offline_only_the_image_differs(name: str) -> None:
    lines = services("compose.offline.yaml")[name].split("\n")
    assert [line.strip() for line in lines if line] == [
        f"image: micro-backends/{name}:offline",
        f"build: backends/{name}",
    ]


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_server_answers(name: str, server_address: Callable[[str], str]) -> None:
    async def body() -> None:
        async with asyncio.timeout(10):
            await SERVERS[name].ask(server_address(name))

    asyncio.run(body())


def own(name: str, files: list[str]) -> ComposeBackend:
    server = SERVERS[name]
    return ComposeBackend(name, server.port, files=files, ready=server.ask, patience=40)


def mostly_full(name: str) -> object:
    return pytest.param(name, marks=() if name == "redis" else pytest.mark.full)


@pytest.mark.parametrize("name", [mostly_full(name) for name in sorted(FOLDERS)])
def test_a_test_can_break_a_server_of_its_own(
    name: str, compose_files: list[str], record_property: pytest.RecordProperty
) -> None:
    server = SERVERS[name]

    def note(what: str, since: float) -> None:
        seconds = round(time.monotonic() - since, 2)
        record_property(what, seconds)
        print(f"{name}: {what} {seconds:g} s")

    async def body() -> None:
        begin = time.monotonic()
        async with own(name, compose_files) as backend:
            note("up", begin)
            address = backend.address
            await server.put(address, "kept")
            await getattr(backend, server.survives)()
            with pytest.raises(OSError):
                await server.ask(address)
            begin = time.monotonic()
            await backend.start()
            note("start", begin)
            assert backend.address == address
            assert await server.has(address, "kept")

            await backend.pause()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await server.ask(address)
            await backend.resume()
            await server.ask(address)
            assert await server.has(address, "kept")

            begin = time.monotonic()
            await backend.wipe()
            note("wipe", begin)
            assert not await server.has(address, "kept")
            await server.put(address, "kept")
            assert await server.has(address, "kept")

    asyncio.run(body())


@pytest.mark.full
def test_kafka_sends_the_clients_of_a_proxy_to_the_proxy(compose_files: list[str]) -> None:
    async def body() -> None:
        async with own("kafka", compose_files) as backend:
            upstream = f"127.0.0.1:{backend.ports['MICRO_PORT_KAFKA_UPSTREAM']}"
            port = int(backend.ports["MICRO_PORT_KAFKA_PROXY"])
            async with ChaosProxy(upstream, port=port) as proxy:
                assert await kafka_brokers(proxy.address) == [proxy.address]
                await kafka_ask(proxy.address)
            assert await kafka_brokers(backend.address) == [backend.address]

    asyncio.run(body())
