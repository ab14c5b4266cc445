"""Networks that misbehave, for transports whose addresses are ``host:port``."""

from __future__ import annotations

import asyncio
import re

import pytest

from micro_core import Message, MicroError, Transport
from micro_core.transport.base import Serve, Socket

from ..bodies import same
from ..promise import promise
from ..proxy import ChaosProxy
from ..suite import Suite
from .lab import TransportLab, asked, echo

BODY = bytes(range(256)) * 8


class Chaos(Suite[Transport]):
    @promise(real=True)
    async def test_a_connection_cut_anywhere_is_a_typed_error(self, lab: TransportLab) -> None:
        """A connection that is cut after any number of bytes gives the right answer or an error."""
        for after in (0, 1, 7, 40, 100, 500, 2000, 2100, 2200, 2300, 3000, 4000, 4400):
            proxy, socket = await self._through(lab)
            proxy.cut(after)
            await _right_or_refused(lab, socket, b"cut %d" % after + BODY)

    @promise(real=True)
    async def test_a_reset_is_noticed_by_both(self, lab: TransportLab) -> None:
        """When a connection is reset, who waits on either side gets a typed error."""
        ended: asyncio.Queue[BaseException] = asyncio.Queue()

        async def serve(socket: Socket) -> None:
            try:
                await echo(socket)
            except BaseException as error:
                ended.put_nowait(error)
                raise

        proxy, socket = await self._through(lab, serve)
        assert await asked(socket, b"1") == b"1"
        waiting = asyncio.create_task(socket.recv())
        await asyncio.sleep(0.01)
        proxy.reset()
        async with lab.refusing(MicroError):
            await waiting
        async with asyncio.timeout(self.patience):
            error = await ended.get()
        assert isinstance(error, MicroError), f"the other side got {error!r}"

    @promise(real=True)
    async def test_slices_are_put_together(self, lab: TransportLab) -> None:
        """Messages arrive whole over a network that passes on a byte at a time, and slowly."""
        proxy, socket = await self._through(lab)
        proxy.slice = 1
        for body in (b"", b"\r\n", BODY):
            same(await asked(socket, body), body)
        proxy.slice, proxy.delay, proxy.jitter = 200, 0.001, 0.005
        assert await asked(socket, BODY) == BODY

    @promise(real=True)
    async def test_a_frozen_peer_costs_no_more_than_patience(self, lab: TransportLab) -> None:
        """Who waits for a frozen peer can give up at once, and closing takes 6 s at most."""
        proxy, socket = await self._through(lab)
        assert await asked(socket, b"1") == b"1"
        proxy.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asked(socket, b"2")
        begin = asyncio.get_running_loop().time()
        await lab.within(socket.close(), "close returns")
        assert asyncio.get_running_loop().time() - begin <= 6
        proxy.thaw()
        transport = await lab.new()
        again = await transport.dial(proxy.address)
        assert await asked(again, b"3") == b"3"

    @promise(real=True)
    async def test_a_refused_connection_is_a_typed_error(self, lab: TransportLab) -> None:
        """A connection that is reset as soon as it is made is a typed error."""
        proxy, _ = await self._through(lab)
        proxy.refuse()
        transport = await lab.new()
        async with lab.refusing(MicroError):
            await asked(await transport.dial(proxy.address), b"1")

    async def _through(self, lab: TransportLab, serve: Serve = echo) -> tuple[ChaosProxy, Socket]:
        """A socket to a listener behind a proxy."""
        listener = await lab.listen(serve)
        if re.fullmatch(r"127\.0\.0\.1:\d+", listener.address) is None:
            pytest.skip("its addresses are not host:port")
        proxy = await lab.stack.enter_async_context(ChaosProxy(listener.address))
        transport = await lab.new()
        return proxy, await transport.dial(proxy.address)


async def _right_or_refused(lab: TransportLab, socket: Socket, body: bytes) -> None:
    try:
        async with asyncio.timeout(lab.suite.patience):
            await socket.send(Message({}, body))
            answer = await socket.recv()
    except TimeoutError:
        raise AssertionError("neither an answer nor an error") from None
    except MicroError:
        return
    same(answer.body, body, "an answer that was taken for a whole one")
