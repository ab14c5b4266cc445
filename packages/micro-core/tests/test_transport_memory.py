"""What is the memory transport's own: names, hubs and loops."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from in_loops import in_loop

from micro_core.errors import BackendUnavailable, WrongLoop
from micro_core.message import Message
from micro_core.transport.base import Socket
from micro_core.transport.memory import MemoryTransport


async def echo(socket: Socket) -> None:
    while True:
        await socket.send(await socket.recv())


async def asks(transport: MemoryTransport, address: str, body: bytes) -> bytes:
    socket = await transport.dial(address)
    await socket.send(Message({}, body))
    answer = (await socket.recv()).body
    await socket.close()
    return answer


@in_loop
async def test_all_of_one_name_meet_and_others_do_not() -> None:
    async with MemoryTransport() as one, MemoryTransport() as two, MemoryTransport("t1") as three:
        listener = await one.listen("here", echo)
        assert listener.address == "here"
        assert await asks(two, "here", b"x") == b"x"
        with pytest.raises(BackendUnavailable, match="t1.*'here'"):
            await three.dial("here")
        await (await three.listen("here", echo)).close()


@pytest.mark.parametrize("address", ["", ":0", "127.0.0.1:0"])
@in_loop
async def test_fresh_names_differ(address: str) -> None:
    async with MemoryTransport() as transport:
        listeners = [await transport.listen(address, echo) for _ in range(3)]
        assert len({listener.address for listener in listeners}) == 3
        for listener in listeners:
            assert listener.address.startswith("memory-")
            assert await asks(transport, listener.address, b"y") == b"y"


@in_loop
async def test_bodies_are_not_copied() -> None:
    received: list[Message] = []

    async def serve(socket: Socket) -> None:
        received.append(await socket.recv())

    async with MemoryTransport() as transport:
        listener = await transport.listen("", serve)
        socket = await transport.dial(listener.address)
        body = bytes(1000)
        await socket.send(Message({}, body))
        with pytest.raises(Exception, match="closed"):
            await socket.recv()
        assert received[0].body is body


@in_loop
async def test_a_name_taken_over_is_not_given_up_by_the_one_before() -> None:
    async with MemoryTransport() as transport:
        first = await transport.listen("name", echo)
        await first.close()
        second = await transport.listen("name", echo)
        await first.close()
        assert await asks(transport, second.address, b"z") == b"z"


@in_loop
async def test_a_sender_that_waits_goes_on_in_order_as_room_comes() -> None:
    accepted: list[Socket] = []

    async def serve(socket: Socket) -> None:
        accepted.append(socket)
        await asyncio.Event().wait()

    async with MemoryTransport() as transport:
        listener = await transport.listen("", serve)
        socket = await transport.dial(listener.address)
        await asyncio.sleep(0)
        for number in range(128):
            await socket.send(Message({}, b"%d" % number))
        late = asyncio.create_task(socket.send(Message({}, b"128")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not late.done()
        assert (await accepted[0].recv()).body == b"0"
        await late
        assert [int((await accepted[0].recv()).body) for _ in range(128)] == list(range(1, 129))


def test_loops_do_not_meet_and_leave_nothing() -> None:
    transport = MemoryTransport()

    async def first() -> None:
        async with transport:
            await transport.listen("name", echo)
            assert await asks(transport, "name", b"1") == b"1"

    async def second() -> weakref.ref[object]:
        async with transport:
            with pytest.raises(BackendUnavailable):
                await transport.dial("name")
            return weakref.ref(asyncio.get_running_loop())

    asyncio.run(first())
    loop = asyncio.run(second())
    transport = MemoryTransport()
    gc.collect()
    assert loop() is None


def test_another_loop_is_refused() -> None:
    transport = MemoryTransport()
    with asyncio.Runner() as runner:
        runner.run(transport.connect())
        with pytest.raises(WrongLoop):
            asyncio.run(transport.dial("name"))
        runner.run(transport.close())
