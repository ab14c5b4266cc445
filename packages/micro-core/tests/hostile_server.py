"""What the hostile tests attack, in a process of its own: a server of mucp and a subscription."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from micro_core.broker.http import HttpBroker
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.registry.memory import MemoryRegistry
from micro_core.server.mucp import MucpServer
from micro_core.transport.http import HttpTransport

HEADER, IDLE = 0.5, 1.0  # seconds that the listener of mucp allows


async def dispatch(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
    if stream is not None:
        while True:
            await stream.recv()
    return RpcResponse(request.content_type, request.body)


async def take(_: Any) -> None:
    pass


async def main() -> None:
    registry = MemoryRegistry()
    options = {"header_timeout": HEADER, "idle_timeout": IDLE, "max_connections": 4000}
    async with registry, HttpBroker(registry=registry) as broker:
        async with HttpTransport(**options) as transport:  # type: ignore[arg-type]
            server = MucpServer(transport=transport)
            address = await server.start("127.0.0.1:0", dispatch)
            await broker.subscribe("topic", take)
            [info] = await registry.get_service("micro.http.broker")
            node = info.nodes[0]
            print(address, node.address, node.id, flush=True)
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            await stop.wait()
            await server.stop(0.0)


class Victim:
    """That process, seen from outside."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve())]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by the tests
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        self.rpc, self.broker, self.node = self.process.stdout.readline().split()

    def rss(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def said(self) -> str:
        """What it has logged."""
        self.log.seek(0)
        return self.log.read()

    def stop(self) -> int:
        """The exit code; killed after 10 s."""
        self.process.terminate()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
