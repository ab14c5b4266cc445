"""An HTTP server of the tests: every request gets the same reply."""

from __future__ import annotations

import asyncio
import ssl

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


class FakeHttp:
    """Sends ``reply`` to every request; for ``b""`` it hangs up, and for None it is silent."""

    def __init__(
        self, reply: bytes | None = OK, context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.reply, self._context, self.port = reply, context, port
        self.heads: list[bytes] = []

    async def __aenter__(self) -> FakeHttp:
        self._before = asyncio.all_tasks()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        while others := asyncio.all_tasks() - self._before - {asyncio.current_task()}:
            for task in others:  # those of the handshakes, too
                task.cancel()
            await asyncio.wait(others)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                if self.reply is None:
                    await asyncio.Event().wait()
                if not self.reply:
                    return
                writer.write(self.reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
