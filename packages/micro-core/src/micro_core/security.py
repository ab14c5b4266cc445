"""TLS settings, secrets that do not print, addresses without credentials, bounded inflate."""

from __future__ import annotations

import logging
import os
import re
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

from .errors import OptionError, TooLarge

log = logging.getLogger("micro.tls")
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY_SECRET = re.compile(r"(?i)([?&](?:token|password|secret|key|auth)[^=&]*=)[^&\s]*")


class Secret:
    """A text that is shown as stars; ``reveal()`` where it is used."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def secret(value: str | Secret | None) -> Secret | None:
    return Secret(value) if isinstance(value, str) else value


def redact_url(url: str) -> str:
    """``amqp://user:pass@host/x?token=t`` as ``amqp://***@host/x?token=***``."""
    return _QUERY_SECRET.sub(r"\1***", _USERINFO.sub("***@", url))


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How to speak TLS, 1.2 or later. A server that is dialled is verified against ``ca``, or the
    system's store without one, and its name against ``server_name``, or what was dialled.

    A listener shows ``cert``, and with ``client_ca`` takes only clients that show one signed by
    that authority. A context reads the files when it is made; see :class:`FreshContext`.
    ``verify=False`` is for experiments only and is logged by whoever uses it.
    """

    ca: str | PathLike[str] | None = None
    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None
    verify: bool = True
    client_ca: str | PathLike[str] | None = None

    def client_context(self) -> ssl.SSLContext:
        """Raises OptionError naming the file that cannot be used."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT, self.ca)
        if self.ca is None:
            context.load_default_certs()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def server_context(self) -> ssl.SSLContext:
        """Raises OptionError without ``cert``, or naming the file that cannot be used."""
        if self.cert is None:
            raise OptionError("to listen with tls, give its cert, and its key if that is apart")
        context = self._context(ssl.PROTOCOL_TLS_SERVER, self.client_ca)
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _context(self, protocol: int, ca: str | PathLike[str] | None) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if ca is not None:
                context.load_verify_locations(ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(f"TLS files {ca}, {self.cert}, {self.key}: {error}") from error
        return context

    def stamp(self) -> object:
        """Differs once a file has been replaced."""
        return [_stamp(file) for file in (self.ca, self.cert, self.key, self.client_ca) if file]


def _stamp(file: str | PathLike[str]) -> object:
    try:
        found = os.stat(file)  # noqa: PTH116 - pathlib costs 4 ms of import
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class FreshContext(ssl.SSLContext):
    """Gives each connection the context of what the files hold then.

    While they cannot be used the context before goes on, which is logged.
    """

    _tls: TLS
    _make: Callable[[], ssl.SSLContext]
    _stamp: object
    _current: ssl.SSLContext

    def __new__(cls, tls: TLS, make: Callable[[], ssl.SSLContext]) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self._tls, self._make = tls, make
        self._stamp = tls.stamp()
        self._current = make()
        return self

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        stamp = self._tls.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._current = self._make()
            except OptionError as error:
                log.warning("%s; what was loaded before stays in use", error)
        return self._current.wrap_bio(*args, **options)


def tls_remedy(error: ssl.SSLError) -> str:
    """What ended a handshake, and what mends it."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"no TLS, or nothing in common with ours: {error.reason or error}"
    for codes, remedy in _REMEDIES.items():
        if error.verify_code in codes:
            return f"{error.verify_message}: {remedy}"
    return error.verify_message


_REMEDIES = {
    (9, 10): "renew the certificate of the peer, or mend a clock",
    (2, 18, 19, 20, 21): "give the authority that signed it as ca of tls",
    (62, 64): "dial a name that is in the certificate, or give that as server_name of tls",
}


def inflate(data: bytes, limit: int = 1 << 20) -> bytes:
    """One level of zlib, at most ``limit`` bytes out.

    Raises TooLarge for a longer result and ValueError for anything that is not one whole stream.
    """
    if limit < 1:
        raise TooLarge("nothing may be decompressed any more")  # zlib takes 0 for no limit
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"not a zlib stream: {error}") from error
    if stream.unconsumed_tail:
        raise TooLarge(f"more than {limit} bytes decompressed")
    if not stream.eof:
        raise ValueError("zlib stream is cut short")
    return text
