"""What all suites share: how a promise is tried, and what its outcome means."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from micro_core import NotSupported
from micro_core.plugin import Plugin

from .backend import Backend
from .lab import Lab
from .leaks import PATIENCE, Leaks
from .loops import run
from .promise import Promise
from .report import Report, Result, Verdict

P = TypeVar("P", bound=Plugin)
REPORT = pytest.StashKey[Report]()


class Suite(Generic[P]):
    """Subclass the suite of a kind, as ``class TestAcme(RegistrySuite)``, and write ``make``.

    server: name of the server the plugin needs; its address is ``MICRO_TEST_<SERVER>``, or what
        the fixture ``micro_backend`` gives. Empty: the plugin needs none.
    deviations: promises that the plugin breaks, each with the reason. They are tried all the
        same, and must fail.
    patience: seconds in which what must happen eventually has to.
    pause: seconds between two looks.
    jumping: time need not pass: everything happens in this process and in no thread.
    """

    kind: ClassVar[str]
    server: ClassVar[str] = ""
    deviations: ClassVar[Mapping[str, str]] = {}
    patience: ClassVar[float] = 10.0
    pause: ClassVar[float] = 0.01
    jumping: ClassVar[bool] = False

    @abstractmethod
    def make(self, address: str) -> P:
        """A plugin, not connected; called often. ``address`` is the server's ``host:port``, or a
        name that nobody else uses where there is no server."""

    def lab(self, backend: Backend | None, stack: AsyncExitStack) -> Lab[P]:
        return Lab(self, backend, stack)

    def subject(self, made: P) -> type[Plugin]:
        """The plugin that the report names."""
        return type(made)

    def _try(self, promise: Promise, backend: Backend | None, request: Any) -> None:
        """Raises what makes pytest report the verdict; notes it for the report before."""
        begin = time.monotonic()
        figures: dict[str, Any] = {}
        verdict: Verdict = "not run"
        note = ""
        error: BaseException | None = None
        try:
            verdict, note = self._judge(promise, backend, figures)
        except BaseException as raised:
            verdict, note, error = "broken", str(raised).partition("\n")[0], raised
            raise
        finally:
            if not isinstance(error, pytest.skip.Exception | KeyboardInterrupt):
                seconds = round(time.monotonic() - begin, 3)
                result = Result(promise.name, promise.sentence, verdict, seconds, note, figures)
                self._note(request.config, result)
        if verdict == "not run":
            pytest.skip(note)
        for name, value in figures.items():
            request.node.user_properties.append((name, value))

    def _judge(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> tuple[Verdict, str]:
        if promise.breaks and (backend is None or not backend.can_break):
            return "not run", "the server cannot be broken from here"
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
        except AssertionError as error:
            return "unclaimed", f"not kept this time: {error}".partition("\n")[0]
        return "unclaimed", "kept this time, and not promised"

    def _run(self, promise: Promise, backend: Backend | None, figures: dict[str, Any]) -> None:
        run(self._tried(promise, backend, figures), jumping=self.jumping and not promise.real)

    async def _tried(
        self, promise: Promise, backend: Backend | None, figures: dict[str, Any]
    ) -> None:
        leaks = Leaks()
        async with asyncio.timeout(promise.timeout), AsyncExitStack() as stack:
            lab = self.lab(backend, stack)
            lab.figures = figures
            await promise.body(self, lab)
        await leaks.check(0.1 if self.jumping and not promise.real else PATIENCE)

    def _note(self, config: pytest.Config, result: Result) -> None:
        plugin = self.subject(self.make("127.0.0.1:1" if self.server else "x"))
        distribution = plugin.__module__.partition(".")[0].replace("_", "-")
        report = config.stash.setdefault(REPORT, Report())
        report.add(f"{self.kind}:{plugin.name}", distribution, result)
