"""Endpoints come from annotations, and what cannot be one is refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from micro_core import endpoint
from micro_core.server.endpoint import EndpointPlan, plan_of, plans_of, wire_name


@dataclass
class Ask:
    name: str


@dataclass
class Answer:
    text: str


class Shapes:
    async def hello(self, request: Ask) -> Answer:
        return Answer(request.name)

    def blocking(self, request: Ask) -> Answer:
        return Answer(request.name)

    async def count(self, request: Ask) -> AsyncIterator[Answer]:
        yield Answer(request.name)

    async def total(self, numbers: AsyncIterator[Ask]) -> Answer:
        return Answer(str([n async for n in numbers]))

    async def talk(self, lines: AsyncIterator[Ask]) -> AsyncIterator[Answer]:
        async for line in lines:
            yield Answer(line.name)

    @endpoint(name="GetURL", idempotent=True, metadata={"auth": "none"})
    async def get_url(self, request: Ask) -> Answer:
        return Answer(request.name)

    async def _helper(self) -> None:
        raise AssertionError


def plans() -> dict[str, EndpointPlan]:
    return {plan.name: plan for plan in plans_of(Shapes())}


def test_every_public_method_is_an_endpoint_and_helpers_are_not() -> None:
    assert sorted(plans()) == [
        "Shapes.Blocking",
        "Shapes.Count",
        "Shapes.GetURL",
        "Shapes.Hello",
        "Shapes.Talk",
        "Shapes.Total",
    ]


@pytest.mark.parametrize(
    ("name", "streams_in", "streams_out"),
    [
        ("Shapes.Hello", False, False),
        ("Shapes.Count", False, True),
        ("Shapes.Total", True, False),
        ("Shapes.Talk", True, True),
    ],
)
def test_the_shape_is_read_from_the_annotations(
    name: str, streams_in: bool, streams_out: bool
) -> None:
    plan = plans()[name]
    assert (plan.streams_in, plan.streams_out) == (streams_in, streams_out)
    assert (plan.request, plan.response) == (Ask, Answer)


def test_the_registry_is_told_of_streams_idempotence_and_metadata() -> None:
    assert plans()["Shapes.Count"].record().metadata == {"stream": "true"}
    assert plans()["Shapes.GetURL"].record().metadata == {"auth": "none", "idempotent": "true"}


@pytest.mark.parametrize(
    ("python", "wire"), [("hello", "Hello"), ("get_url", "GetUrl"), ("getURL", "GetURL")]
)
def test_each_word_is_capitalised_and_nothing_else_changed(python: str, wire: str) -> None:
    assert wire_name(python) == wire


async def no_request() -> Answer: ...
async def two(request: Ask, other: Ask) -> Answer: ...
async def bare(request) -> Answer: ...  # type: ignore[no-untyped-def]
async def unsaid(request: Ask): ...  # type: ignore[no-untyped-def]
async def unknown(request: Nowhere) -> Answer: ...  # type: ignore[name-defined]  # noqa: F821
async def keyword(*, request: Ask) -> Answer: ...
async def yields_unsaid(request: Ask) -> Answer:
    yield Answer("")  # type: ignore[misc]


async def says_but_returns(request: Ask) -> AsyncIterator[Answer]: ...
def sync_stream(numbers: AsyncIterator[Ask]) -> Answer: ...


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (no_request, "exactly one parameter"),
        (two, "exactly one parameter"),
        (keyword, "exactly one parameter"),
        (bare, "annotate 'request'"),
        (unsaid, "annotate 'return'"),
        (unknown, "Nowhere"),
        (yields_unsaid, "AsyncIterator"),
        (says_but_returns, "AsyncIterator"),
        (sync_stream, "async def"),
    ],
)
def test_an_unusable_annotation_is_an_error_that_names_the_method(
    function: Any, remedy: str
) -> None:
    with pytest.raises(TypeError, match=remedy) as caught:
        plan_of(function, "Say.It")
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize("name", ["Hello", "A.B.C", ".B", "A.", ""])
def test_an_endpoint_name_has_exactly_one_dot(name: str) -> None:
    with pytest.raises(TypeError, match=r"Type\.Method"):
        plan_of(Shapes().hello, name)
