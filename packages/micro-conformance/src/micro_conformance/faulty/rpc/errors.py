"""Errors that arrive otherwise than they were raised."""

from __future__ import annotations

from micro_core import (
    BackendUnavailable,
    MicroError,
    Node,
    SocketClosed,
)
from micro_core.client.base import RpcRequest, RpcResponse
from micro_core.errors import error_for

from ...mutants import mutant
from .base import Answering, Asking, Mucp

ERRORS = "test_every_error_travels_whole"


@mutant(ERRORS, "test_status_code_and_message")
class LosesCodes(Mucp):
    """Every error arrives as 500."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            return MicroError(
                error.detail, id=error.id, status=error.status, happened=error.happened
            )


@mutant("test_an_error_of_an_unknown_code_travels")
class KnowsFewCodes(Mucp):
    """A code that has no class arrives as 500."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            if error_for(error.code) is MicroError:
                error.code = 500
            return error


@mutant(ERRORS, "test_a_plain_exception_says_nothing")
class LosesIds(Mucp):
    """Errors arrive without their ids."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.id = ""
            return error


@mutant("test_a_long_error_arrives")
class CutsDetails(Mucp):
    """The text of an error is cut after a hundred characters."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = error.detail[:100]
            return error


@mutant("test_a_special_status_message", "test_special_status_message")
class TidiesDetails(Mucp):
    """The blanks in an error's text are made one."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = " ".join(error.detail.split())
            return error


@mutant("test_status_code_and_message", "test_an_error_comes_after_the_messages")
class LosesDetails(Mucp):
    """Errors arrive with an empty text."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.detail = ""
            return error


@mutant("test_a_refusal_before_the_handler_says_so", "test_a_refused_call_is_repeated_elsewhere")
class LosesRefusals(Mucp):
    """Whoever is refused is told that his call has run."""

    class Server(Answering):
        def raised(self, error: MicroError) -> MicroError:
            error.happened = "yes"
            return error


@mutant("test_a_server_that_dies", "test_stopping_cancels_what_is_left")
class DeniesWhatMayHaveRun(Mucp):
    """A call that was cut off is said surely not to have run."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except SocketClosed as error:
                error.happened = "no"
                raise


@mutant("test_a_node_that_is_not_there", "test_a_server_that_died_stays_dead")
class DoubtsRefusedConnections(Mucp):
    """A call that reached nobody is said perhaps to have run."""

    class Client(Asking):
        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            try:
                return await super().calling(node, request)
            except BackendUnavailable as error:
                error.happened = "maybe"
                raise


@mutant("test_the_connection_survives_errors")
class RepeatsErrors(Mucp):
    """The error of one call is also the answer to the next."""

    class Client(Asking):
        last: MicroError | None = None

        async def calling(self, node: Node, request: RpcRequest) -> RpcResponse:
            last, self.last = self.last, None
            if last is not None and last.code == 409:
                raise last
            try:
                return await super().calling(node, request)
            except MicroError as error:
                self.last = error
                raise
