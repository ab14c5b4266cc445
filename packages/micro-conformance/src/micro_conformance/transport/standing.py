"""How a transport stands and falls as a component."""

from __future__ import annotations

import asyncio

import pytest

from micro_core import BackendUnavailable, Transport, WrongLoop

from ..promise import promise
from ..suite import Suite
from .lab import TransportLab, asked, echo


class StandingTransport(Suite[Transport]):
    @promise()
    async def test_constructing_does_nothing(self, lab: TransportLab) -> None:
        """A constructor opens nothing; dialling and listening unconnected is a clear error."""
        transport = lab.make()
        assert transport.health().state == "closed"
        with pytest.raises(BackendUnavailable, match="not connected"):
            await transport.dial("127.0.0.1:1")
        with pytest.raises(BackendUnavailable, match="not connected"):
            await transport.listen(lab.bind, echo)

    @promise()
    async def test_it_can_be_opened_again(self, lab: TransportLab) -> None:
        """A transport that was closed, be it twice, can be connected and used again."""
        transport = lab.make()
        for _ in range(3):
            await transport.connect()
            await transport.connect()
            listener = await transport.listen(lab.bind, echo)
            socket = await transport.dial(listener.address)
            assert await asked(socket, b"1") == b"1"
            await transport.close()
            await transport.close()
        assert transport.health().state == "closed"

    @promise()
    async def test_closing_it_ends_what_it_opened(self, lab: TransportLab) -> None:
        """Closing a transport ends the sockets it dialled and the listeners it opened."""
        listener = await lab.listen(echo)
        transport = lab.make()
        async with transport:
            own = await transport.listen(lab.bind, echo)
            peer = await lab.dial(own)
            sockets = [await transport.dial(listener.address) for _ in range(3)]
            for socket in (peer, *sockets):
                assert await asked(socket, b"1") == b"1"
        assert [socket.closed for socket in sockets] == [True, True, True]
        if lab.features.peer_end_noticed:
            assert await lab.ends(peer) == []
        with pytest.raises(BackendUnavailable):
            await transport.dial(listener.address)

    @promise()
    async def test_sockets_come_and_go(self, lab: TransportLab) -> None:
        """Two hundred sockets opened, used and closed leave nothing behind."""
        listener = await lab.listen(echo)
        transport = await lab.new()
        for number in range(200):
            socket = await transport.dial(listener.address)
            assert await asked(socket, b"%d" % number) == b"%d" % number
            await socket.close()

    @promise(real=True)
    async def test_it_belongs_to_its_loop(self, lab: TransportLab) -> None:
        """Use from another event loop is refused with WrongLoop."""
        transport = await lab.new()

        def elsewhere() -> None:
            for use in (transport.dial("127.0.0.1:1"), transport.listen(lab.bind, echo)):
                with pytest.raises(WrongLoop):
                    asyncio.run(use)

        await asyncio.to_thread(elsewhere)
