"""TLS, users, and secrets that show up nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, _alt, _builder
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fake_http import FakeHttp
from in_loops import in_loop

from micro_conformance.backend import ComposeBackend
from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.registry.records import Node, RegistryEvent, ServiceInfo
from micro_core.security import TLS
from micro_registry_etcd import EtcdRegistry

CANARY = "c4n4ry-5ecret-0f-the-test"
ROOT_PASSWORD = "r00t-0f-the-test"
INFO = ServiceInfo("py.secured", "1", [Node("py.secured-1", "10.0.0.1:9000")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    made.chmod(0o755)  # the server in the container is another user
    return made


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "other")


# -- TLS, with a server of the test ----------------------------------------------------------


NOTHING = b'{"header":{"revision":"1"}}'  # as etcd answers a range that is empty
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(NOTHING), NOTHING)


def shown(cert: dict[str, Path], client_ca: Path | None = None) -> ssl.SSLContext:
    return TLS(**cert, client_ca=client_ca).server_context()


@in_loop
async def test_a_verified_server_is_spoken_to(authority: Authority) -> None:
    async with FakeHttp(REPLY, shown(authority.issue("good"))) as server:
        for address in (server.address, f"https://{server.address}"):
            async with EtcdRegistry(address, tls=TLS(ca=authority.ca)) as registry:
                assert await registry.get_service("x") == []


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("expired", "renew the certificate"),
        ("wrong host", "server_name"),
        ("wrong authority", "as ca of tls"),
        ("self-signed", "as ca of tls"),
        ("system's authorities", "as ca of tls"),
    ],
)
@in_loop
async def test_an_unverified_server_is_refused(
    authority: Authority, stranger: Authority, case: str, remedy: str
) -> None:
    cert = {
        "expired": lambda: authority.issue("expired", days=-1),
        "wrong host": lambda: authority.issue("elsewhere", host="etcd.example"),
        "wrong authority": lambda: stranger.issue("foreign"),
        "self-signed": lambda: stranger.self_signed("own"),
        "system's authorities": lambda: authority.issue("good"),
    }[case]()
    tls = None if case.startswith("system") else TLS(ca=authority.ca)
    async with FakeHttp(REPLY, shown(cert)) as server:
        registry = EtcdRegistry(f"https://{server.address}", tls=tls, user="root", password=CANARY)
        with pytest.raises(BackendRefused, match=f"TLS: .*{remedy}"):
            await registry.connect()
        assert server.heads == []


@in_loop
async def test_plain_http_is_never_a_fallback(authority: Authority) -> None:
    async with FakeHttp(REPLY, None) as server:
        registry = EtcdRegistry(server.address, tls=TLS(ca=authority.ca))
        registry.connect_timeout = 0.5
        with pytest.raises(BackendUnavailable):  # it waits for the server's part
            await registry.connect()
        assert server.heads == []
    with pytest.raises(OptionError, match="https"):
        EtcdRegistry("http://127.0.0.1:2379", tls=TLS())


@in_loop
async def test_another_name_is_verified_where_asked(authority: Authority) -> None:
    async with FakeHttp(REPLY, shown(authority.issue("named", host="etcd.internal"))) as server:
        tls = TLS(ca=authority.ca, server_name="etcd.internal")
        async with EtcdRegistry(server.address, tls=tls) as registry:
            assert await registry.get_service("x") == []


@in_loop
async def test_no_verification_is_logged(
    stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeHttp(REPLY, shown(stranger.issue("any"))) as server:
        async with EtcdRegistry(server.address, tls=TLS(verify=False)):
            assert "TLS does not verify" in caplog.text


@in_loop
async def test_files_that_do_not_exist_are_named() -> None:
    with pytest.raises(OptionError, match="/nowhere/ca.pem"):
        await EtcdRegistry(tls=TLS(ca="/nowhere/ca.pem")).connect()


@in_loop
async def test_a_replaced_certificate_is_used_at_the_next_connection(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    def install(source: Authority) -> None:
        for kind, made in source.issue("client").items():
            shutil.copy(made, tmp_path / kind)

    own, files = authority.issue("mutual"), {"cert": tmp_path / "cert", "key": tmp_path / "key"}
    install(authority)
    tls = TLS(ca=authority.ca, **files)
    async with FakeHttp(REPLY, shown(own, authority.ca)) as server:
        registry = EtcdRegistry(server.address, tls=tls)
        await registry.connect()
    async with FakeHttp(REPLY, shown(own, stranger.ca), server.port):
        with pytest.raises(BackendError):
            await registry.get_service("x")
        install(stranger)
        assert await registry.get_service("x") == []
        await registry.close()


# -- a real server: certificates, users, tokens ----------------------------------------------


class Secured(ComposeBackend):
    """An etcd with TLS for clients with a certificate, and users."""

    tls: TLS

    def registry(self, user: str = "root", password: str = ROOT_PASSWORD) -> EtcdRegistry:
        return EtcdRegistry(self.address, user=user, password=password, tls=self.tls)

    async def ask(self, call: str, **request: Any) -> None:
        async with self.registry() as registry:
            await registry._gateway.ask(call, request)

    async def user(self, name: str, *permissions: tuple[str, str]) -> None:
        """A user, with a role of its own that may READ, WRITE or READWRITE below some prefix."""
        await self.ask("auth/user/add", name=name, password=CANARY)
        await self.ask("auth/role/add", name=name)
        await self.ask("auth/user/grant", user=name, role=name)
        from micro_registry_etcd.records import everything_in

        for kind, prefix in permissions:
            perm = {"permType": kind, **everything_in(prefix)}
            await self.ask("auth/role/grant", name=name, perm=perm)


@pytest.fixture(scope="module")
def secured(authority: Authority, folder: Path, compose_files: list[str]) -> Iterator[Secured]:
    authority.issue("server")
    (folder / "server.key").chmod(0o644)
    revoke(authority, folder, authority.issue("revoked")["cert"])
    files = [*compose_files, str(Path(__file__).with_name("compose.secured.yaml"))]
    tls = TLS(ca=authority.ca, **nameless(authority))

    async def ready(address: str) -> None:
        async with EtcdRegistry(address, user="root", password=ROOT_PASSWORD, tls=tls):
            pass

    server = Secured("etcd", 2379, files=files, ready=ready)
    server.tls = tls

    async def enable() -> None:
        await server.__aenter__()
        await server.ask("auth/user/add", name="root", password=ROOT_PASSWORD)
        await server.ask("auth/role/add", name="root")
        await server.ask("auth/user/grant", user="root", role="root")
        await server.ask("auth/enable")

    os.environ["MICRO_TEST_CERTS"] = str(folder)
    try:
        asyncio.run(enable())
        yield server
    finally:
        asyncio.run(server.__aexit__(None, None, None))
        del os.environ["MICRO_TEST_CERTS"]


def nameless(authority: Authority) -> dict[str, Path]:
    """A certificate without a CommonName: etcd's gateway takes no other while users are enabled."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(x509.Name([]), authority._name, key, 2)
    builder = builder.add_extension(_alt("127.0.0.1"), critical=True)
    return authority._write("nameless", builder.sign(authority._key, hashes.SHA256()), key)


def revoke(authority: Authority, folder: Path, cert: Path) -> None:
    """Write revoked.crl, in DER, as etcd reads it."""
    now = datetime.now(UTC)
    serial = x509.load_pem_x509_certificate(cert.read_bytes()).serial_number
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority._name)
    builder = builder.last_update(now - timedelta(days=1)).next_update(now + timedelta(days=2))
    made = builder.add_revoked_certificate(entry).sign(authority._key, hashes.SHA256())
    (folder / "revoked.crl").write_bytes(made.public_bytes(serialization.Encoding.DER))


@in_loop
async def test_a_user_of_few_rights_is_enough(secured: Secured) -> None:
    await secured.user("few", ("READWRITE", "/micro/registry/"))
    async with (
        secured.registry("few", CANARY) as registry,
        registry.watch(INFO.name) as watcher,
        asyncio.timeout(20),
    ):
        for _ in range(2):
            await registry.register(INFO)
        assert await anext(watcher) == RegistryEvent("create", INFO)
        assert await registry.get_service(INFO.name) == [INFO]
        assert await registry.list_services() == [INFO.name]
        await registry.deregister(INFO)
        assert await anext(watcher) == RegistryEvent("delete", INFO)


@in_loop
async def test_a_user_without_rights_is_refused(secured: Secured) -> None:
    await secured.user("reader", ("READ", "/micro/registry/"))
    await secured.user("nobody")
    async with secured.registry("reader", CANARY) as registry:
        assert await registry.get_service(INFO.name) == []
        with pytest.raises(BackendRefused, match="permission denied.*--registry_user"):
            await registry.register(INFO)
    with pytest.raises(BackendRefused, match="permission denied.*--registry_user"):
        await secured.registry("nobody", CANARY).connect()


@in_loop
async def test_wrong_credentials_are_refused(secured: Secured) -> None:
    for registry in (
        secured.registry("root", CANARY),
        secured.registry("unheard-of", CANARY),
        EtcdRegistry(secured.address, tls=secured.tls),
    ):
        with pytest.raises(BackendRefused) as caught:
            await registry.connect()
        assert CANARY not in "".join(traceback.format_exception(caught.value))


@in_loop
async def test_a_token_that_is_not_valid_any_more_is_replaced(secured: Secured) -> None:
    """Registrations, lists and watches go on with another. (A restarted etcd knows its tokens.)"""
    async with secured.registry() as registry, registry.watch(INFO.name) as watcher:
        for forget in ("restart", "password", "made up"):
            before = registry._gateway._token
            match forget:
                case "restart":
                    await secured.kill()
                    await secured.start()
                case "password":  # also changes the revision of the users
                    await secured.ask("auth/user/changepw", name="root", password=ROOT_PASSWORD)
                case _:
                    registry._gateway._token = CANARY
            await asyncio.gather(*[registry.get_service(INFO.name) for _ in range(20)])
            assert forget == "restart" or registry._gateway._token != before
            await registry.register(INFO)
            assert (await anext(watcher)).action == "create"
            await registry.deregister(INFO)
            assert (await anext(watcher)).action == "delete"


@in_loop
async def test_a_client_without_a_valid_certificate_is_refused(
    secured: Secured, authority: Authority, stranger: Authority, folder: Path
) -> None:
    revoked = {"cert": folder / "revoked.pem", "key": folder / "revoked.key"}
    for tls in (
        TLS(ca=authority.ca),
        TLS(ca=authority.ca, **stranger.issue("foreign")),
        TLS(ca=authority.ca, **revoked),
        TLS(ca=stranger.ca),
    ):
        with pytest.raises(BackendRefused, match="TLS"):
            await EtcdRegistry(secured.address, tls=tls).connect()
    with pytest.raises(BackendUnavailable, match="--registry_tls"):
        await EtcdRegistry(secured.address).connect()
    named = TLS(ca=authority.ca, **authority.issue("named"))
    with pytest.raises(BackendRefused, match="has no CommonName"):
        await EtcdRegistry(secured.address, tls=named).connect()


@in_loop
async def test_users_may_be_given_where_none_are_needed(
    server_address: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    registry = EtcdRegistry(server_address("etcd"), user="root", password=CANARY)
    async with registry:
        await registry.register(INFO)
        assert await registry.get_service(INFO.name) == [INFO]
        assert CANARY not in caplog.text + str(registry.health()) + registry.address


@in_loop
async def test_secrets_are_in_no_error() -> None:
    """A server that repeats what it was sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = b"You said: " + await reader.readexactly(int(length))
        writer.write(b"HTTP/1.1 400 no\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.write_eof()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(BackendError) as caught:
        await EtcdRegistry(address, user="root", password=CANARY).connect()
    assert "You said" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    server.close()
    await server.wait_closed()
