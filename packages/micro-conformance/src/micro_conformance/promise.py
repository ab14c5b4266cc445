"""A promise: one sentence that a user would understand, and the coroutine that tries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import Backend
    from .suite import Suite

Body = Callable[[Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a test tries, and when its failing is one.

    ability: a feature without which the operation must raise NotSupported.
    guarantee: a feature without which the test only reports its figures.
    breaks: the test breaks its server, and is not run where that cannot be done.
    real: the test uses threads, so that time must not jump.
    processes: the test makes the plugin in processes of its own, and is not run where that cannot
        be done; see ``apart`` of :class:`Suite`.
    timeout: seconds of the loop's clock in which it has to end.
    """

    name: str
    sentence: str
    body: Callable[..., Awaitable[None]]
    ability: str = ""
    guarantee: str = ""
    breaks: bool = False
    real: bool = False
    processes: bool = False
    timeout: float = 60.0


def promise(
    *,
    ability: str = "",
    guarantee: str = "",
    breaks: bool = False,
    real: bool = False,
    processes: bool = False,
    timeout: float = 60.0,
) -> Callable[[Body], Callable[..., None]]:
    """Make a coroutine method of a suite, which takes its lab, a test that pytest runs.

    Its docstring is the promise. The test needs no asyncio plugin: it runs in a loop of its own.
    """

    def decorate(body: Body) -> Callable[..., None]:
        made = Promise(
            name=body.__name__,
            sentence=_sentence(body),
            body=body,
            ability=ability,
            guarantee=guarantee,
            breaks=breaks,
            real=real or processes,
            processes=processes,
            timeout=timeout,
        )

        test = _breaking(made) if breaks else _using(made)
        test.__name__, test.__qualname__ = body.__name__, body.__qualname__
        test.__doc__, test.__module__ = body.__doc__, body.__module__
        test.promise = made  # type: ignore[attr-defined]
        test.__test__ = True  # type: ignore[attr-defined] # whatever python_functions says
        return test

    return decorate


def _using(made: Promise) -> Callable[..., None]:
    def test(self: Suite[Any], micro_backend: Backend | None, request: Any) -> None:
        self._try(made, micro_backend, request)

    return test


def _breaking(made: Promise) -> Callable[..., None]:
    def test(self: Suite[Any], micro_own_backend: Backend | None, request: Any) -> None:
        self._try(made, micro_own_backend, request)

    return test


def _sentence(body: Callable[..., Any]) -> str:
    text = " ".join((body.__doc__ or "").split())
    if not text.endswith("."):
        raise TypeError(f"{body.__qualname__}: its docstring is the promise, one sentence")
    return text


def promises_of(suite: type[Suite[Any]]) -> list[Promise]:
    """All promises of a suite, by name."""
    found = (getattr(getattr(suite, name), "promise", None) for name in sorted(dir(suite)))
    return [one for one in found if isinstance(one, Promise)]
