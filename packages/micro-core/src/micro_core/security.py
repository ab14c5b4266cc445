"""TLS settings, secrets that do not print, addresses without credentials, bounded inflate."""

from __future__ import annotations

import re
import ssl
import zlib
from dataclasses import dataclass
from os import PathLike

from .errors import OptionError, TooLarge

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
    """How to speak TLS. The peer is verified against ``ca``, or the system's store without one.

    Files are read anew for each context, so a certificate replaced on disk is used by the next
    connection. ``verify=False`` is for experiments only and is logged by whoever uses it.
    """

    ca: str | PathLike[str] | None = None
    cert: str | PathLike[str] | None = None
    key: str | PathLike[str] | None = None
    server_name: str | None = None
    verify: bool = True

    def client_context(self) -> ssl.SSLContext:
        """Raises OptionError naming the file that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            self._load_chain(context)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(f"TLS files {self.ca}, {self.cert}, {self.key}: {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _load_chain(self, context: ssl.SSLContext) -> None:
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)


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
