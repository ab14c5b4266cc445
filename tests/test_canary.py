"""A password through every failure: it is in no output, error, log, text or repr."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from places import Place

from micro_core import (
    TLS,
    BackendError,
    Client,
    Component,
    MicroError,
    NotFound,
    Secret,
    Service,
    current,
)
from micro_core.broker.http import HttpBroker
from micro_core.broker.memory import MemoryBroker
from micro_core.logs import JsonFormatter, TextFormatter
from micro_core.registry.memory import MemoryRegistry
from micro_core.settings import Settings
from micro_core.transport.http import HttpTransport

CANARY = "canary-8f31c5"
URL = f"http://me:{CANARY}@127.0.0.1:1/?token={CANARY}"
CONSUL = importlib.util.find_spec("micro_registry_consul") is not None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


FAILURES: dict[str, tuple[str, ...]] = {
    "unreachable": (f"--registry_address={URL}",),
    "unreachable, everything logged": (
        f"--registry_address={URL}",
        "--log_level=debug",
        "--log_format=json",
        "--traceback",
    ),
    "refused token": ("--registry_address=127.0.0.1:1", f"--registry_token={CANARY}"),
    "several addresses": (f"--registry_address={URL},{URL}",),
    "no address": (f"--registry_address=http://me:{CANARY}@:x",),
    "second value": ("--registry_token", CANARY, CANARY),
    "near miss": (f"--registry_tokn={CANARY}",),
    "unknown kind": (f"--registrie_address={URL}",),
    "stray": (URL,),
    "password without user": (f"--registry_password={CANARY}",),
    "key that is no file": (f"--registry_address={URL}", "--registry_tls_key=/nowhere"),
    "help": (f"--registry_token={CANARY}", "--help"),
}


@pytest.mark.skipif(not CONSUL, reason="needs the Consul plugin, which has addresses and secrets")
@pytest.mark.parametrize("failure", FAILURES)
def test_no_start_that_fails_shows_it(place: Place, failure: str) -> None:
    result = place.service("--registry=consul", *FAILURES[failure])
    assert result.code == (0 if failure == "help" else 2), result
    assert result.out + result.err
    assert CANARY not in result.out + result.err


@pytest.mark.skipif(not CONSUL, reason="needs the Consul plugin, which has addresses and secrets")
@pytest.mark.parametrize("variable", ["ADDRESS", "TOKEN", "TOKEN_FILE", "PASSWORT"])
def test_no_variable_that_is_wrong_shows_it(place: Place, variable: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(CANARY)
    value = str(tmp_path / "token") if variable.endswith("_FILE") else URL
    environ = {"MICRO_REGISTRY": "consul", f"MICRO_REGISTRY_{variable}": value}
    environ.setdefault("MICRO_REGISTRY_ADDRESS", "127.0.0.1:1")
    result = place.service(**environ)
    assert result.code == 2, result
    assert CANARY not in result.out + result.err


def objects() -> Iterator[Any]:
    yield Secret(CANARY)
    yield HttpTransport(URL)
    yield HttpBroker(URL)
    yield MemoryRegistry(URL)
    yield Settings.read([f"--registry_token={CANARY}"], {"MICRO_BROKER_ADDRESS": URL})
    yield Client(registry=MemoryRegistry(URL))
    yield Service("s", registry=MemoryRegistry(URL))
    yield TLS(ca="/ca.pem", key="/key.pem")
    if CONSUL:
        from micro_registry_consul import ConsulRegistry

        yield ConsulRegistry("127.0.0.1:1", token=CANARY)
        yield ConsulRegistry("127.0.0.1:1", token=Secret(CANARY))


@pytest.mark.parametrize("shown", list(objects()), ids=lambda one: type(one).__name__)
def test_no_object_shows_it(shown: object) -> None:
    for text in (repr(shown), str(shown), f"{shown}", repr([shown])):
        assert text
        assert CANARY not in text
    if isinstance(shown, Component):
        assert CANARY not in shown.address + repr(shown.health())


class Said:
    """All that the ``micro`` loggers say, as text and as JSON."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __str__(self) -> str:
        formats = (TextFormatter(), JsonFormatter())
        return "\n".join(f.format(record) for record in self._caplog.records for f in formats)


Failing = Callable[[Client], Awaitable[object]]
HEADER = {"Authorization": f"Bearer {CANARY}"}
CALLS: dict[str, Failing] = {
    "refused by the handler": lambda c: c.call("s", "Say.No", "", metadata=HEADER),
    "failed": lambda c: c.call("s", "Say.Fail", "", metadata=HEADER),
    "no endpoint": lambda c: c.call("s", "Say.What", "", metadata=HEADER),
    "no service": lambda c: c.call("t", "Say.What", "", metadata=HEADER),
    "too late": lambda c: c.call("s", "Say.Wait", "", timeout=0.05, metadata=HEADER),
    "wrong type": lambda c: c.call("s", "Say.No", {"a": 1}, metadata=HEADER),
    "bad header": lambda c: c.call("s", "Say.No", "", metadata={"A b": CANARY}),
    "line break": lambda c: c.call("s", "Say.No", "", metadata={"A": f"{CANARY}\r\n"}),
    "bad topic": lambda c: c.publish("", "", metadata=HEADER),
}


@pytest.mark.parametrize("transport", ["memory", "http"])
@pytest.mark.parametrize("failure", CALLS)
def test_no_call_that_fails_shows_it(
    transport: str, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler logs of its own accord is its own: these say nothing of the canary."""
    caplog.set_level(logging.DEBUG, "micro")

    async def main() -> None:
        service = Service(
            "s",
            registry=MemoryRegistry("canary"),
            transport=transport,
            broker=MemoryBroker("canary"),
        )

        @service.endpoint("Say.No")
        async def no(request: str) -> str:
            assert CANARY in current().metadata["Authorization"]
            raise NotFound(f"no {current()!r} for {current().metadata!r}")

        @service.endpoint("Say.Fail")
        async def fail(request: str) -> str:
            raise ValueError(f"failed at {current()!r}")

        @service.endpoint("Say.Wait")
        async def wait(request: str) -> str:
            await asyncio.sleep(60)
            return ""

        await service.start(Settings.read(["--drain_delay=0"], {}))
        try:
            with pytest.raises((MicroError, BackendError)) as caught:
                await CALLS[failure](service.client)
        finally:
            await service.stop()
        shown = "".join(traceback.format_exception(caught.value))
        assert CANARY not in shown + repr(caught.value)
        assert CANARY not in str(Said(caplog))

    asyncio.run(main())
