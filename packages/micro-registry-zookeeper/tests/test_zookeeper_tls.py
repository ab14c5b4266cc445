"""TLS: a real ZooKeeper behind an end of TLS that the test makes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

from micro_conformance.proxy import ChaosProxy
from micro_core.errors import BackendError, BackendRefused, BackendUnavailable, OptionError
from micro_core.registry.records import Node, ServiceInfo
from micro_core.security import TLS
from micro_registry_zookeeper import ZooKeeperRegistry


@pytest.fixture(scope="module")
def address(server_address: Callable[[str], str]) -> str:
    return server_address("zookeeper")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def strange(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "strange")


class Ending:
    """Ends TLS before ``target``."""

    def __init__(self, target: str, tls: TLS | None) -> None:
        self._target = target.rpartition(":")[::2]
        self._context = tls.server_context() if tls else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.address = ""

    async def __aenter__(self) -> Ending:
        port = int(self.address.rpartition(":")[2] or 0)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self._context)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort()
            far_writer.close()
            self._tasks.discard(task)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        await asyncio.sleep(0.001)  # so that several answers are one record
        writer.write(data)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(address: str, tls: TLS | None) -> AsyncIterator[ZooKeeperRegistry]:
    made = ZooKeeperRegistry(address, session_timeout=4, tls=tls)
    made.connect_timeout = 2.0
    async with asyncio.timeout(20), made:
        yield made


def test_a_verified_server_is_spoken_to(address: str, ours: Authority) -> None:
    async def body() -> None:
        async with (
            Ending(address, TLS(**ours.issue("server"))) as ending,
            connected(ending.address, TLS(ca=ours.ca)) as registry,
            connected(address, None) as other,
            registry.watch("tls") as watcher,
        ):
            info = ServiceInfo("tls", "1", [Node(f"{n}", f"h:{n}") for n in range(50)])
            async with registry.keep(info, ttl=3):
                assert await registry.get_service("tls") == await other.get_service("tls")
                assert [(await anext(watcher)).action for _ in range(50)] == ["create"] * 50
                # TLS has decrypted what no socket shows any more
                for _ in range(20):
                    await asyncio.gather(*(registry.get_nodes("tls") for _ in range(5)))

    asyncio.run(body())


@pytest.mark.parametrize("case", ["expired", "host", "stranger", "self-signed", "system", "plain"])
def test_an_unverified_server_is_refused(
    address: str, ours: Authority, strange: Authority, case: str
) -> None:
    async def body() -> None:
        server = {
            "expired": lambda: ours.issue("expired", days=-1),
            "host": lambda: ours.issue("other", host="zookeeper.example"),
            "stranger": lambda: strange.issue("stranger"),
            "self-signed": lambda: ours.self_signed("own"),
            "system": lambda: ours.issue("good"),
            "plain": lambda: None,
        }[case]()
        tls = TLS() if case == "system" else TLS(ca=ours.ca)
        async with Ending(address, TLS(**server) if server else None) as ending:
            with pytest.raises((BackendRefused, BackendUnavailable)) as caught:
                async with connected(ending.address, tls):
                    pass
        if server:
            assert isinstance(caught.value, BackendRefused)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert "tls" in str(caught.value) or "renew" in str(caught.value)

    asyncio.run(body())


def test_a_frozen_server_costs_no_thread(address: str, ours: Authority) -> None:
    async def body() -> None:
        before = threading.active_count()
        async with (
            Ending(address, TLS(**ours.issue("server"))) as ending,
            ChaosProxy(ending.address) as proxy,
        ):
            async with ZooKeeperRegistry(
                proxy.address, session_timeout=40, tls=TLS(ca=ours.ca)
            ) as registry:
                assert await registry.get_service("unknown") == []
                proxy.freeze()
            async with asyncio.timeout(5):
                while threading.active_count() > before:
                    await asyncio.sleep(0.01)

    asyncio.run(body())


def test_another_name_is_verified_where_asked(address: str, ours: Authority) -> None:
    async def body() -> None:
        server = TLS(**ours.issue("named", host="zoo.example"))
        async with (
            Ending(address, server) as ending,
            connected(ending.address, TLS(ca=ours.ca, server_name="zoo.example")) as registry,
        ):
            assert await registry.get_service("unknown") == []

    asyncio.run(body())


def test_a_plain_client_is_no_fallback(address: str, ours: Authority) -> None:
    async def body() -> None:
        async with Ending(address, TLS(**ours.issue("server"))) as ending:
            with pytest.raises(BackendUnavailable):
                async with connected(ending.address, None):
                    pass

    asyncio.run(body())


def test_files_that_do_not_exist_are_named() -> None:
    async def body() -> None:
        with pytest.raises(OptionError, match="/nowhere/ca.pem"):
            await ZooKeeperRegistry(tls=TLS(ca="/nowhere/ca.pem")).connect()

    asyncio.run(body())


def test_no_verification_is_logged(
    address: str, strange: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with (
            Ending(address, TLS(**strange.issue("any"))) as ending,
            connected(ending.address, TLS(verify=False)),
        ):
            assert "TLS verifies nothing" in caplog.text

    asyncio.run(body())


def test_a_replaced_certificate_is_used(
    address: str, ours: Authority, strange: Authority, tmp_path: Path
) -> None:
    """Each connection reads the files, as they may be short-lived."""
    shown = {"cert": tmp_path / "shown.pem", "key": tmp_path / "shown.key"}

    def install(source: Authority) -> None:
        for part, made in source.issue("client").items():
            shutil.copy(made, shown[part])

    async def body() -> None:
        server = ours.issue("server")
        install(ours)
        first = Ending(address, TLS(**server, client_ca=ours.ca))
        second = Ending(address, TLS(**server, client_ca=strange.ca))
        async with first:
            registry = ZooKeeperRegistry(
                first.address, session_timeout=4, tls=TLS(ca=ours.ca, **shown)
            )
            await registry.connect()
            second.address = first.address
        async with second:
            with pytest.raises(BackendError):
                await registry.get_service("x")
            install(strange)
            async with asyncio.timeout(15):
                while True:
                    with contextlib.suppress(BackendError):
                        assert await registry.get_service("x") == []
                        break
            await registry.close()

    asyncio.run(body())
