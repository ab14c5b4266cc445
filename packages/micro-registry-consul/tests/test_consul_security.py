"""TLS, tokens, and secrets that show up nowhere."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.registry.records import Node, ServiceInfo
from micro_core.security import TLS, Secret
from micro_registry_consul import ConsulRegistry

CANARY = "c4n4ry-5ecret-0f-the-test"
MANAGEMENT = "00000000-0000-0000-0000-000000000001"  # in compose.secured.yaml
INFO = ServiceInfo("py.secured", "1", [Node("py.secured-1", "10.0.0.1:9000")])


class Authority:
    """Certificates for 127.0.0.1, made with openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self._run("req -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.pem", new=True)
        self.ca = folder / "ca.pem"

    def issue(self, name: str, *, host: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        (self.folder / "names").write_text(f"subjectAltName={host}\n")
        self._run(f"req -subj /CN={name} -keyout {name}.key -out {name}.csr", new=True)
        self._run(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial "
            f"-days {days} -extfile names -out {name}.pem"
        )
        (self.folder / f"{name}.key").chmod(0o644)  # the server in the container is another user
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def server(self, name: str, **options: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(name, **options))
        return context

    def client(self, name: str) -> TLS:
        cert, key = self.issue(name)
        return TLS(ca=self.ca, cert=cert, key=key)

    def _run(self, arguments: str, *, new: bool = False) -> None:
        key = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if new else []
        command = ["openssl", *arguments.split(), *key]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make certificates with")
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def stranger(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "other")


# -- TLS, with an agent of the test ------------------------------------------------------------


def test_a_verified_agent_is_spoken_to(fake_agent: Any, authority: Authority) -> None:
    async def body() -> None:
        async with fake_agent(authority.server("good")) as agent:
            for address in (agent.address, f"https://{agent.address}"):
                async with ConsulRegistry(address, tls=TLS(ca=authority.ca)) as registry:
                    assert await registry.get_service("x") == []

    asyncio.run(body())


@pytest.mark.parametrize(
    "case", ["expired", "wrong host", "wrong authority", "self-signed", "none"]
)
def test_an_unverified_agent_is_refused(
    fake_agent: Any, authority: Authority, stranger: Authority, case: str
) -> None:
    async def body() -> None:
        server = {
            "expired": lambda: authority.server("expired", days=-1),
            "wrong host": lambda: authority.server("other", host="DNS:consul.example"),
            "wrong authority": lambda: stranger.server("stranger"),
            "self-signed": lambda: self_signed(stranger),
            "none": lambda: authority.server("good"),
        }[case]()
        tls = None if case == "none" else TLS(ca=authority.ca)  # none: the system's authorities
        async with fake_agent(server) as agent:
            registry = ConsulRegistry(f"https://{agent.address}", tls=tls, token=CANARY)
            with pytest.raises(BackendRefused, match="TLS") as caught:
                await registry.connect()
            assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorCertificateError)
            assert agent.requests == []

    asyncio.run(body())


def self_signed(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.folder / "ca.pem", authority.folder / "ca.key")
    return context


def test_plain_http_is_never_a_fallback(fake_agent: Any, authority: Authority) -> None:
    async def body() -> None:
        async with fake_agent() as agent:
            registry = ConsulRegistry(agent.address, tls=TLS(ca=authority.ca))
            registry.connect_timeout = 0.5
            with pytest.raises(BackendUnavailable):  # it waits for the server's part
                await registry.connect()
            assert agent.requests == []
        with pytest.raises(OptionError, match="https"):
            ConsulRegistry("http://127.0.0.1:8500", tls=TLS())

    asyncio.run(body())


def test_another_name_is_verified_where_asked(fake_agent: Any, authority: Authority) -> None:
    async def body() -> None:
        async with fake_agent(authority.server("named", host="DNS:server.dc1.consul")) as agent:
            tls = TLS(ca=authority.ca, server_name="server.dc1.consul")
            async with ConsulRegistry(agent.address, tls=tls) as registry:
                assert await registry.get_service("x") == []

    asyncio.run(body())


def test_no_verification_is_logged(
    fake_agent: Any, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with fake_agent(stranger.server("any")) as agent:
            async with ConsulRegistry(agent.address, tls=TLS(verify=False)):
                assert "TLS does not verify" in caplog.text

    asyncio.run(body())


def test_files_that_do_not_exist_are_named() -> None:
    async def body() -> None:
        with pytest.raises(OptionError, match="/nowhere/ca.pem"):
            await ConsulRegistry(tls=TLS(ca="/nowhere/ca.pem")).connect()

    asyncio.run(body())


async def outcome(registry: ConsulRegistry, cause: type[BaseException] | None) -> None:
    """Ask until an error has this cause or, for None, until there is no error."""
    async with asyncio.timeout(5):  # the files are read again once a second at most
        while True:
            try:
                assert await registry.get_service("x") == []
                found: object = None
            except BackendError as error:
                found = error.__cause__ or error
            if found is None if cause is None else isinstance(found, cause):
                return
            await asyncio.sleep(0.05)


def test_a_replaced_certificate_is_used(
    fake_agent: Any, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """Short-lived certificates: after a failure the files are read again."""
    cert, key = tmp_path / "cert", tmp_path / "key"

    def install(source: Authority) -> None:
        for made, place in zip(source.issue("client"), (cert, key), strict=True):
            shutil.copy(made, place)

    def demanding(source: Authority) -> ssl.SSLContext:
        context = authority.server("mutual")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(source.ca)
        return context

    async def body() -> None:
        install(authority)
        registry = ConsulRegistry("unused", tls=TLS(ca=authority.ca, cert=cert, key=key))
        async with fake_agent(demanding(authority)) as agent:
            registry = registry.rebuilt((agent.address,), {})
            await registry.connect()
        async with agent.restarted(demanding(stranger)):
            for _ in range(2):
                with pytest.raises(BackendError):
                    await registry.get_service("x")
            key.unlink()
            await outcome(registry, OptionError)
            install(stranger)
            await outcome(registry, None)
            await registry.close()

    asyncio.run(body())


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["no server", "403", "500", "no http", "cut", "frozen", "not json"]
)
def test_the_token_is_seen_by_consul_only(
    fake_agent: Any, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    def note(error: BaseException | None) -> None:
        if error is not None:
            seen.extend([str(error), repr(error), repr(error.args), repr(vars(error))])
            seen.extend(traceback.format_exception(error))
            note(error.__cause__)
            note(error.__context__)

    async def body() -> None:
        never = asyncio.Event()
        async with fake_agent() as agent:
            registry = ConsulRegistry(agent.address, token=Secret(CANARY))
            registry.operation_timeout = 0.3
            async with registry, registry.watch("x"):
                answers = {
                    "no server": b"",
                    "403": (403, f"token {CANARY} lacks permission", 1),
                    "500": (500, "x" * 190 + CANARY, 1),
                    "no http": b"what?\r\n\r\n",
                    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[",
                    "not json": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[",
                }
                agent.answer = lambda method, path: answers.get(case) or never.wait()
                if case == "no server":
                    await agent.__aexit__(None, None, None)
                for operation in (
                    registry.get_service("x"),
                    registry.list_services(),
                    registry.register(INFO),
                    registry.deregister(INFO),
                ):
                    try:
                        await operation
                    except BackendError as error:
                        note(error)
                seen.extend([repr(registry), str(registry.health()), repr(registry.native)])
                seen.append(repr(registry._agents))
        assert all(headers["x-consul-token"] == CANARY for headers in agent.headers)

    asyncio.run(body())
    assert len(seen) > 20
    assert CANARY not in "\n".join(seen)
    assert CANARY not in caplog.text


# -- a real Consul with ACLs and client certificates -------------------------------------------


@pytest.fixture(scope="module")
def secured(compose_files: list[str], authority: Authority) -> Iterator[Any]:
    compose = pytest.importorskip("micro_conformance.backend").ComposeBackend
    authority.issue("server")
    operator = authority.client("operator").client_context()

    async def ready(address: str) -> None:
        found = await manage(address, operator, "GET", "catalog/nodes")
        assert found, "no node yet"

    files = [*compose_files, Path(__file__).parent / "compose.secured.yaml"]
    server = compose("consul", 8501, files=files, ready=ready)
    os.environ["MICRO_TEST_CERTS"] = str(authority.folder)
    try:
        asyncio.run(server.__aenter__())
        server.context = operator
        yield server
        asyncio.run(server.__aexit__(None, None, None))
    finally:
        del os.environ["MICRO_TEST_CERTS"]


async def manage(
    address: str, context: ssl.SSLContext, method: str, path: str, body: object = None
) -> Any:
    headers = {"X-Consul-Token": MANAGEMENT}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"https://{address}/v1/{path}", json=body, ssl=context) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


async def token(secured: Any, rules: str) -> str:
    name = f"p{os.urandom(4).hex()}"
    address, context = secured.address, secured.context
    await manage(address, context, "PUT", "acl/policy", {"Name": name, "Rules": rules})
    body = {"Policies": [{"Name": name}]}
    made = await manage(address, context, "PUT", "acl/token", body)
    return str(made["SecretID"])


def test_a_token_of_few_rights_is_enough(secured: Any, authority: Authority) -> None:
    async def body() -> None:
        rules = 'service_prefix "py." { policy = "write" } node_prefix "" { policy = "read" }'
        tls = authority.client("service")
        made = await token(secured, rules)
        async with (
            ConsulRegistry(secured.address, tls=tls, token=made) as registry,
            registry.watch(INFO.name) as watcher,
            asyncio.timeout(20),
        ):
            for _ in range(2):
                await registry.register(INFO)
            assert (await anext(watcher)).action == "create"
            assert await registry.get_service(INFO.name) == [INFO]
            assert INFO.name in await registry.list_services()
            await registry.deregister(INFO)
            assert (await anext(watcher)).action == "delete"
            assert INFO.name not in await registry.list_services()

    asyncio.run(body())


def test_a_token_without_rights_is_refused(secured: Any, authority: Authority) -> None:
    async def body() -> None:
        tls = authority.client("service")
        reader = await token(secured, 'service_prefix "" { policy = "read" }')
        for given in (None, reader, CANARY):
            async with ConsulRegistry(secured.address, tls=tls, token=given) as registry:
                with pytest.raises(BackendRefused, match="--registry_token") as caught:
                    await registry.register(INFO)
                assert (given or CANARY) not in str(caught.value)
        async with ConsulRegistry(secured.address, tls=tls, token=CANARY) as registry:
            with pytest.raises(BackendRefused, match="--registry_token"):
                await registry.get_service(INFO.name)
            with pytest.raises(BackendRefused, match="--registry_token"):
                await registry.list_services()

    asyncio.run(body())


def test_what_acls_hide_is_not_taken_for_nothing(secured: Any, authority: Authority) -> None:
    """Without node:read Consul gives an empty list and 200."""

    async def body() -> None:
        tls = authority.client("service")
        blind = await token(secured, 'service_prefix "" { policy = "read" }')
        async with (
            ConsulRegistry(secured.address, tls=tls, token=MANAGEMENT) as writer,
            ConsulRegistry(secured.address, tls=tls, token=blind) as registry,
        ):
            await writer.register(INFO)
            with pytest.raises(BackendRefused, match="hidden by ACLs"):
                await registry.get_service(INFO.name)
            assert await registry.get_service("py.unknown") == []

    asyncio.run(body())


def test_a_client_without_a_certificate_is_refused(
    secured: Any, authority: Authority, stranger: Authority
) -> None:
    async def body() -> None:
        foreign = stranger.client("service")
        for tls in (
            TLS(ca=authority.ca),
            TLS(ca=authority.ca, cert=foreign.cert, key=foreign.key),
            TLS(ca=stranger.ca),
        ):
            with pytest.raises(BackendRefused, match="TLS"):
                await ConsulRegistry(secured.address, tls=tls, token=MANAGEMENT).connect()
        with pytest.raises((BackendRefused, BackendUnavailable), match="HTTPS"):
            await ConsulRegistry(secured.address).connect()

    asyncio.run(body())
