"""Transports with one fault each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

from micro_core import BackendUnavailable, Message, MicroError, SocketClosed, WrongLoop
from micro_core.errors import InternalError
from micro_core.hub import hub
from micro_core.message import canonical
from micro_core.transport.base import Listener, Serve, Socket
from micro_core.transport.http import HttpTransport
from micro_core.transport.memory import MemorySocket, MemoryTransport

from ..mutants import mutant


class Wrapped(Socket):
    """A socket that does what the one within does, for the faults below."""

    def __init__(self, inner: Socket) -> None:
        self.inner = inner
        self.local = inner.local
        self.peer = inner.peer

    @property
    def closed(self) -> bool:
        return self.inner.closed

    async def send(self, message: Message) -> None:
        await self.inner.send(message)

    async def recv(self) -> Message:
        return await self.inner.recv()

    async def close(self) -> None:
        await self.inner.close()


class Wrapping(MemoryTransport):
    """Both ends of its sockets are of the class ``Broken``."""

    Broken: ClassVar[type[Wrapped]] = Wrapped

    async def _dial(self, address: str) -> Socket:
        return self.Broken(await super()._dial(address))

    async def _listen(self, address: str, serve: Serve) -> Listener:
        async def wrapped(socket: Socket) -> None:
            await serve(self.Broken(socket))

        return await super()._listen(address, wrapped)


# -- messages ------------------------------------------------------------------------------------


@mutant("test_a_message_arrives_whole")
class LosesTheContentType(Wrapping):
    """The header Content-Type does not travel."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {n: v for n, v in message.header.items() if n != "Content-Type"}
            await self.inner.send(Message(header, message.body))


@mutant("test_empty_messages_arrive")
class SkipsEmptyBodies(Wrapping):
    """A message without a body is not sent."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            if message.body:
                await self.inner.send(message)


@mutant("test_bodies_of_any_bytes_arrive")
class BodiesAreText(Wrapping):
    """A body goes through text, and what is not UTF-8 is replaced."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            body = message.body.decode(errors="replace").encode()
            await self.inner.send(Message(message.header, body))


@mutant("test_bodies_of_any_bytes_arrive")
class StripsBodies(Wrapping):
    """Blanks and line ends at the end of a body are lost."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            await self.inner.send(Message(message.header, message.body.rstrip(b"\r\n")))


@mutant("test_a_body_of_a_mebibyte_arrives")
class CutsLongBodies(Wrapping):
    """Only the first half MiB of a body is sent."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            long = (1 << 20) + 1 > len(message.body) > 1 << 19
            body = message.body[: 1 << 19] if long else message.body
            await self.inner.send(Message(message.header, body))


@mutant("test_header_names_have_no_case")
class KeepsSpellings(Wrapping):
    """Header names arrive in the spelling in which they were sent."""

    class Broken(Wrapped):
        spellings: ClassVar[dict[str, str]] = {}

        async def send(self, message: Message) -> None:
            await self.inner.send(message)
            self.spellings.update({canonical(name): name for name in message.header})

        async def recv(self) -> Message:
            message = await self.inner.recv()
            header = {self.spellings.get(n, n): v for n, v in message.header.items()}
            self.spellings.clear()
            return Message(header, message.body)


@mutant("test_header_values_are_any_text")
class HeadersAreLatin(Wrapping):
    """Header values are read as Latin-1 though they are UTF-8."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            message = await self.inner.recv()
            header = {n: v.encode().decode("latin-1") for n, v in message.header.items()}
            return Message(header, message.body)


@mutant("test_header_values_are_any_text")
class DropsEmptyValues(Wrapping):
    """A header field without a value is lost."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {name: value for name, value in message.header.items() if value}
            await self.inner.send(Message(header, message.body))


@mutant("test_many_headers_arrive")
class ThirtyHeaders(Wrapping):
    """Only the first thirty header fields are sent."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            await self.inner.send(Message(dict([*message.header.items()][:30]), message.body))


@mutant("test_messages_keep_their_order", "test_both_sides_may_talk_at_once")
class Overtakes(Wrapping):
    """The four hundredth message comes after the one that follows it."""

    class Broken(Wrapped):
        received = 0
        held: Message | None = None

        async def recv(self) -> Message:
            self.received += 1
            if self.held is not None:
                message, self.held = self.held, None
                return message
            message = await self.inner.recv()
            if self.received != 400:
                return message
            self.held = message
            return await self.inner.recv()


@mutant("test_messages_keep_their_order")
class SendsTwice(Wrapping):
    """The five hundredth message on a socket is sent again."""

    class Broken(Wrapped):
        sent = 0

        async def send(self, message: Message) -> None:
            self.sent += 1
            await self.inner.send(message)
            if self.sent == 500:
                await self.inner.send(message)


@mutant("test_directions_are_not_paired")
class AnswersOnly(Wrapping):
    """One question may be under way: a second is sent when the first has been answered."""

    class Broken(Wrapped):
        def __init__(self, inner: Socket) -> None:
            super().__init__(inner)
            self.answered = asyncio.Event()
            self.answered.set()

        async def send(self, message: Message) -> None:
            if message.body in (b"1", b"2", b"3", b"4") and not message.header:
                await self.answered.wait()
            await self.inner.send(message)
            self.answered.clear()

        async def recv(self) -> Message:
            message = await self.inner.recv()
            self.answered.set()
            return message

        async def close(self) -> None:
            self.answered.set()
            await super().close()


@mutant("test_the_sides_share_nothing")
class SharesHeaders(Wrapping):
    """Both sides have the same object as the header."""

    class Broken(Wrapped):
        shared: ClassVar[dict[str, dict[str, str]]] = {}

        async def send(self, message: Message) -> None:
            await self.inner.send(message)
            self.shared[str(sorted(message.header.items()))] = message.header

        async def recv(self) -> Message:
            message = await self.inner.recv()
            header = self.shared.pop(str(sorted(message.header.items())), message.header)
            self.shared.clear()
            return Message(header, message.body)


@mutant("test_sending_changes_no_message")
class StampsMessages(Wrapping):
    """A message that is sent gets another header field."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            message.header["Micro-Sent"] = "1"
            await self.inner.send(message)


@mutant("test_sockets_do_not_mix")
class SharesAnswers(Wrapping):
    """With a hundred sockets, answers come to whoever asks for one first."""

    class Broken(Wrapped):
        crowd: ClassVar[list[Message]] = []
        asked = 0

        async def recv(self) -> Message:
            self.asked += 1
            message = await self.inner.recv()
            if self.asked == 10 and not self.local.startswith("memory-client"):
                return message
            if self.asked == 10:
                self.crowd.append(message)
                return self.crowd.pop(0) if len(self.crowd) > 100 else message
            return message


# -- listeners -----------------------------------------------------------------------------------


@mutant("test_every_peer_is_served_by_itself")
class OneAfterTheOther(MemoryTransport):
    """A peer is served when the one before it has gone."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        gate = asyncio.Semaphore(9)

        async def one(socket: Socket) -> None:
            async with gate:
                await serve(socket)

        return await super()._listen(address, one)


class Guarded(MemoryTransport):
    """Does something about how ``serve`` ends."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        async def guarded(socket: Socket) -> None:
            try:
                await serve(socket)
            except Exception as error:
                await self.failed(socket, error)
                raise
            await self.returned(socket)

        return await super()._listen(address, guarded)

    async def returned(self, socket: Socket) -> None:
        pass

    async def failed(self, socket: Socket, error: Exception) -> None:
        pass


@mutant("test_a_serve_that_returns_ends_its_socket")
class StaysOpen(Guarded):
    """A ``serve`` that returns leaves its socket open."""

    async def returned(self, socket: Socket) -> None:
        while not socket.closed:
            await asyncio.sleep(1)


@mutant("test_a_serve_that_raises_ends_its_socket")
class TellsTheError(Guarded):
    """A ``serve`` that raises sends its peer the text of the error."""

    async def failed(self, socket: Socket, error: Exception) -> None:
        if not isinstance(error, MicroError):
            await socket.send(Message({}, str(error).encode()))


@mutant("test_a_serve_that_raises_ends_its_socket")
class DiesOfOne(Guarded):
    """A ``serve`` that raises closes its listener."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        self.made = await super()._listen(address, serve)
        return self.made

    async def failed(self, socket: Socket, error: Exception) -> None:
        if not isinstance(error, MicroError):
            await self.made.close()


class Listens(Listener):
    """A listener that does what the one within does."""

    def __init__(self, inner: Listener) -> None:
        self.inner = inner
        self.address = inner.address

    async def close(self) -> None:
        await self.inner.close()


class Listening(MemoryTransport):
    """Its listeners are of the class ``Broken``."""

    Broken: ClassVar[type[Listens]] = Listens

    async def _listen(self, address: str, serve: Serve) -> Listener:
        return self.Broken(await super()._listen(address, serve))


@mutant("test_closing_a_listener_ends_everything")
class AcceptsNoMore(Listening):
    """Closing a listener leaves the sockets it has as they are, until they are idle."""

    class Broken(Listens):
        async def close(self) -> None:
            inner: Any = self.inner
            if inner._listeners.get(self.address) is inner:
                del inner._listeners[self.address]
            asyncio.get_running_loop().call_later(15, self._end)

        def _end(self) -> None:
            inner: Any = self.inner
            inner._serving.cancel()
            for socket in inner._sockets:
                socket.leave()


@mutant("test_closing_a_listener_twice_is_like_once")
class ClosesOnce(Listening):
    """Closing a listener a third time is an error."""

    class Broken(Listens):
        closed = 0

        async def close(self) -> None:
            self.closed += 1
            if self.closed == 3:
                raise RuntimeError("is not open")
            await self.inner.close()


@mutant("test_an_address_can_be_used_again")
class KeepsItsAddress(MemoryTransport):
    """An address stays taken when its listener has closed."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        taken: set[str] = self._hub.__dict__.setdefault("taken", set())
        if address in taken:
            raise self._unavailable(address, "somebody has listened there")
        listener = await super()._listen(address, serve)
        taken.add(listener.address)
        return listener


@mutant("test_a_taken_address_is_refused")
class TakesOver(MemoryTransport):
    """Who listens on an address that is taken takes it over."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        self._hub.listeners.pop(address, None)
        return await super()._listen(address, serve)


@mutant("test_listeners_have_addresses_of_their_own")
class GivesAnAddressTwice(MemoryTransport):
    """The fifth listener gets the address of the fourth."""

    async def _listen(self, address: str, serve: Serve) -> Listener:
        listeners = self._hub.listeners
        if len(listeners) == 4 and address == "127.0.0.1:0":
            address = [*listeners][-1]
            del listeners[address]
        return await super()._listen(address, serve)


@mutant("test_both_ends_know_their_addresses")
class NoAddresses(Wrapping):
    """A socket does not say where its peer is."""

    class Broken(Wrapped):
        def __init__(self, inner: Socket) -> None:
            super().__init__(inner)
            self.peer = ""


@mutant(
    "test_a_frozen_peer_does_not_hold_up_the_listener",
    "test_a_stubborn_serve_does_not_hold_up_the_listener",
)
class WaitsForTasks(Listening):
    """Closing a listener waits for its ``serve`` tasks however long they take."""

    class Broken(Listens):
        async def close(self) -> None:
            inner: Any = self.inner
            tasks = set(inner._serving._tasks) - {asyncio.current_task()}
            full = any(other._full() for s in [*inner._sockets] if (other := s._other))
            await self.inner.close()
            if full:
                await asyncio.sleep(20)
            elif left := {task for task in tasks if not task.done()}:
                await asyncio.wait(left, timeout=20)


# -- ends ----------------------------------------------------------------------------------------


@mutant("test_a_waiting_reader_notices_the_end")
class NeverSaysGoodbye(Wrapping):
    """A peer that has closed is not noticed by who waits."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            try:
                return await self.inner.recv()
            except SocketClosed:
                if not isinstance(self.inner, MemorySocket) or "has closed" in self.inner._end:
                    await asyncio.sleep(30)
                raise


@mutant("test_closed_tells_that_the_peer_has_gone")
class AlwaysOpen(Wrapping):
    """``closed`` is only about this side."""

    class Broken(Wrapped):
        left = False

        @property
        def closed(self) -> bool:
            return self.left

        async def recv(self) -> Message:
            try:
                return await self.inner.recv()
            except (SocketClosed, asyncio.CancelledError):
                self.left = True
                raise

        async def send(self, message: Message) -> None:
            try:
                await self.inner.send(message)
            except (SocketClosed, asyncio.CancelledError):
                self.left = True
                raise

        async def close(self) -> None:
            self.left = True
            await self.inner.close()


@mutant("test_sending_to_nobody_is_noticed")
class SendsIntoTheVoid(Wrapping):
    """Sending to a peer that has gone looks as if it had worked."""

    class Broken(Wrapped):
        left = False

        async def send(self, message: Message) -> None:
            try:
                await self.inner.send(message)
            except SocketClosed:
                if self.left:
                    raise

        async def close(self) -> None:
            self.left = True
            await self.inner.close()


@mutant("test_what_was_sent_before_close_arrives")
class ForgetsAtClose(Wrapping):
    """What the peer has not read yet is lost when a socket is closed."""

    class Broken(Wrapped):
        async def close(self) -> None:
            if isinstance(self.inner, MemorySocket) and (other := self.inner._other):
                other._inbox.clear()
            await self.inner.close()


@mutant("test_close_wakes_who_waits")
class SleepsOn(Wrapping):
    """Closing a socket does not wake who waits for a message on the same side."""

    class Broken(Wrapped):
        left = False

        async def recv(self) -> Message:
            before = self.left
            try:
                return await self.inner.recv()
            except SocketClosed:
                if self.left and not before:
                    await asyncio.sleep(30)
                raise

        async def close(self) -> None:
            self.left = True
            await self.inner.close()


@mutant("test_closing_twice_is_like_once")
class ClosesTwice(Wrapping):
    """Closing a socket a fifth time is an error."""

    class Broken(Wrapped):
        closings = 0

        async def close(self) -> None:
            self.closings += 1
            if self.closings == 5:
                raise RuntimeError("is not open")
            await self.inner.close()


@mutant("test_a_closed_socket_refuses")
class SaysMaybe(Wrapping):
    """Sending on a socket that is closed may have happened, it says."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            try:
                await self.inner.send(message)
            except SocketClosed as error:
                raise SocketClosed(str(error), happened="maybe") from error


@mutant("test_a_closed_socket_refuses")
class RaisesItsOwn(Wrapping):
    """Reading from a socket that this side closed is a RuntimeError."""

    class Broken(Wrapped):
        left = False

        async def recv(self) -> Message:
            if self.left:
                raise RuntimeError("closed")
            return await self.inner.recv()

        async def close(self) -> None:
            self.left = True
            await self.inner.close()


class Shielded(Wrapped):
    """Keeps the ``recv`` of one who gave up for the next one."""

    def __init__(self, inner: Socket) -> None:
        super().__init__(inner)
        self.pending: asyncio.Future[Message] | None = None

    async def recv(self) -> Message:
        if self.pending is None:
            self.pending = asyncio.ensure_future(self.inner.recv())
        message = await asyncio.shield(self.pending)
        self.pending = None
        return message

    async def close(self) -> None:
        await self.inner.close()
        if self.pending is not None:
            with suppress(MicroError):
                await self.pending


@mutant("test_a_cancelled_recv_ends_the_socket", "test_answers_are_never_mixed_up")
class KeepsTheAnswer(Wrapping):
    """An answer that nobody waits for any more is for whoever asks next."""

    class Broken(Shielded):
        pass


@mutant("test_a_cancelled_recv_ends_the_socket")
class SwallowsCancellation(Wrapping):
    """A ``recv`` that is cancelled reports the end of the socket instead."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            try:
                return await self.inner.recv()
            except asyncio.CancelledError as error:
                raise SocketClosed("given up") from error


@mutant("test_a_cancelled_send_ends_the_socket")
class GivesUpSilently(Wrapping):
    """A ``send`` that is cancelled while it waits leaves the socket as it was."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            inner = self.inner
            while isinstance(inner, MemorySocket) and (other := inner._other) and other._full():
                await asyncio.sleep(0.01)
            await inner.send(message)


@mutant("test_dialling_nobody_is_unavailable", "test_odd_addresses_are_typed_errors")
class RaisesKeyError(MemoryTransport):
    """Dialling where nobody listens is a KeyError."""

    async def _dial(self, address: str) -> Socket:
        try:
            return await super()._dial(address)
        except BackendUnavailable:
            raise KeyError(address) from None


@mutant("test_dialling_nobody_is_unavailable")
class WaitsForSomebody(MemoryTransport):
    """Dialling where nobody listens waits for somebody to come."""

    async def _dial(self, address: str) -> Socket:
        if address not in self._hub.listeners:
            await asyncio.sleep(8)
        return await super()._dial(address)


@mutant("test_idle_sockets_live")
class EndsIdleSockets(Wrapping):
    """A socket on which nothing was said for a second is ended."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    return await self.inner.recv()
            raise SocketClosed("idle")


# -- flow ----------------------------------------------------------------------------------------


@mutant("test_a_peer_that_does_not_read_pauses_the_sender")
class Unbounded(Wrapping):
    """What nobody reads is kept without a bound."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            inner = self.inner
            if isinstance(inner, MemorySocket) and (other := inner._other) and other._full():
                other._inbox.append(message)
            else:
                await inner.send(message)


@mutant("test_nothing_is_dropped_for_a_slow_reader")
class DropsTheOldest(Wrapping):
    """Of what nobody reads the oldest message is dropped."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            inner = self.inner
            if isinstance(inner, MemorySocket) and (other := inner._other) and other._full():
                other._held -= len(other._inbox.popleft().body)
            await inner.send(message)


@mutant("test_a_sender_that_waits_goes_on")
class WaitsForever(Wrapping):
    """A ``send`` that had to wait goes on when the socket ends, not before."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            inner = self.inner
            if isinstance(inner, MemorySocket) and (other := inner._other) and other._full():
                while not inner.closed:
                    await self._look()
            await inner.send(message)

        async def _look(self) -> None:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                await self.inner.close()
                raise


@mutant("test_a_sender_that_waits_notices_the_end")
class WaitsForRoom(Wrapping):
    """A ``send`` that waits for room does not notice that there is nobody any more."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            inner = self.inner
            full = isinstance(inner, MemorySocket) and (other := inner._other) and other._full()
            try:
                await inner.send(message)
            except SocketClosed:
                if full:
                    await asyncio.sleep(30)
                raise


# -- limits --------------------------------------------------------------------------------------


@mutant("test_a_body_too_large_is_refused")
class NoLimit(MemoryTransport):
    """There is no limit to a body."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses, max_body=1 << 40)


@mutant("test_a_header_too_large_is_refused")
class CutsHeaders(Wrapping):
    """Header values are cut after 8 KiB."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {name: value[: 1 << 13] for name, value in message.header.items()}
            await self.inner.send(Message(header, message.body))


@mutant("test_header_values_cannot_inject")
class RemovesLineBreaks(Wrapping):
    """Line breaks in a header value are taken out in silence."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {n: "".join(v.split("\r\n")) for n, v in message.header.items()}
            await self.inner.send(Message(header, message.body))


@mutant("test_header_names_cannot_inject")
class MendsNames(Wrapping):
    """Header names that are no token are sent as something that is."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {n.strip().replace(":", "-"): v for n, v in message.header.items()}
            await self.inner.send(Message(header, message.body))


@mutant("test_reserved_headers_are_whole_or_refused")
class LosesReserved(Wrapping):
    """The header Connection is lost in silence."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            header = {n: v for n, v in message.header.items() if n != "Connection"}
            await self.inner.send(Message(header, message.body))


# -- components ----------------------------------------------------------------------------------


@mutant("test_constructing_does_nothing")
class ConnectsByItself(MemoryTransport):
    """Dialling connects a transport that is not connected."""

    async def dial(self, address: str) -> Socket:
        if self._home is None:
            self._hub = hub(type("Hub", (), {"listeners": {}, "numbers": iter(())}), "x")
            return await self._dial(address)
        return await super().dial(address)


@mutant("test_it_can_be_opened_again")
class ConnectsOnce(MemoryTransport):
    """A transport that was closed stays closed."""

    used = False

    async def _connect(self) -> None:
        if self.used:
            raise InternalError("was closed")
        self.used = True
        await super()._connect()


@mutant("test_closing_it_ends_what_it_opened")
class LeavesSocketsOpen(MemoryTransport):
    """Closing a transport leaves the sockets it dialled as they are."""

    async def _close(self) -> None:
        for opened in list(self._opened):
            if not isinstance(opened, MemorySocket):
                await opened.close()


@mutant("test_sockets_come_and_go")
class CountsSockets(MemoryTransport):
    """The hundred and fiftieth socket that one transport dials, one after the other, is refused."""

    dialled = 0

    async def _dial(self, address: str) -> Socket:
        self.dialled += 1
        if self.dialled == 150 and len(self._opened) < 10:
            raise self._unavailable(address, "too many")
        return await super()._dial(address)


@mutant("test_it_belongs_to_its_loop")
class AnyLoop(MemoryTransport):
    """A transport takes calls from every loop."""

    def _check_home(self) -> None:
        with suppress(WrongLoop):
            super()._check_home()


# -- real connections ----------------------------------------------------------------------------


class Http(HttpTransport):
    """Its dialled sockets are of the class ``Broken``."""

    Broken: ClassVar[type[Wrapped]] = Wrapped

    def __init__(self, *addresses: str) -> None:
        super().__init__()

    async def _dial(self, address: str) -> Socket:
        return self.Broken(await super()._dial(address))


@mutant("test_a_connection_cut_anywhere_is_a_typed_error", real=True)
class TakesHalves(Http):
    """What has come of a body when the connection ends is taken for all of it."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            try:
                return await self.inner.recv()
            except SocketClosed:
                inner: Any = self.inner
                if inner._header is None:
                    raise
                return Message(inner._header, b"".join(inner._parts))


@mutant("test_a_reset_is_noticed_by_both", "test_a_refused_connection_is_a_typed_error", real=True)
class RaisesOSErrors(Http):
    """A connection that is reset is told as the operating system tells it."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            try:
                return await self.inner.recv()
            except SocketClosed as error:
                raise ConnectionResetError(str(error)) from error


@mutant("test_slices_are_put_together", real=True)
class ReadsOnce(Http):
    """A message that does not come in one piece is an error."""

    class Broken(Wrapped):
        async def recv(self) -> Message:
            inner: Any = self.inner
            receiving: asyncio.Future[Message] = asyncio.ensure_future(inner.recv())
            while not receiving.done():
                await asyncio.sleep(0)
                if inner._size > 1000 and inner._segment < 300:
                    await inner.close()
            return await receiving


@mutant("test_a_frozen_peer_costs_no_more_than_patience", real=True)
class WaitsForTheAnswer(Http):
    """A socket is closed when the answer to the last question has come."""

    class Broken(Wrapped):
        async def send(self, message: Message) -> None:
            await self.inner.send(message)
            self.last = message.body

        async def close(self) -> None:
            if getattr(self, "last", b"") == b"2":
                await asyncio.sleep(6.5)
            await self.inner.close()
