"""TLS, credentials, and secrets that show up nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pytest
from authority import Authority
from in_loops import in_loop

from micro_conformance.backend import ComposeBackend
from micro_core import BackendRefused, BackendUnavailable, Message, OptionError
from micro_core.security import TLS
from micro_nats import Connection
from micro_registry_nats import NatsRegistry
from micro_transport_nats import NatsTransport

CANARY = "c4n4ry-5ecret-0f-the-test"
TO_BE_READ = ("CONNECT", "PING", "PUB", "SUB")


class FakeServer:
    """Speaks enough of NATS to be connected to; ``plain`` is what it was told without TLS."""

    def __init__(self, files: dict[str, Path] | None = None, ca: Path | None = None) -> None:
        self.files, self._ca = files, ca
        self.plain = b""
        self.told: list[dict[str, Any]] = []
        self.peers: list[Any] = []
        self.refusal = b""

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        assert self.files is not None
        context.load_cert_chain(self.files["cert"], self.files["key"])
        if self._ca is not None:
            context.load_verify_locations(self._ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            info = {"max_payload": 1 << 20, "headers": True, "tls_required": bool(self.files)}
            writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
            if self.files:
                await writer.start_tls(self._context())
                self.peers.append(writer.get_extra_info("peercert"))
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if not self.files:
                self.plain += line
            if line.startswith(b"CONNECT"):
                self.told.append(json.loads(line[8:]))
                writer.write(self.refusal)
                if self.refusal:
                    return
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")


@pytest.fixture(params=[NatsTransport, NatsRegistry])
def plugin(request: pytest.FixtureRequest) -> Callable[..., Any]:
    make: Callable[..., Any] = request.param
    return make


@in_loop
async def test_a_verified_server_is_told_the_credentials(
    plugin: Callable[..., Any], authority: Authority
) -> None:
    async with FakeServer(authority.issue("good")) as server:
        tls = TLS(ca=authority.ca)
        async with plugin(server.address, tls=tls, username="me", password=CANARY):
            pass
        async with plugin(f"tls://{server.address}", tls=tls, token=CANARY):
            pass
        assert [(t.get("user"), t.get("pass"), t.get("auth_token")) for t in server.told] == [
            ("me", CANARY, None),
            (None, None, CANARY),
        ]


@pytest.mark.parametrize(
    "case", ["expired", "wrong host", "wrong authority", "self-signed", "system", "no TLS"]
)
def test_an_unverified_server_is_refused(
    authority: Authority,
    stranger: Authority,
    case: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    files = {
        "expired": lambda: authority.issue("bad", days=-1),
        "wrong host": lambda: authority.issue("bad", host="nats.example"),
        "wrong authority": lambda: stranger.issue("bad"),
        "self-signed": lambda: authority.self_signed("bad"),
        "system": lambda: authority.issue("bad"),
        "no TLS": lambda: None,
    }[case]()
    tls = TLS() if case == "system" else TLS(ca=authority.ca)

    @in_loop
    async def body() -> None:
        async with FakeServer(files) as server:
            transport = NatsTransport(server.address, tls=tls, token=CANARY)
            with pytest.raises(BackendRefused) as caught:
                await transport.connect()
            assert CANARY not in "".join(traceback.format_exception(caught.value))
            assert server.told == []
            assert server.plain == b""

    caplog.set_level(logging.DEBUG)
    body()
    assert CANARY not in caplog.text
    assert capfd.readouterr() == ("", "")


@in_loop
async def test_the_name_in_a_certificate_may_be_given(authority: Authority) -> None:
    async with FakeServer(authority.issue("named", host="nats.example")) as server:
        tls = TLS(ca=authority.ca, server_name="nats.example")
        async with NatsTransport(server.address, tls=tls):
            pass


@in_loop
async def test_a_client_shows_its_certificate_and_a_replaced_one_next_time(
    authority: Authority, tmp_path: Path
) -> None:
    mine = authority.issue("mine")
    async with FakeServer(authority.issue("good"), ca=authority.ca) as server:
        transport = NatsTransport(server.address, tls=TLS(ca=authority.ca, **mine))
        for name in ("first", "second"):
            for kind, file in authority.issue(name).items():
                shutil.copy(file, mine[kind])
            async with transport:
                pass
        assert [dict(p["subject"][0])["commonName"] for p in server.peers] == ["first", "second"]


@in_loop
async def test_credentials_that_are_refused_say_what_mends_it(plugin: Callable[..., Any]) -> None:
    async with FakeServer() as server:
        server.refusal = b"-ERR 'Authorization Violation'\r\n"
        made = plugin(f"nats://me:{CANARY}@{server.address}")
        with pytest.raises(BackendRefused, match="give username and password") as caught:
            await made.connect()
        assert CANARY not in "".join(traceback.format_exception(caught.value))
        assert CANARY not in made.address
        assert made.health().state == "closed"


def test_odd_addresses_are_refused_when_made() -> None:
    for address in ("http://h:1", "nats://", "nats://h:99999", "h:1/path", "ws://h:1"):
        with pytest.raises(OptionError, match=r"host:port"):
            NatsTransport(address)
    with pytest.raises(OptionError) as caught:
        NatsTransport(f"nats://me:{CANARY}@h:1/path")
    assert CANARY not in str(caught.value)


# -- a real server with users ------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured(compose_files: list[str]) -> Iterator[str]:
    files = [*compose_files, str(Path(__file__).parent / "compose.secured.yaml")]

    async def ready(address: str) -> None:
        connection = Connection(tls=False)
        try:
            await connection.connect(address, user="all", password="right", allow_reconnect=False)
        finally:
            await connection.finish()

    backend = ComposeBackend("nats", 4222, files=files, ready=ready)
    asyncio.run(backend.__aenter__())
    yield backend.address
    asyncio.run(backend.__aexit__(None, None, None))


def test_users_of_a_real_server(secured: str) -> None:
    @in_loop
    async def body() -> None:
        async with NatsTransport(secured, username="all", password="right") as transport:
            listener = await transport.listen("", _echo)
            socket = await transport.dial(listener.address)
            large = bytes(4 << 20)  # as the server's max_payload is
            await socket.send(Message({}, large))
            assert (await socket.recv()).body == large
        for options in ({}, {"username": "all", "password": "wrong"}, {"token": "wrong"}):
            with pytest.raises(BackendRefused, match="give username"):
                await NatsTransport(secured, **options).connect()
        with pytest.raises(BackendRefused, match=r"(?i)permissions"):
            await NatsTransport(secured, username="none", password="right").connect()
        with pytest.raises(BackendRefused, match=r"(?i)permissions"):
            await NatsRegistry(secured, username="none", password="right").connect()
        with pytest.raises(BackendUnavailable):
            await NatsTransport("127.0.0.1:1", username="all", password="right").connect()

    body()


# -- a real server with TLS --------------------------------------------------------------------

TOKEN = "p@ss word/1"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("certs")
    folder.chmod(0o755)  # the server is another user
    return Authority(folder)


@pytest.fixture(scope="module")
def verified(compose_files: list[str], trusted: Authority) -> Iterator[str]:
    trusted.issue("server")
    tls = TLS(ca=trusted.ca, **trusted.issue("operator"))

    async def ready(address: str) -> None:
        async with NatsTransport(address, tls=tls, token=TOKEN):
            pass

    files = [*compose_files, str(Path(__file__).parent / "compose.tls.yaml")]
    backend = ComposeBackend("nats", 4222, files=files, ready=ready)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRO_TEST_CERTS", str(trusted.ca.parent))
        asyncio.run(backend.__aenter__())
        yield backend.address
        asyncio.run(backend.__aexit__(None, None, None))


def test_tls_of_a_real_server(
    verified: str, trusted: Authority, stranger: Authority, plugin: Callable[..., Any]
) -> None:
    mine = trusted.issue("mine")
    good = TLS(ca=trusted.ca, **mine)
    spelled = f"tls://{quote(TOKEN, safe='')}@{verified}"

    @in_loop
    async def body() -> None:
        async with plugin(spelled, tls=good) as one:
            assert one.health().state == "connected"
            assert "word" not in one.address
        for tls in (TLS(ca=trusted.ca), TLS(ca=stranger.ca, **mine), TLS(**mine), None):
            with pytest.raises((BackendRefused, BackendUnavailable)) as caught:
                await plugin(verified, tls=tls, token=TOKEN).connect()
            assert TOKEN not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(BackendRefused, match="give username"):
            await plugin(verified, tls=good, token="wrong").connect()
        again = plugin(verified, tls=good, token=TOKEN)
        async with again:
            pass
        for kind, file in stranger.issue("another").items():  # a replaced one counts next time
            shutil.copy(file, mine[kind])
        with pytest.raises((BackendRefused, BackendUnavailable)):
            await again.connect()

    body()


async def _echo(socket: Any) -> None:
    with contextlib.suppress(Exception):
        while True:
            await socket.send(await socket.recv())
