"""A bad network between client and server, where there is one."""

from __future__ import annotations

import asyncio
import re

import pytest

from micro_core import MicroError, Unavailable

from ..bodies import same
from ..promise import promise
from ..proxy import ChaosProxy
from ..suite import Suite
from .calls import answered
from .desk import collect
from .lab import Line, RpcLab
from .pair import Pair


class Network(Suite[Pair]):
    @promise(real=True)
    async def test_a_reset_fails_what_is_pending(self, lab: RpcLab) -> None:
        """A connection that is reset ends its calls and streams with an error that says maybe."""
        line, proxy = await through_proxy(lab)
        stream, calls = await line.open(), [line.calling() for _ in range(3)]
        await line.running(4)
        reading = lab.task(stream.recv())
        await asyncio.sleep(0)
        proxy.reset()
        for pending in (*calls, reading):
            error = await lab.fails(pending, Unavailable, "it fails")
            assert error.happened == "maybe", repr(error)
        await lab.eventually(lambda: line.desk.cancelled == 4, "the handlers are cancelled")
        assert (await line.call(body=b"next")).body == b"next"

    @promise(real=True)
    async def test_a_cut_anywhere_gives_no_wrong_answer(self, lab: RpcLab) -> None:
        """A connection cut after any number of bytes gives the whole reply or an error."""
        line, proxy = await through_proxy(lab)
        body = bytes(range(256)) * 20
        for after in range(1, 12_000, 397):
            proxy.cut(after)
            try:
                same((await line.call(body=body)).body, body)
            except Unavailable as error:
                assert error.happened in ("no", "maybe"), repr(error)
            proxy.accept()
            proxy.reset()
        await lab.eventually(lambda: answered(line), "calls are answered again")

    @promise(real=True)
    async def test_a_refused_connection_is_surely_not_done(self, lab: RpcLab) -> None:
        """While a network refuses connections no handler runs; when it is back, calls go on."""
        line, proxy = await through_proxy(lab)
        await line.call()
        proxy.refuse()
        for _ in range(3):
            await lab.fails(line.call(), MicroError, "it fails")
        proxy.accept()
        await line.call()
        assert len(line.desk.seen) == 2

    @promise(real=True)
    async def test_a_frozen_network_can_be_left(self, lab: RpcLab) -> None:
        """With a peer that says nothing any more, giving up, leaving and closing take no time."""
        line, proxy = await through_proxy(lab)
        await line.call()
        stream, call = await line.open(), line.calling()
        await line.running(2)
        proxy.freeze()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lab.soon(call, "giving up ends")
        await lab.soon(stream.close(), "leaving ends")
        await lab.soon(line.client.close(), "closing ends")
        proxy.thaw()
        await lab.eventually(lambda: line.desk.cancelled == 2, "the handlers are cancelled")

    @promise(real=True)
    async def test_a_slow_network_changes_nothing(self, lab: RpcLab) -> None:
        """Over a link that passes on a few bytes at a time, with pauses, all arrives in order."""
        line, proxy = await through_proxy(lab)
        proxy.slice, proxy.jitter = 7, 0.0005
        stream = await line.open()
        bodies = [b"%d" % number * 20 for number in range(10)]
        for body in bodies:
            await stream.send(body)
        await stream.end()
        assert await lab.soon(collect(stream), "the stream ends") == bodies
        assert (await line.call(body=b"x" * 500)).body == b"x" * 500


async def through_proxy(lab: RpcLab) -> tuple[Line, ChaosProxy]:
    line = await lab.line()
    node = line.served.node
    if not re.fullmatch(r"[0-9.]+:[0-9]+", node.address):
        pytest.skip(f"{node.address} is no address of TCP")
    proxy = await lab.stack.enter_async_context(ChaosProxy(node.address))
    line.served.node = type(node)(node.id, proxy.address)
    return line, proxy
