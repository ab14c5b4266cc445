"""The dialling side of an HTTP/1.1 connection."""

from __future__ import annotations

from functools import partial
from typing import Any

import httptools

from ..errors import error_for, status_text
from .http_socket import HttpOptions, HttpSocket, Reason, Refused

_SHOWN = 200  # characters of a refusal's text


class ClientSocket(HttpSocket):
    """Messages go out as POST and come in as 200; any other status ends the socket.

    ``Connection: close`` in an answer is left to whoever reads the message.
    """

    def __init__(self, address: str, options: HttpOptions) -> None:
        self.peer = address
        super().__init__(options, "")
        self.aim("/")

    def aim(self, target: str) -> None:
        """The path and query of what is sent from now on; the caller quotes."""
        self._start = f"POST {target} HTTP/1.1\r\nHost: {self.peer}\r\n"

    def _new_parser(self) -> httptools.HttpResponseParser:
        self.on_status: Any = self._line.append
        parser = self._parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(lenient_keep_alive=True)
        return parser

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        del self._parser  # the two hold each other

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._header = self._take_head()

    def _other_status(self, body: bytes) -> None:
        if self._status >= 200:
            raise Answered(self._status, body)

    def _peer_left(self) -> Reason:
        if self._header is not None and self._status != 200:
            return Answered(self._status, b"".join(self._parts)).reason(self.peer)
        return super()._peer_left()

    def refuse(self, refused: Refused) -> None:
        self.end(refused.reason(self.peer))

    def unproven(self) -> bool:
        """Whether a server of TLS 1.3 has yet to say that it takes this connection."""
        tls = self._transport.get_extra_info("ssl_object")
        session = tls.session
        return not (self.closed or tls.version() != "TLSv1.3" or (session and session.has_ticket))


class Answered(Refused):
    """The peer has answered with an error instead of a message."""

    def __init__(self, status: int, body: bytes) -> None:
        text = bytes(body[: 4 * _SHOWN]).decode(errors="replace")
        shown = " ".join(text.split())[:_SHOWN]
        super().__init__(status, f"answered {status} {status_text(status)}: {shown}")

    def reason(self, peer: str) -> Reason:
        surely_not = 400 <= self.status < 500
        return partial(
            error_for(self.status),
            f"{peer} {self}",
            code=self.status,
            happened="no" if surely_not else "maybe",
        )
