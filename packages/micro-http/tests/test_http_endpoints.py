"""Endpoints, with servers of the test."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from fake_http import OK, FakeHttp
from in_loops import in_loop

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    OptionError,
)
from micro_core.security import TLS, Secret
from micro_http import AnswerTooLong, Endpoints, Question, Reply

CANARY = "c4n4ry-5ecret-0f-the-test"
READ = Question("GET", "/read", None, BackendUnavailable)
WRITE = Question("PUT", "/write", {"a": 1}, BackendUnknown)


class Servers(Endpoints):
    software, port, credentials = "a server of the test", 80, "token="

    def __init__(self, *addresses: str, tls: TLS | None = None) -> None:
        super().__init__("test", addresses, tls, {"X-Token": Secret(CANARY)})

    async def ask(self, question: Question = READ, **options: Any) -> Reply:
        return await self.first(lambda server: self.exchange(server, question), **options)


class Repeating(Servers):
    repeatable = True


@asynccontextmanager
async def opened(
    *addresses: str, kind: type[Servers] = Servers, tls: TLS | None = None, timeout: float = 5.0
) -> AsyncIterator[Servers]:
    servers = kind(*addresses, tls=tls)
    servers.open(timeout)
    try:
        yield servers
    finally:
        await servers.close()


# -- which server ----------------------------------------------------------------------------


@in_loop
async def test_the_first_that_answers_is_kept() -> None:
    async with FakeHttp() as one, FakeHttp() as two:
        async with opened("127.0.0.1:1", one.address, two.address) as servers:
            for _ in range(3):
                assert (await servers.ask()).server == f"http://{one.address}"
            assert two.heads == []
            one.reply = b""
            await servers.ask()
            asked = len(one.heads)
            for _ in range(3):
                assert (await servers.ask()).server == f"http://{two.address}"
            assert len(one.heads) == asked
            assert (await servers.ask(at=f"http://{two.address}")).body == b"[]"


@in_loop
async def test_a_question_that_is_cancelled_leaves_the_server_behind() -> None:
    async with FakeHttp(None) as frozen, FakeHttp() as other:
        async with opened(frozen.address, other.address, timeout=60) as servers:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await servers.ask()
            assert (await servers.ask()).server == f"http://{other.address}"
            assert len(frozen.heads) == 1


@in_loop
async def test_where_that_is_not_asked_for_a_failure_changes_nothing() -> None:
    async with FakeHttp(b"") as first, FakeHttp() as other:
        async with opened(first.address, other.address) as servers:
            for times in (1, 2):
                await servers.ask(settled=False)
                assert len(other.heads) == times
            asked = len(first.heads)
            await servers.ask()
            assert len(first.heads) > asked, "it was still the first"


@pytest.mark.parametrize("kind", [Servers, Repeating])
@in_loop
async def test_what_may_have_been_done_is_repeated_where_that_is_harmless(
    kind: type[Servers],
) -> None:
    async with FakeHttp(b"") as first, FakeHttp() as other:
        async with opened(first.address, other.address, kind=kind) as servers:
            if kind is Repeating:
                assert (await servers.ask(WRITE)).server.endswith(other.address)
            else:
                with pytest.raises(BackendUnknown) as caught:
                    await servers.ask(WRITE)
                assert caught.value.happened == "maybe"
                assert other.heads == []
                assert (await servers.ask(WRITE)).server.endswith(other.address), "it moved on"


@in_loop
async def test_an_answer_that_is_too_long_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("micro_http.endpoints.ANSWER_LIMIT", 1)
    async with FakeHttp() as one, FakeHttp() as two:
        async with opened(one.address, two.address) as servers:
            with pytest.raises(AnswerTooLong, match="over 1 bytes"):
                await servers.ask()
            assert two.heads == []


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (None, BackendUnknown, r"no answer within 0\.5 s; start a server of the test there"),
        (b"", BackendUnknown, "if it wants TLS, give tls=, --registry_tls"),
        (b"what?\r\n\r\n", BackendUnknown, "BadStatusLine|BadHttpMessage|400"),
        (OK.replace(b"2\r", b"9\r"), BackendUnknown, "no answer within"),
    ],
)
@in_loop
async def test_a_failure_says_what_happened_and_shows_no_header(
    reply: bytes | None, kind: type[BackendError], text: str
) -> None:
    async with FakeHttp(reply) as server, opened(server.address, timeout=0.5) as servers:
        for question, expected in ((WRITE, kind), (READ, BackendUnavailable)):
            with pytest.raises(expected, match=f"registry test at http://{server.address}") as told:
                await servers.ask(question)
            with pytest.raises(expected, match=text):
                raise told.value
            assert CANARY not in "".join(traceback.format_exception(told.value))
            for seen in chain(told.value):
                assert CANARY not in repr(vars(seen)) + repr(seen)
        assert all(CANARY.encode() in head for head in server.heads)


def chain(error: BaseException | None) -> list[BaseException]:
    return [error, *chain(error.__cause__), *chain(error.__context__)] if error else []


@in_loop
async def test_nobody_there_was_surely_not_done_and_everyone_is_named() -> None:
    async with opened("127.0.0.1:1", "[::1]:1") as servers:
        with pytest.raises(BackendUnavailable, match="--registry_address") as caught:
            await servers.ask(WRITE)
        assert caught.value.happened == "no"
        assert caught.value.address == "http://127.0.0.1:1,http://[::1]:1"
    with pytest.raises(BackendUnavailable, match="the registry is closed"):
        await servers.ask()


@in_loop
async def test_what_waits_has_its_own_limit_and_connections() -> None:
    waiting = READ._replace(wait=30.0)
    async with FakeHttp(None) as server, opened(server.address, timeout=0.2) as servers:
        asked = [asyncio.create_task(servers.ask(waiting)) for _ in range(60)]
        async with asyncio.timeout(10):
            while len(server.heads) < 60:
                await asyncio.sleep(0.01)
        server.reply = OK
        assert (await servers.ask()).body == b"[]"
        with pytest.raises(BackendUnavailable, match=r"within 0\.01 s"):
            server.reply = None
            await servers.ask(READ._replace(wait=0.01))
        assert not any(task.done() for task in asked)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def test_a_servers_words_are_cut_and_without_secrets() -> None:
    said = f" {CANARY} and hidden " + "x" * 500
    quoted = Servers("h").quoted(said, Secret(CANARY), None, "hidden")
    assert quoted.startswith("*** and *** xxx")
    assert len(quoted) == 200


# -- addresses and TLS -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["", "http://", "ftp://h", "h:x", "h:99999", "::1", "h/p", "h:1?token=s3cret", "u:s3cret@h:1"],
)
def test_bad_addresses_are_refused_by_what_they_should_be(address: str) -> None:
    with pytest.raises(OptionError, match="give host, host:port.* as token=") as caught:
        Servers(address)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(OptionError, match="only https"):
        Servers("http://h", tls=TLS())


def shown(cert: dict[str, Path], client_ca: Path) -> ssl.SSLContext:
    return TLS(**cert, client_ca=client_ca).server_context()


@in_loop
async def test_a_replaced_certificate_is_used_and_a_broken_one_named(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    one, two = map(Authority, folders)
    own, files = one.issue("server"), {"cert": tmp_path / "cert", "key": tmp_path / "key"}
    tls = TLS(ca=one.ca, **files)

    def install(source: Authority) -> None:
        for kind, made in source.issue("client").items():
            shutil.copy(made, files[kind])

    install(one)
    async with FakeHttp(OK, shown(own, one.ca)) as server:
        async with opened(server.address, tls=tls) as servers:
            await servers.ask(WRITE)
            files["cert"].write_text("no certificate")
            await servers.ask(WRITE)  # at the connection that there is
            await server.__aexit__()
            async with FakeHttp(OK, shown(own, two.ca), server.port):
                with pytest.raises(BackendRefused, match=f"TLS: .*{files['cert']}") as caught:
                    await servers.ask()
                assert isinstance(caught.value.__cause__, OptionError)
                install(one)
                with pytest.raises(BackendRefused, match="TLS: "):
                    await servers.ask()
                install(two)
                assert (await servers.ask(WRITE)).body == b"[]"


class Closing(FakeHttp):
    """Hangs up at the first request, and then at once."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.heads:
            writer.close()
        else:
            await super()._serve(reader, writer)


@pytest.mark.parametrize("kind", [Servers, Repeating])
@in_loop
async def test_a_write_during_which_tls_hangs_up_stays_in_doubt(
    kind: type[Servers], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own, tls = authority.issue("server"), TLS(ca=authority.ca)
    context = TLS(**own).server_context()
    async with Closing(b"", context) as server, FakeHttp(OK, context) as other:
        async with opened(server.address, other.address, tls=tls, kind=kind) as servers:
            if kind is Repeating:
                assert (await servers.ask(WRITE)).server.endswith(other.address)
            else:
                with pytest.raises(BackendUnknown):
                    await servers.ask(WRITE)
                assert other.heads == []
        async with opened(server.address, tls=tls, kind=kind) as servers:
            with pytest.raises(BackendRefused, match="not revoked"):
                await servers.ask()
