"""What happens to messages that nobody reads yet."""

from __future__ import annotations

import asyncio

from micro_core import Message, MicroError, StreamOverflow, Transport
from micro_core.transport.base import Socket

from ..promise import promise
from ..suite import Suite
from .lab import TransportLab

PIECE = 1 << 16
MOST = 64 * 16  # pieces: 64 MiB that nobody reads


class Flow(Suite[Transport]):
    @promise(guarantee="backpressure", timeout=120)
    async def test_a_peer_that_does_not_read_pauses_the_sender(self, lab: TransportLab) -> None:
        """While a peer does not read, ``send`` waits or the socket ends, in bounded memory."""
        client, server = await lab.pair()
        for one, other in ((client, server), (server, client)):
            if one.closed:
                continue
            sender = Sender(one)
            await lab.eventually(
                lambda sender=sender: sender.stalled(),  # type: ignore[misc]
                f"send waits before {MOST} pieces of 64 KiB are unread",
            )
            lab.figure("MiB sent to a peer that does not read", sender.sent // 16)
            await sender.give_up()
            await other.close()

    @promise(guarantee="backpressure", timeout=120)
    async def test_nothing_is_dropped_for_a_slow_reader(self, lab: TransportLab) -> None:
        """A peer that begins to read late gets every message in order, or a typed end."""
        client, server = await lab.pair()
        sender = Sender(client, 300)
        await lab.eventually(lambda: sender.stalled() or sender.done(), "the sender has got on")
        number = 0
        try:
            async with asyncio.timeout(3 * self.patience):
                while number < 300:
                    message = await server.recv()
                    got = message.header.get("Number")
                    assert got == str(number), f"message {number} was dropped: {got} came"
                    assert len(message.body) == PIECE
                    number += 1
        except StreamOverflow:
            pass
        except TimeoutError:
            raise AssertionError(f"message {number} of 300 has not come") from None
        finally:
            await sender.give_up()

    @promise(guarantee="backpressure", timeout=120)
    async def test_a_sender_that_waits_goes_on(self, lab: TransportLab) -> None:
        """A ``send`` that waits returns once the peer reads again."""
        client, server = await lab.pair()
        sender = Sender(client)
        await lab.eventually(sender.stalled, "the sender waits")
        before = sender.sent
        try:
            async with asyncio.timeout(self.patience):
                while sender.sent < before + 10:
                    await server.recv()
        except TimeoutError:
            raise AssertionError("the sender still waits, and all was read") from None
        finally:
            await sender.give_up()

    @promise(guarantee="backpressure")
    async def test_a_sender_that_waits_notices_the_end(self, lab: TransportLab) -> None:
        """A ``send`` that waits raises a typed error once either side has closed."""
        for closing in (0, 1):
            pair = await lab.pair()
            sender = Sender(pair[0])
            await lab.eventually(sender.stalled, "the sender waits")
            await lab.within(pair[closing].close(), "close returns")
            await lab.eventually(sender.done, "the sender has noticed the end")
            assert isinstance(sender.error(), MicroError), f"it got {sender.error()!r}"


class Sender:
    """Sends numbered pieces of 64 KiB as fast as it may."""

    def __init__(self, socket: Socket, count: int = MOST) -> None:
        self.sent = 0
        self._count = count
        self._seen = (-1, 0)
        self._task = asyncio.create_task(self._send(socket))

    async def _send(self, socket: Socket) -> None:
        while self.sent < self._count:
            await socket.send(Message({"Number": str(self.sent)}, bytes(PIECE)))
            self.sent += 1
            await asyncio.sleep(0)

    def stalled(self) -> bool:
        """Whether nothing was sent for twenty looks, or the socket has ended; see done()."""
        if self.done():
            assert isinstance(self.error(), MicroError), f"{self.sent} pieces were taken unread"
            return True
        sent, looks = self._seen
        self._seen = (self.sent, looks + 1 if sent == self.sent else 0)
        return self._seen[1] >= 20

    def done(self) -> bool:
        return self._task.done()

    def error(self) -> BaseException | None:
        return self._task.exception() if self.done() else None

    async def give_up(self) -> bool:
        """Cancel it; whether it has ended so."""
        self._task.cancel()
        await asyncio.wait([self._task])
        return self._task.cancelled()
