"""Services as a process: flags, signals, one line at the start and one at the stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import BackendError, OptionError, SettingsError
from .logs import configure, log, started_line

if TYPE_CHECKING:
    from .service import Service
    from .settings import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM)
IDENTITY = ("name", "id", "version", "address", "advertise", "metadata")


def run(*services: Service, argv: Sequence[str] | None = None) -> None:
    """Run ``services`` in one process until SIGTERM or SIGINT.

    With more than one service the flags and variables that name or place a single one
    (``--server_name``, ``_id``, ``_version``, ``_address``, ``_advertise``, ``_metadata``) are
    refused. Exits with 2 when a choice is wrong or a backend cannot be reached at the start.
    """
    code = _run(services, sys.argv[1:] if argv is None else argv)
    if code:
        sys.exit(code)


def _run(services: Sequence[Service], argv: Sequence[str]) -> int:
    from .settings import Settings, report

    settings = Settings.read(argv, os.environ)
    try:
        if settings.wants("help"):
            print(_help(services, settings))  # noqa: T201
            return 0
        configure(settings)
        if len(services) > 1:
            _refuse_identity(settings)
        _check(services, settings)
        with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
            return runner.run(_main(services, settings))
    except (SettingsError, BackendError) as error:
        return report(error, traceback=settings.wants("traceback"))


def _refuse_identity(settings: Settings) -> None:
    for name in IDENTITY:
        if source := settings.source(f"server_{name}"):
            raise OptionError(f"{source} is for one service, and this process runs several")


def _check(services: Sequence[Service], settings: Settings) -> None:
    """Refuse what no chosen plugin takes, before anything is opened."""
    from .compose import compose

    for service in services:
        compose(settings, service.code).make_server()
    settings.check()


def _help(services: Sequence[Service], settings: Settings) -> str:
    from .compose import DEFAULTS

    code = services[0].code
    chosen = {kind: code[kind] or name for kind, name in DEFAULTS.items()}
    return settings.help(chosen, prog=os.path.basename(sys.argv[0]))  # noqa: PTH119


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    choice = settings.core("loop")
    if choice == "asyncio":
        return None
    try:
        import uvloop
    except ImportError as error:
        if choice == "uvloop":
            raise OptionError("--loop uvloop: uvloop is not installed; take asyncio") from error
        return None
    return uvloop.new_event_loop


async def _main(services: Sequence[Service], settings: Settings) -> int:
    loop, signals = asyncio.get_running_loop(), asyncio.Queue[int]()
    for number in SIGNALS:
        loop.add_signal_handler(number, signals.put_nowait, number)
    started: list[Service] = []
    starting = asyncio.create_task(_start(services, settings, started))
    stopping = asyncio.create_task(signals.get())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
        await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        second = await _stop(started, signals)
        for number in SIGNALS:  # from now on a signal ends the process
            loop.remove_signal_handler(number)
    if second:
        _exit_now(128 + second)
    return 0


async def _start(services: Sequence[Service], settings: Settings, started: list[Service]) -> None:
    for service in services:
        await service.start(settings, alone=len(services) == 1)
        started.append(service)
        log.info(started_line(service))


async def _stop(services: Sequence[Service], signals: asyncio.Queue[int]) -> int:
    """Stop all side by side. A second signal cuts it short and is returned."""
    names = [service.running.info.name for service in services]
    stopping = [asyncio.create_task(service.stop()) for service in services]
    stopped = asyncio.gather(*stopping, return_exceptions=True)
    second = asyncio.create_task(signals.get())
    first: set[asyncio.Future[Any]] = {stopped, second}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for task in stopping if second.done() else ():
        task.cancel()
    results = await stopped
    if second.done():
        return second.result()
    second.cancel()
    for error in filter(None, results):
        raise error
    for name in names:
        log.info("%s stopped", name)
    return 0


def _exit_now(code: int) -> NoReturn:
    """Without waiting for the threads of handlers, as an ordinary exit would."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
