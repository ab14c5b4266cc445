"""ZooKeeper sessions, one at a time: kept by kazoo's threads, used from the event loop."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from kazoo import exceptions as errors
from kazoo.client import KazooClient
from kazoo.protocol.states import KazooState, KeeperState

from micro_core.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
)
from micro_core.security import TLS, tls_remedy
from micro_core.timing import Signal

from .handler import Handler, end

IN_FLIGHT = 100  # kazoo blocks who asks for some 280 at once
RECONNECT = 1.0  # seconds that a request waits for a lost connection
RETRY = {"max_tries": -1, "delay": 0.05, "max_delay": 0.5}  # of connections, never of requests
ADDRESS = "start a ZooKeeper there or name another one: --registry_address"
RIGHTS = "give the user more rights or name another one: --registry_username, --registry_password"
REFUSALS = (errors.NoAuthError, errors.AuthFailedError, errors.InvalidACLError)
LOSSES = (errors.ConnectionLoss, errors.SessionExpiredError, errors.RequestTimeoutError)
ANSWERS = (errors.NoNodeError, errors.NodeExistsError, errors.BadVersionError)
Request = Callable[[Any], Any]
log = logging.getLogger("micro.registry.zookeeper")
_kazoo_log = logging.getLogger("micro.registry.zookeeper.kazoo")
# kazoo writes passwords below INFO, and each attempt at a connection above.
_kazoo_log.addFilter(lambda record: record.levelno >= logging.ERROR)


def failure(kind: type[BackendError], at: str, text: str) -> BackendError:
    return kind(f"registry zookeeper at {at}: {text}", plugin="zookeeper", address=at)


class Inbox(Signal):
    """The paths that changed in a folder since they were taken.

    lost: why some may be missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: BackendError | None = None
        self._paths: set[str] = set()

    def put(self, path: str) -> None:
        self._paths.add(path)
        self.set()

    def take(self) -> set[str]:
        taken, self._paths = self._paths, set[str]()
        return taken

    async def filled(self) -> None:
        """Wait for a path. Raises BackendError when the connection was lost."""
        await self.until(lambda: self._paths or self.lost)
        if self.lost is not None:
            raise self.lost


class Session:
    """To be made, opened and closed in one event loop.

    A client without a connection for the time of its session is replaced: it has lost what it
    held anyway, and one that has seen more than a server which lost its data is refused for ever.

    auth: ``user:password``, if any.
    told: is called in the loop when the connection is made (None) or lost.
    """

    def __init__(
        self,
        hosts: str,
        timeout: float,
        auth: str,
        tls: TLS | None,
        folder_of: Callable[[str], str],
        told: Callable[[BackendError | None], None],
    ) -> None:
        self._hosts = hosts
        self._timeout = timeout
        self._auth = [("digest", auth)] if auth else None
        self._tls = tls
        self._folder_of = folder_of
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._closing = set[asyncio.Future[None]]()
        self._changed = Signal()
        self._inboxes: dict[str, set[Inbox]] = {}
        self._live = self._closed = False
        self._error: Exception | None = None
        self._due = float("inf")
        self._start()

    def _start(self) -> None:
        self._handler = Handler(self._tls, partial(self._post, self._on_failure))
        self._handler.due = self._due
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.client: Any = KazooClient(
            self._hosts,
            timeout=self._timeout,
            handler=self._handler,
            auth_data=self._auth,
            connection_retry=dict(RETRY),
            logger=_kazoo_log,
        )
        self.client.add_listener(partial(self._post, self._on_state, self.client))
        self._giving_up = self._loop.call_later(self._timeout, self._replace)
        self.client.start_async()  # of a new client it only starts threads

    def _replace(self) -> None:
        log.info("no connection to ZooKeeper for %g s: a new session", self._timeout)
        self._retire()
        self._start()

    def _retire(self) -> None:
        self._giving_up.cancel()
        if not self._live:
            self._handler.cut()
        thread = ThreadPoolExecutor(1, "micro-zookeeper-end")  # its own: others may be busy
        ending = self._loop.run_in_executor(thread, end, self.client, self._handler)
        thread.shutdown(wait=False)
        self._closing.add(ending)
        ending.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Bounded, whatever the server does: what does not end is cut off."""
        self._retire()
        self._live, self._closed = False, True
        self._changed.set()
        await asyncio.wait(self._closing)

    # -- what kazoo's threads tell -----------------------------------------------------------

    def _post(self, tell: Callable[..., None], *what: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(tell, *what)

    def _on_failure(self, error: Exception) -> None:
        self._error = error
        self._changed.set()

    def _on_state(self, client: object, state: str) -> None:
        if client is not self.client or self._closed:
            return
        self._giving_up.cancel()
        before, self._live = self._live, state == KazooState.CONNECTED
        self._changed.set()
        if self._live:
            self._error = None
            self._told(None)
            return
        self._giving_up = self._loop.call_later(self._timeout, self._replace)
        if before:
            lost = self.unconnected()
            self._told(lost)
            for inbox in [inbox for found in self._inboxes.values() for inbox in found]:
                inbox.lost = lost
                inbox.set()

    def watch(self, event: Any) -> None:
        """To be given with requests; one for all, as kazoo keeps each until its path changes."""
        if event.path is not None:
            self._post(self._on_event, event.path)

    def _on_event(self, path: str) -> None:
        for inbox in self._inboxes.get(self._folder_of(path), ()):
            inbox.put(path)

    @contextmanager
    def inbox(self, folder: str) -> Generator[Inbox]:
        """Gets the events of ``folder`` and what is in it."""
        inbox, found = Inbox(), self._inboxes.setdefault(folder, set())
        found.add(inbox)
        try:
            yield inbox
        finally:
            found.discard(inbox)
            if not found and self._inboxes.get(folder) is found:
                del self._inboxes[folder]

    def must_act_by(self, due: float | None) -> None:
        """The session ends if the loop does not call this again by ``due`` and a second more."""
        self._due = self._handler.due = float("inf") if due is None else due

    # -- asking ------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """Of the session at hand; -1 without one, as 0 owns what is not ephemeral."""
        found = self.client.client_id
        return int(found[0] or -1) if found else -1

    async def connected(self, limit: float) -> Any:
        """Raises BackendRefused as soon as the server is known to be none of ours, and otherwise
        what it died of, when there is no connection within ``limit`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._changed.until(lambda: self._live or self._is_refused())
        if self._live:
            return self.client
        raise self.unconnected() from self._error

    def _is_refused(self) -> bool:
        refused = self.client.client_state == KeeperState.AUTH_FAILED
        return refused or isinstance(self._error, ssl.SSLCertVerificationError)

    def unconnected(self) -> BackendError:
        if self.client.client_state == KeeperState.AUTH_FAILED:
            return failure(BackendRefused, self._hosts, f"wrong credentials; {RIGHTS}")
        if isinstance(self._error, ssl.SSLError):
            return failure(BackendRefused, self._hosts, f"TLS: {tls_remedy(self._error)}")
        why = self._error or "the connection was lost"
        return failure(BackendUnavailable, self._hosts, f"no connection: {why}; {ADDRESS}")

    async def ask(self, request: Request) -> Any:
        """The answer's value. Raises BackendError, or one of ANSWERS."""
        [answer] = await self.ask_all([request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(self, requests: Iterable[Request]) -> Sequence[Any]:
        """A value, or one of ANSWERS, for each request; they are done in this order."""
        waiting = list[asyncio.Future[Any]]()
        try:
            for request in requests:
                waiting.append(await self._send(request))
            if waiting:
                await asyncio.wait(waiting)
            return [self._answer(future.result()) for future in waiting]
        finally:
            for future in waiting:
                future.cancel()

    async def _send(self, request: Request) -> asyncio.Future[Any]:
        """Nothing is sent without a connection: kazoo would keep it, and do it much later."""
        future: asyncio.Future[Any] = self._loop.create_future()
        slots = self._slots
        await slots.acquire()
        try:
            result = request(await self.connected(RECONNECT))
        except BaseException:
            slots.release()
            raise
        result.rawlink(partial(self._post, _settle, slots, future))
        return future

    def _answer(self, result: Any) -> Any:
        error = result.exception
        return result.value if error is None else self.known(error)

    def known(self, error: Any) -> Any:
        """One of ANSWERS as it is. Raises BackendError for any other."""
        if isinstance(error, ANSWERS):
            return error
        kind: type[BackendError] = BackendUnavailable
        text = str(error) or type(error).__name__
        if isinstance(error, REFUSALS):
            kind, text = BackendRefused, f"{text}; {RIGHTS}"
        elif isinstance(error, LOSSES) and not isinstance(error, errors.ConnectionClosedError):
            kind, text = BackendUnknown, "the connection was lost before the answer"
        raise failure(kind, self._hosts, text) from error


def _settle(slots: asyncio.Semaphore, future: asyncio.Future[Any], result: Any) -> None:
    """Only now: what nobody waits for any more still fills kazoo's queue."""
    slots.release()
    if not future.done():
        future.set_result(result)
