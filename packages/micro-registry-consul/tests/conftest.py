"""Consul without the driver, and an agent of the tests' own to look at requests."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import pytest


def pytest_make_parametrize_id(config: pytest.Config, val: object) -> str | None:
    return ascii(val)[:40] if isinstance(val, str) else None


def ask(address: str, method: str, path: str, body: object = None) -> Any:
    """Consul's HTTP API without the driver."""
    request = urllib.request.Request(
        f"http://{address}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        text = response.read()
    return json.loads(text) if text[:1] in (b"[", b"{", b'"') else text.decode()


@pytest.fixture
def consul(consul_address: str) -> Callable[..., Any]:
    """``consul(method, path, body=None)`` asks the server without the driver."""
    return lambda method, path, body=None: ask(consul_address, method, path, body)


class FakeAgent:
    """An HTTP server that notes requests and answers what ``answer`` says, by default 200."""

    def __init__(self, ssl: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._ssl = ssl
        self._port = port
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: Callable[[str, str], Any] = lambda method, path: None

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, ssl=self._ssl
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
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

    def restarted(self, ssl: ssl.SSLContext | None) -> FakeAgent:
        """One at the same address, to enter after this one was left."""
        return FakeAgent(ssl, self._port)

    def paths(self, method: str) -> list[str]:
        return [path.split("?")[0] for each, path, _ in self.requests if each == method]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                first, *lines = head.strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                self.requests.append((method, path, json.loads(body) if body else None))
                self.headers.append(headers)
                await self._reply(writer, method, path)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, method: str, path: str) -> None:
        result = self.answer(method, path)
        if asyncio.iscoroutine(result):
            result = await result
        if isinstance(result, bytes):
            writer.write(result)
            await writer.drain()
            return
        default: Any = "127.0.0.1:8300" if path.startswith("/v1/status") else []
        status, data, index = result if result is not None else (200, default, 1)
        text = (
            data.encode() if isinstance(data, str) and status != 200 else json.dumps(data).encode()
        )
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n"
            f"X-Consul-Index: {index}\r\n\r\n".encode()
            + text
        )
        await writer.drain()


@pytest.fixture
def fake_agent(monkeypatch: pytest.MonkeyPatch) -> type[FakeAgent]:
    monkeypatch.setattr("micro_registry_consul.registry.SETTLE", 0.01)  # it has no catalogue
    return FakeAgent
