"""mucp over any transport, the server's side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, ClassVar

from .. import mucp
from ..client.base import RpcRequest, RpcResponse, RpcStream
from ..errors import Draining, MessageTooLarge, MicroError, SocketClosed
from ..message import Header, Message
from ..transport.base import Listener, Socket, Transport
from .base import Dispatch, RpcServer

log = logging.getLogger("micro.server.mucp")
_UNREAD = 128  # messages of one stream, and
_UNREAD_BYTES = 1 << 20  # bytes of them, after which the receiver waits for the handler
_HEADER = 1 << 13  # bytes that an answer counts more than its body
_LOOK = 0.25  # seconds between looks whether the peer is still there, meanwhile
_OVER = 128  # streams that have ended, of whose late messages a connection knows
_QUIET = 0.5  # seconds without a connection after which no client is expected to come
_Condition = Callable[[], bool]
_Steps = Coroutine[Any, None, None]


class MucpServer(RpcServer):
    """Serves every socket that comes, several requests on one socket side by side."""

    name: ClassVar[str] = "mucp"

    def __init__(self, *, transport: Transport) -> None:
        self._transport = transport
        self._listener: Listener | None = None
        self._connections: set[Connection] = set()
        self.draining = False
        self._changed = asyncio.Event()

    async def start(self, address: str, dispatch: Dispatch) -> str:
        self.dispatch = dispatch
        self._listener = await self._transport.listen(address, self._serve)
        return self._listener.address

    async def drain(self, delay: float) -> None:
        self.draining = True
        deadline = asyncio.get_running_loop().time() + delay
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            await self._wait(lambda: not self._connections, left)
            # a client that has not heard of the withdrawal yet may be about to dial
            if not await self._wait(lambda: bool(self._connections), min(_QUIET, left)):
                return

    async def stop(self, grace: float) -> None:
        self.draining = True
        self.dispatch = _refuse
        await self._wait(lambda: not any(c.running for c in self._connections), grace)
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    async def _serve(self, socket: Socket) -> None:
        connection = Connection(socket, self)
        self._connections.add(connection)
        self._changed.set()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._changed.set()

    def note_idle(self) -> None:
        """A connection has no request under way any more."""
        self._changed.set()

    async def _wait(self, done: _Condition, seconds: float) -> bool:
        """Whether ``done`` came true in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        return done()


async def _refuse(request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
    raise Draining("this node is stopping")


class Connection:
    """One socket: a receiver that takes messages, and workers that handle them.

    The task that received a request handles it itself, without a task or a queue in between. If
    the handler has to wait, another worker takes over the receiving, so that a second request
    starts at once and the end of the socket cancels the handlers. What a handler sets in a
    context variable is gone with it.
    """

    def __init__(self, socket: Socket, server: MucpServer) -> None:
        self._socket = socket
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._workers: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Future[None] | None = None
        self._streams: dict[str, ServerStream] = {}
        self._over: deque[str] = deque(maxlen=_OVER)
        self._owed = 0  # bytes of answers that the peer has not taken
        self._room = asyncio.Event()
        self.running = 0

    async def run(self) -> None:
        self._spawn()
        try:
            await self._ended
        finally:
            for worker in self._workers:
                worker.cancel()
            if self._workers:
                await asyncio.wait(self._workers, timeout=5.0)
            await self._socket.close()

    def _spawn(self) -> None:
        worker = self._loop.create_task(self._work(), context=self._context)
        self._workers.add(worker)
        worker.add_done_callback(self._retire)

    def _retire(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if worker.cancelled() or worker.exception() is None:
            return
        if not isinstance(worker.exception(), MicroError):
            log.error("connection of %s failed", self._socket.peer, exc_info=worker.exception())
        if not self._ended.done():
            self._ended.set_result(None)

    async def _work(self) -> None:
        """Receive and handle in turns; ends when another worker is already waiting to receive."""
        while True:
            handling = self._handling(*await self._next_request())
            self.running += 1
            self._socket.busy = True
            try:
                waited = await _noticing(handling, self._hand_over)
            finally:
                self.running -= 1
                if not self.running:
                    self._rest()
            if waited and not await self._wait_for_turn():
                return

    def _rest(self) -> None:
        self._socket.busy = False
        if self._server.draining:
            self._server.note_idle()

    async def _next_request(self) -> tuple[RpcRequest, str, str | None]:
        """The next message that is of no stream, under way or over."""
        while True:
            while self._owed >= _UNREAD_BYTES:  # or who never reads would fill the memory
                self._room.clear()
                await self._room.wait()
            message = await self._socket.recv()
            header = message.header
            stream_id = header.get("Micro-Stream")
            stream = self._streams.get(stream_id) if stream_id is not None else None
            if stream is not None:
                await stream.put(message)
            elif header.get("Micro-Error") != mucp.EOS and stream_id not in self._over:
                request = mucp.read_request(message, self._loop.time(), self._socket.peer)
                return request, header.get("Micro-Id", ""), stream_id

    def _hand_over(self) -> None:
        """Let somebody else receive."""
        waiting, self._waiting = self._waiting, None
        if self._ended.done():
            return
        if waiting is None:
            self._spawn()
        else:
            waiting.set_result(None)

    async def _wait_for_turn(self) -> bool:
        if self._waiting is not None:
            return False
        self._waiting = self._loop.create_future()
        await self._waiting
        return True

    def _handling(self, request: RpcRequest, id: str, stream_id: str | None) -> _Steps:
        if stream_id is None:
            return self._unary(request, id)
        return self._stream(request, id, stream_id)

    async def _unary(self, request: RpcRequest, id: str) -> None:
        header: Header
        try:
            response = await self._server.dispatch(request, None)
        except MicroError as error:
            header, body = mucp.error_header(error), b""
            header["Content-Type"] = request.content_type
        else:
            header, body = {"Content-Type": response.content_type}, response.body
        header["Micro-Id"] = id
        if self._server.draining:
            header["Connection"] = "close"
        size = len(body) + _HEADER
        self._owed += size
        try:
            await self._socket.send(Message(header, body))
        except MessageTooLarge as error:
            error.happened = "yes"  # the handler has run
            await self._socket.send(Message({**header, **mucp.error_header(error)}))
        finally:
            self._owed -= size
            self._room.set()

    async def _stream(self, request: RpcRequest, id: str, stream_id: str) -> None:
        header = {
            "Content-Type": request.content_type,
            "Micro-Id": id,
            "Micro-Stream": stream_id,
            "Micro-Service": request.service,
            "Micro-Method": request.endpoint,
            "Micro-Endpoint": request.endpoint,
        }
        stream = self._streams[stream_id] = ServerStream(self._socket, header)
        try:
            await self._server.dispatch(request, stream)
            await stream.end()
        except MicroError as error:
            await stream.fail(error)
        finally:
            del self._streams[stream_id]
            self._over.append(stream_id)
            await stream.close()


@coroutine
def _noticing(steps: _Steps, on_wait: Callable[[], None]) -> Generator[Any, None, bool]:
    """Await ``steps`` in a context of their own, calling ``on_wait`` when they first have to wait.

    Returns whether they had to. The other way to know is a callback in the loop, cancelled by
    those who need not wait: 3 us more for every request.
    """
    run = copy_context().run
    waited = False
    try:
        waits_for = run(steps.send, None)
        on_wait()
        waited = True
        while True:
            try:
                yield waits_for
            except BaseException as error:
                waits_for = run(steps.throw, error)
            else:
                waits_for = run(steps.send, None)
    except StopIteration:
        return waited


class ServerStream(RpcStream):
    """One of the streams on a socket. A full buffer stops the receiver, and so the peer."""

    def __init__(self, socket: Socket, header: Header) -> None:
        self._socket = socket
        self._header = header
        self._buffer: deque[Message] = deque()
        self._held = 0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._ended = False
        self._closed = False

    async def put(self, message: Message) -> None:
        """Raises SocketClosed if the peer leaves before there is room: nobody else may notice."""
        while self._full():
            self._writable.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._writable.wait()
            if self._socket.closed:
                raise SocketClosed(f"{self._socket.peer} left a stream with messages unread")
        self._buffer.append(message)
        self._held += len(message.body)
        self._readable.set()

    def _full(self) -> bool:
        full = len(self._buffer) >= _UNREAD or self._held >= _UNREAD_BYTES
        return full and not self._closed

    async def recv(self) -> bytes:
        while not self._buffer:
            self._readable.clear()
            await self._readable.wait()
        message = self._buffer[0]
        error = message.header.get("Micro-Error")
        if error == mucp.EOS:  # stays, for whoever asks again
            raise StopAsyncIteration
        self._buffer.popleft()
        self._held -= len(message.body)
        self._writable.set()
        if error:
            mucp.raise_error(message.header)
        return message.body

    async def send(self, body: bytes) -> None:
        if self._ended:
            raise SocketClosed("this side has ended the stream", happened="no")
        await self._socket.send(Message(dict(self._header), body))

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._socket.send(Message({**self._header, "Micro-Error": mucp.EOS}))

    async def fail(self, error: MicroError) -> None:
        if not self._ended:
            self._ended = True
            await self._socket.send(Message({**self._header, **mucp.error_header(error)}))

    async def close(self) -> None:
        self._closed = True
        self._writable.set()
