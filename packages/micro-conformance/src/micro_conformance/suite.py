"""What all suites share: how a promise is tried, and what its outcome means."""

from __future__ import annotations

import asyncio
import os
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar, Generic, TypeVar, cast

import pytest

from micro_core import MicroError, NotSupported
from micro_core.component import Component
from micro_core.plugin import Plugin
from micro_core.plugins import origin
from micro_core.settings import Settings

from .backend import Backend, ComposeBackend
from .lab import Lab
from .leaks import Leaks
from .loops import run
from .promise import Promise
from .report import Result, Verdict

P = TypeVar("P", bound=Plugin)
RESULT = pytest.StashKey[Result]()


class Suite(Generic[P]):
    """Subclass the suite of a kind, as ``class TestAcme(RegistrySuite)``, and write ``make``.

    server: name of the server the plugin needs, also of its service in compose files. Its address
        is ``MICRO_TEST_<SERVER>``. Empty: the plugin needs none.
    address: of that server, where code knows it.
    port: the server's port inside its container, for those that compose starts.
    variant: what is special here, where one plugin is tried in several ways; shown in the report.
    deviations: promises that the plugin breaks, each with the reason. They are tried all the
        same, and must fail.
    patience: seconds in which what must happen eventually has to.
    pause: seconds between two looks.
    jumping: time need not pass: everything happens in this process and in no thread.
    in_process: the plugin connects nothing but what is in one process, as do all that say so by
        ``reach = "process"``.
    """

    kind: ClassVar[str]
    server: ClassVar[str] = ""
    address: ClassVar[str] = ""
    port: ClassVar[int] = 0
    variant: ClassVar[str] = ""
    deviations: ClassVar[Mapping[str, str]] = {}
    patience: ClassVar[float] = 10.0
    pause: ClassVar[float] = 0.01
    jumping: ClassVar[bool] = False
    in_process: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Pytest collects whoever can make a plugin, whatever names the project's tests have."""
        super().__init_subclass__(**options)
        cls.__test__ = cls.make is not Suite.make  # type: ignore[attr-defined]

    @abstractmethod
    def make(self, address: str) -> P:
        """A plugin, not connected; called often. ``address`` is the server's ``host:port``, or a
        name that nobody else uses where there is no server."""

    @property
    def apart(self) -> bool:
        """Whether another process can make the plugin as this one does."""
        if self.in_process or self.jumping or "<locals>" in type(self).__qualname__:
            return False
        return getattr(self.make("127.0.0.1:1"), "reach", "network") != "process"

    def own(self) -> Backend | None:
        """A server for this class alone, not started: for the promises that break it, and for all
        where no address is given. ``None``: there is none.

        By default the service ``server`` of the compose files in ``MICRO_TEST_COMPOSE``.
        """
        files = os.environ.get("MICRO_TEST_COMPOSE", "")
        if not (files and self.server and self.port):
            return None
        return ComposeBackend(
            self.server, self.port, files=files.split(os.pathsep), ready=self.ready
        )

    async def ready(self, address: str) -> None:
        """Returns when the server answers the plugin, raises when it does not."""
        async with cast(AbstractAsyncContextManager[P], self.make(address)):
            pass

    async def backend_version(self, plugin: P) -> str:
        """What the server behind a connected plugin calls its version, ``""`` if unknown."""
        return ""

    def configured(self, plugin: type[P], address: str) -> P:
        """``make`` for a plugin that the command line names: options come from variables, and
        without an address that too."""
        elsewhere = f"MICRO_{plugin.kind.upper()}_ADDRESS"
        environ = {name: value for name, value in os.environ.items() if name != elsewhere}
        made = plugin(address) if address and issubclass(plugin, Component) else plugin
        return cast(P, Settings.read(None, environ).configure(plugin.kind, made))

    def identity(self) -> tuple[str, str]:
        """What is tried, as ``kind:name``, and the distribution and version it is of."""
        plugin = type(self.make("127.0.0.1:1"))
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.kind}:{plugin.name}{variant}", origin(plugin)

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> Lab[P]:
        return Lab(self, backend, stack)

    def _try(self, promise: Promise, backend: Backend | None, request: Any) -> None:
        """Raises what makes pytest report the verdict; notes it for the report before."""
        begin = time.monotonic()
        result = request.node.stash[RESULT] = Result(promise.name, promise.sentence, "broken")
        try:
            result.verdict, result.note = self._judge(promise, backend, result.figures)
        except pytest.skip.Exception as skip:
            result.verdict, result.note = "not run", str(skip)
            raise
        except BaseException as error:
            result.note = str(error).partition("\n")[0] or type(error).__name__
            raise
        finally:
            result.seconds = round(time.monotonic() - begin, 3)
            if promise.breaks and backend and result.verdict != "not run":
                # names are new in each promise, so what is left in the server harms nobody
                run(backend.wipe() if result.verdict == "broken" else backend.mend())
        if result.verdict == "not run":
            pytest.skip(result.note)
        for name, value in result.figures.items():
            request.node.user_properties.append((name, value))

    def _judge(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> tuple[Verdict, str]:
        if promise.breaks and (backend is None or not backend.can_break):
            where = "the server cannot be broken from here" if self.server else "it has no server"
            return "not run", where
        if promise.processes and not self.apart:
            return "not run", "no other process can make the plugin"
        reason = self.deviations.get(promise.name)
        if reason is not None:
            return self._deviates(promise, backend, figures, reason)
        features = getattr(self.make(backend.address if backend else "x"), "features", None)
        if promise.ability and not getattr(features, promise.ability):
            return self._unsupported(promise, backend, figures)
        if promise.guarantee and not getattr(features, promise.guarantee):
            return self._unclaimed(promise, backend, figures)
        self._run(promise, backend, figures)
        return "kept", ""

    def _deviates(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any], reason: str
    ) -> tuple[Verdict, str]:
        try:
            self._run(promise, backend, figures)
        except (Exception, pytest.fail.Exception):
            return "deviates", reason
        raise AssertionError(
            f"{promise.name} is kept after all: take it out of deviations ({reason})"
        )

    def _unsupported(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> tuple[Verdict, str]:
        try:
            self._run(promise, backend, figures)
        except NotSupported as error:
            return "unsupported", str(error)
        raise AssertionError(
            f"features do not declare {promise.ability!r}, and using it did not raise NotSupported"
        )

    def _unclaimed(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> tuple[Verdict, str]:
        try:
            self._run(promise, backend, figures)
        except (AssertionError, pytest.fail.Exception, MicroError) as error:
            return "unclaimed", f"not kept this time: {error}".partition("\n")[0]
        return "unclaimed", "kept this time, and not promised"

    def _run(self, promise: Promise, backend: Backend | None, figures: dict[str, Any]) -> None:
        run(self._tried(promise, backend, figures), jumping=self.jumping and not promise.real)

    async def _tried(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> None:
        leaks, limit = Leaks(), asyncio.timeout(promise.timeout)
        try:
            async with limit, AsyncExitStack() as stack:
                lab = self.lab(backend, stack)
                lab.figures = figures
                await promise.body(self, lab)
        except TimeoutError:
            if limit.expired():
                raise AssertionError(f"not done within {promise.timeout:g} s") from None
            raise
        await leaks.check()
