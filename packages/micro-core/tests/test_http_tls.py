"""TLS on the http transport and the http broker: who is refused, how, and what is read anew."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from in_loops import in_loop, until

from micro_core import Client, Service
from micro_core.broker.http import HttpBroker
from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.message import Message
from micro_core.registry.memory import MemoryRegistry
from micro_core.registry.records import Node, ServiceInfo
from micro_core.security import TLS
from micro_core.transport.base import Listener, Socket
from micro_core.transport.http import HttpTransport
from micro_core.transport.http_server import HttpListener


class World:
    """Certificates: good ones, and of strangers."""

    def __init__(self, folder: Path) -> None:
        self.own, self.strange = Authority(folder), Authority(folder, "strange")
        self.server = TLS(ca=self.own.ca, **self.own.issue("server"))
        self.mutual = replace(self.server, client_ca=self.own.ca)
        self.plain = TLS(ca=self.own.ca)
        self.client = TLS(ca=self.own.ca, **self.own.issue("client"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tls"))


async def echo(socket: Socket) -> None:
    while True:
        await socket.send(await socket.recv())


@asynccontextmanager
async def listening(tls: TLS | None, **options: Any) -> AsyncIterator[Listener]:
    async with HttpTransport(tls=tls, **options) as transport:
        listener = await transport.listen("127.0.0.1:0", echo)
        yield listener
        await listener.close()


async def ask(address: str, tls: TLS | None, **options: Any) -> bytes:
    async with HttpTransport(tls=tls, **options) as transport:
        return await ask_over(transport, address)


async def ask_over(transport: HttpTransport, address: str) -> bytes:
    socket = await transport.dial(address)
    try:
        await socket.send(Message({}, b"hello"))
        return (await socket.recv()).body
    finally:
        await socket.close()


async def refusal(address: str, tls: TLS | None, **options: Any) -> BackendError:
    start = time.monotonic()
    with pytest.raises(BackendError) as caught:
        await ask(address, tls, connect_timeout=2.0, **options)
    assert time.monotonic() - start < 2.5
    assert caught.value.happened == "no"
    assert caught.value.address == address
    return caught.value


def older(tls: TLS) -> Any:
    """``tls`` as a peer has it that speaks 1.2 only."""

    class Older(TLS):
        def client_context(self) -> ssl.SSLContext:
            context = super().client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return context

        def server_context(self) -> ssl.SSLContext:
            context = super().server_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return context

    parts = ("ca", "cert", "key", "server_name", "verify", "client_ca")
    return Older(**{part: getattr(tls, part) for part in parts})


@in_loop
async def test_messages_pass_over_tls_whole(world: World) -> None:
    body = os.urandom(3 << 20)
    async with listening(world.server) as listener, HttpTransport(tls=world.plain) as transport:
        socket = await transport.dial(listener.address)
        for size in (0, 1, 1 << 16, len(body)):
            await socket.send(Message({"N": str(size)}, body[:size]))
            message = await socket.recv()
            assert (message.header["N"], message.body) == (str(size), body[:size])
        await socket.close()


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("wrong authority", "as ca of tls"),
        ("system's authorities", "as ca of tls"),
        ("self-signed", "as ca of tls"),
        ("expired", "renew the certificate"),
        ("wrong host", "server_name of tls"),
    ],
)
@in_loop
async def test_a_server_that_cannot_be_verified_is_refused(
    world: World, case: str, remedy: str
) -> None:
    files = {
        "wrong authority": lambda: world.strange.issue("wrong"),
        "system's authorities": lambda: world.own.issue("unknown"),
        "self-signed": lambda: world.own.self_signed("self"),
        "expired": lambda: world.own.issue("expired", days=-1),
        "wrong host": lambda: world.own.issue("elsewhere", host="elsewhere.example"),
    }[case]()
    tls = TLS() if case == "system's authorities" else world.plain
    served: list[Socket] = []

    async def serve(socket: Socket) -> None:
        served.append(socket)

    async with HttpTransport(tls=TLS(**files)) as transport:
        listener = await transport.listen("127.0.0.1:0", serve)
        error = await refusal(listener.address, tls)
        await listener.close()
    assert isinstance(error, BackendRefused)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert remedy in str(error)
    assert served == []


@pytest.mark.parametrize("client", ["no certificate", "a stranger's", "an expired one"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
@in_loop
async def test_a_client_without_a_good_certificate_is_refused_when_it_dials(
    world: World, client: str, version: str
) -> None:
    files = {
        "no certificate": dict,
        "a stranger's": lambda: world.strange.issue("intruder"),
        "an expired one": lambda: world.own.issue("late", days=-1),
    }[client]()
    tls = TLS(ca=world.own.ca, **files)
    async with listening(world.mutual) as listener:
        async with HttpTransport(tls=tls if version == "1.3" else older(tls)) as transport:
            with pytest.raises(BackendError) as caught:
                await transport.dial(listener.address)
        assert caught.value.happened == "no"
        if version == "1.3":
            assert isinstance(caught.value, BackendRefused)
            assert "cert and key of tls" in str(caught.value)
        await until(lambda: not served_by(listener))


def served_by(listener: Listener) -> Any:
    assert isinstance(listener, HttpListener)
    return listener.connections


@pytest.mark.parametrize("old", ["neither", "client", "server"])
@in_loop
async def test_mutual_tls(world: World, old: str) -> None:
    server = older(world.mutual) if old == "server" else world.mutual
    client = older(world.client) if old == "client" else world.client
    async with listening(server) as listener:
        assert await ask(listener.address, client) == b"hello"


@in_loop
async def test_a_server_without_tickets_costs_a_moment_and_no_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = TLS.server_context

    def ticketless(tls: TLS) -> ssl.SSLContext:
        context = make(tls)
        context.num_tickets = 0
        return context

    monkeypatch.setattr(TLS, "server_context", ticketless)
    async with listening(world.mutual) as listener:
        assert await ask(listener.address, world.client) == b"hello"


@in_loop
async def test_tls_never_falls_back_to_plain_http(world: World) -> None:
    async with listening(None) as listener:
        error = await refusal(listener.address, world.plain)
    assert isinstance(error, BackendRefused)
    assert "no TLS" in str(error)


@in_loop
async def test_a_plain_client_gets_nothing_of_a_tls_listener(world: World) -> None:
    async with listening(world.server) as listener:
        host, port = listener.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(64)
        writer.close()
        assert await ask(listener.address, world.plain) == b"hello"


@in_loop
async def test_older_versions_than_1_2_are_refused(world: World) -> None:
    with pytest.deprecated_call():
        context = world.plain.client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with listening(world.server) as listener:
        host, port = listener.address.split(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)


@in_loop
async def test_another_name_may_be_asked_for(world: World) -> None:
    files = world.own.issue("named", host="greeter.example")
    async with listening(TLS(**files)) as listener:
        tls = replace(world.plain, server_name="greeter.example")
        assert await ask(listener.address, tls) == b"hello"


@in_loop
async def test_no_verification_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(TLS(**world.strange.issue("any"))) as listener:
        assert await ask(listener.address, TLS(verify=False)) == b"hello"
    assert "does not verify" in caplog.text


@in_loop
async def test_files_replaced_on_disk_count_for_the_next_connection(tmp_path: Path) -> None:
    before, after = Authority(tmp_path), Authority(tmp_path, "after")
    files = before.issue("server")
    server = TLS(**files, client_ca=tmp_path / "client_ca.pem")
    server_ca = tmp_path / "server_ca.pem"
    for file in (server_ca, tmp_path / "client_ca.pem"):
        file.write_bytes(before.ca.read_bytes())
    tls = TLS(ca=server_ca, **before.issue("client"))
    async with listening(server) as listener, HttpTransport(tls=tls) as transport:
        old = await transport.dial(listener.address)
        after.issue("server")  # the same files
        with pytest.raises(BackendRefused, match="as ca of tls"):
            await transport.dial(listener.address)
        server_ca.write_bytes(after.ca.read_bytes())
        assert await ask_over(transport, listener.address) == b"hello"
        (tmp_path / "client_ca.pem").write_bytes(after.ca.read_bytes())
        with pytest.raises(BackendRefused, match="cert and key"):
            await transport.dial(listener.address)
        after.issue("client")
        assert await ask_over(transport, listener.address) == b"hello"
        await old.send(Message({}, b"still here"))
        assert (await old.recv()).body == b"still here"


@in_loop
async def test_files_half_replaced_leave_the_ones_before_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = Authority(tmp_path)
    files = own.issue("server")
    key = files["key"].read_bytes()
    async with listening(TLS(**files)) as listener:
        for broken in (b"", b"no key\n"):
            files["key"].write_bytes(broken)
            assert await ask(listener.address, TLS(ca=own.ca)) == b"hello"
        files["key"].unlink()
        assert await ask(listener.address, TLS(ca=own.ca)) == b"hello"
        assert caplog.text.count("stays in use") == 3
        files["key"].write_bytes(key)
        assert await ask(listener.address, TLS(ca=own.ca)) == b"hello"
        assert caplog.text.count("stays in use") == 3


@in_loop
async def test_files_that_cannot_be_used_are_named(world: World) -> None:
    with pytest.raises(OptionError, match="/nowhere/ca.pem"):
        await HttpTransport(tls=TLS(ca="/nowhere/ca.pem")).connect()
    async with HttpTransport(tls=world.plain) as transport:
        with pytest.raises(OptionError, match="cert"):
            await transport.listen("127.0.0.1:0", echo)
    async with HttpTransport(tls=replace(world.server, client_ca="/nowhere")) as transport:
        with pytest.raises(OptionError, match="/nowhere"):
            await transport.listen("127.0.0.1:0", echo)


@in_loop
async def test_who_connects_and_says_nothing_is_dropped(world: World) -> None:
    async with listening(world.server, header_timeout=0.2) as listener:
        host, port = listener.address.split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        for number, (_, writer) in enumerate(silent):
            writer.write(b"\x16\x03\x01\x02\x00"[: number % 6])  # the beginning of a handshake
        async with asyncio.timeout(5):
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
        assert await ask(listener.address, world.plain) == b"hello"


@in_loop
async def test_a_server_that_never_shakes_hands_is_given_up(world: World) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as deaf:
        host, port = deaf.getsockname()
        async with HttpTransport(tls=world.plain, connect_timeout=0.2) as transport:
            with pytest.raises(BackendUnavailable, match=r"within 0\.2 s"):
                await transport.dial(f"{host}:{port}")


@in_loop
async def test_probes_are_answered_over_tls_and_limits_hold(world: World) -> None:
    async with HttpTransport(tls=world.server, max_header_bytes=500) as transport:
        transport.probe = lambda path: (503 if path == "/_ready" else 200, path.encode())
        listener = await transport.listen("127.0.0.1:0", echo)
        host, port = listener.address.split(":")

        async def get(head: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=world.plain.client_context(), server_hostname=host
            )
            writer.write(head)
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return answer

        assert (await get(b"GET /_live HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await get(b"GET /_ready HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        long = b"X: " + 600 * b"x" + b"\r\n\r\n"
        assert (await get(b"POST / HTTP/1.1\r\n" + long)).startswith(b"HTTP/1.1 431 ")
        await listener.close()


class Greeter:
    async def hello(self, name: str) -> str:
        return f"Hello {name}"


@in_loop
async def test_a_service_and_a_client_by_flags(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("ca", "cert", "key", "client_ca"):
        monkeypatch.setenv(f"MICRO_TRANSPORT_TLS_{part.upper()}", str(getattr(world.mutual, part)))
    monkeypatch.setenv("MICRO_DRAIN_DELAY", "0")
    registry = MemoryRegistry("tls")
    service = Service("greeter", registry=registry, transport="http", broker="memory")
    service.handle(Greeter())
    async with service, Client(registry=registry, transport="http", broker="memory") as client:
        assert await client.call("greeter", "Greeter.Hello", "John") == "Hello John"
        assert service.node is not None
        await refusal(service.node.address, world.plain)


# -- the broker ------------------------------------------------------------------------------


@in_loop
async def test_events_pass_over_mutual_tls_and_to_nobody_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    registry, seen = MemoryRegistry("tls-broker"), list[bytes]()

    async def handler(event: Any) -> None:
        seen.append(event.message.body)

    own = HttpBroker(registry=registry, tls=world.mutual)
    peer = HttpBroker(registry=registry, tls=world.client)
    plain, intruder = HttpBroker(registry=registry), HttpBroker(registry=registry, tls=world.plain)
    async with registry, own, peer, plain, intruder:
        await own.subscribe("t", handler, queue="q")
        [info] = await registry.get_service("micro.http.broker")
        assert info.nodes[0].metadata["secure"] == "true"
        await peer.publish("t", Message({}, b"one"))
        await until(lambda: seen == [b"one"])
        with pytest.raises(BackendUnavailable, match="give the option tls"):
            await plain.publish("t", Message({}, b"two"))
        with pytest.raises(BackendUnavailable, match="cert and key of tls") as caught:
            await intruder.publish("t", Message({}, b"three"))
        assert isinstance(caught.value.__cause__, BackendRefused)
        await plain.subscribe("p", handler, queue="q")
        with pytest.raises(BackendUnavailable, match="plain HTTP"):
            await peer.publish("p", Message({}, b"four"))
        assert seen == [b"one"]
    assert caplog.records
    assert all(record.levelno <= logging.WARNING for record in caplog.records)


@in_loop
async def test_a_subscriber_that_lies_about_tls_gets_nothing(world: World) -> None:
    registry = MemoryRegistry("tls-liar")
    async with listening(None) as listener, registry:
        metadata = {"broker": "http", "secure": "true", "topic": "t"}
        info = ServiceInfo("micro.http.broker", "q", [Node("t-1", listener.address, metadata)])
        await registry.register(info)
        async with HttpBroker(registry=registry, tls=world.plain) as broker:
            with pytest.raises(BackendUnavailable, match="no TLS"):
                await broker.publish("t", Message({}, b"one"))
