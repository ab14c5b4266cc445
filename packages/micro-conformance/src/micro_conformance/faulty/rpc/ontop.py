"""Clients and servers that do not keep what they promise over every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Unpack

from micro_core import (
    BadRequest,
    Client,
    DeadlineExceeded,
    InternalError,
    MicroError,
    Unavailable,
    detached,
)
from micro_core.client.base import RpcRequest, RpcResponse, RpcStream
from micro_core.client.options import CallOptions
from micro_core.compose import Parts
from micro_core.message import Header, checked_header
from micro_core.server.server import Server

from ...mutants import mutant
from .base import Mucp


@mutant("test_a_plain_exception_says_nothing")
class TellsAll(Mucp):
    """The text of an exception travels."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            try:
                return await super().dispatch(request, stream)
            except InternalError as error:
                raise InternalError(repr(error.__cause__), id=error.id) from error


@mutant("test_unimplemented_service")
class AnswersForOthers(Mucp):
    """A server answers whatever service was asked for."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            return await super().dispatch(replace(request, service=self.name), stream)


@mutant("test_unimplemented_method")
class KnowsEveryEndpoint(Mucp):
    """An endpoint that is not there is a bad request."""

    class endpoints(Server):  # noqa: N801
        async def dispatch(self, request: RpcRequest, stream: RpcStream | None) -> RpcResponse:
            if request.endpoint not in self._bound:
                raise BadRequest(f"what is {request.endpoint}?", happened="no")
            return await super().dispatch(request, stream)


class Choosing(Client):
    """A client whose options a mutant may spoil."""

    async def call(self, service: str, endpoint: str, *values: Any, **options: Any) -> Any:
        return await super().call(service, endpoint, *values, **self.chosen(options))

    def chosen(self, options: dict[str, Any]) -> Any:
        return options


@mutant("test_metadata_cannot_break_the_request")
class CleansMetadata(Mucp):
    """Metadata that cannot be sent is left out."""

    class caller(Choosing):  # noqa: N801
        def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
            kept: dict[str, str] = {}
            for name, value in (metadata or {}).items():
                with suppress(MicroError):
                    kept.update(checked_header({name: value}))
            return super()._metadata(kept)


@mutant("test_metadata_does_not_steer_the_protocol")
class SendsAnyMetadata(Mucp):
    """Metadata may have the names of the protocol."""

    class caller(Choosing):  # noqa: N801
        def _metadata(self, metadata: Mapping[str, str] | None) -> Header:
            return super()._metadata(metadata) | checked_header(metadata or {})


@mutant("test_a_nested_call_has_what_is_left")
class ForgetsWhoAsked(Mucp):
    """A handler's calls know nothing of the call that it handles."""

    class caller(Choosing):  # noqa: N801
        async def call(self, *values: Any, **options: Any) -> Any:
            with detached():
                return await super().call(*values, **options)


@mutant("test_a_default_deadline")
class WaitsForEver(Mucp):
    """A call has no deadline by default."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"timeout": None, **options}


@mutant("test_timeout_on_sleeping_server", "test_a_call_may_wait_for_its_service")
class BlamesTheNode(Mucp):
    """A passed deadline is 503."""

    class caller(Choosing):  # noqa: N801
        async def call(self, *values: Any, **options: Unpack[CallOptions]) -> Any:
            try:
                return await super().call(*values, **options)
            except DeadlineExceeded as error:
                raise Unavailable("too late") from error


@mutant("test_what_may_have_run_is_not_repeated")
class RepeatsAnything(Mucp):
    """A call that failed with 503 is made again."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"retries": 1, **options}


@mutant("test_an_idempotent_call_is_repeated")
class RepeatsNothingThatRan(Mucp):
    """An idempotent call is not made again either."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {"retries": 0, **options}


@mutant("test_a_node_that_is_not_there_is_passed_over")
class TriesOneNode(Mucp):
    """A call that reached nobody is not made elsewhere."""

    class caller(Choosing):  # noqa: N801
        async def open(self, parts: Parts | None = None) -> None:
            await super().open(parts)
            self._attempts._again = lambda *_: None  # type: ignore[method-assign]


@mutant("test_a_failing_node_is_left_alone")
class Forgives(Mucp):
    """A node is called however often it has failed."""

    class caller(Choosing):  # noqa: N801
        async def open(self, parts: Parts | None = None) -> None:
            await super().open(parts)
            self._attempts.ejection.failed = lambda *_: None  # type: ignore[method-assign]


@mutant("test_a_call_may_wait_for_its_service")
class WaitsForNobody(Mucp):
    """A call does not wait for a service to appear."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "wait": False}


@mutant("test_a_call_may_ask_for_a_version")
class IgnoresVersions(Mucp):
    """A call goes to nodes of any version."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "version": None}


@mutant("test_a_call_may_ask_for_labels")
class IgnoresLabels(Mucp):
    """A call goes to nodes of any labels."""

    class caller(Choosing):  # noqa: N801
        def chosen(self, options: dict[str, Any]) -> Any:
            return {**options, "labels": None}


@mutant("test_calls_go_on_while_the_registry_is_away")
class AsksEachTime(Mucp):
    """Every call asks the registry first."""

    class caller(Choosing):  # noqa: N801
        async def call(self, service: str, *values: Any, **options: Any) -> Any:
            await self._opened().registry.get_service(service)
            return await super().call(service, *values, **options)
