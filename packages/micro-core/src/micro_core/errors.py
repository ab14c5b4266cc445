"""Every error the core raises, as one tree.

MicroError                    what travels between services: id, code, detail, status
├── BadRequest 400
│   ├── CodecError            bytes that do not decode, a value that does not encode
│   └── InvalidName           a service, topic, endpoint or header name no backend could carry
├── Unauthorized 401
├── Forbidden 403
├── NotFound 404
│   ├── ServiceNotFound       no such service in the registry
│   └── EndpointNotFound      the service has no such endpoint
├── DeadlineExceeded 408      also a TimeoutError
├── Conflict 409
├── TooLarge 413
│   └── MessageTooLarge       refused before it was sent
├── UnsupportedMediaType 415
├── TooManyRequests 429
├── InternalError 500
│   └── WrongLoop             a component used outside the loop or process it connected in
├── NotSupported 501          an ability the plugin does not declare
└── Unavailable 503
    ├── NoNodes               known, but no usable node; says why each was left out
    ├── Draining              the node is stopping; no handler saw the request
    ├── SocketClosed          the peer ended the channel
    ├── StreamOverflow        the receiver fell too far behind and the channel was ended
    └── BackendError          plugin, address; a server behind a plugin failed
        ├── BackendUnavailable   surely not done
        ├── BackendUnknown       may have been done
        │   └── PublishUnknown   carries the message's id, so that it can be published again
        ├── BackendRefused       credentials, TLS, quota
        └── Unroutable           the broker knows nobody who would receive it

SettingsError                 a choice that cannot be carried out; exit code 2
├── PluginNotFound
├── PluginConflict
├── PluginLoadError
├── PluginIncompatible
├── PluginIncomplete
└── OptionError
"""

from __future__ import annotations

from typing import ClassVar, Literal

Happened = Literal["no", "maybe", "yes"]


class MicroError(Exception):
    """An error that travels whole from a handler to its caller.

    On the wire it is Go Micro's ``{"id", "code", "detail", "status"}``. ``happened`` is local
    knowledge about the failed operation and does not travel: ``no`` means that it surely did not
    run and may be repeated, ``maybe`` that nobody can tell, ``yes`` that it ran and failed.
    """

    code: int = 500
    happened: Happened = "yes"

    def __init__(
        self,
        detail: str = "",
        *,
        id: str = "",
        code: int | None = None,
        status: str | None = None,
        happened: Happened | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.id = id
        if code is not None:
            self.code = code
        self.status = status_text(self.code) if status is None else status
        if happened is not None:
            self.happened = happened

    def __str__(self) -> str:
        return self.detail or self.status

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detail!r}, id={self.id!r}, code={self.code})"


def status_text(code: int) -> str:
    """The reason phrase of an HTTP status, ``""`` for a code that has none."""
    from http import HTTPStatus

    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


class BadRequest(MicroError):
    code = 400


class CodecError(BadRequest):
    """Bytes that do not decode into the asked type, or a value that does not encode."""


class InvalidName(BadRequest):
    happened: Happened = "no"


class Unauthorized(MicroError):
    code = 401


class Forbidden(MicroError):
    code = 403


class NotFound(MicroError):
    code = 404


class ServiceNotFound(NotFound):
    happened: Happened = "no"


class EndpointNotFound(NotFound):
    happened: Happened = "no"


class DeadlineExceeded(MicroError, TimeoutError):
    code = 408
    happened: Happened = "maybe"


class Conflict(MicroError):
    code = 409


class TooLarge(MicroError):
    code = 413


class MessageTooLarge(TooLarge):
    happened: Happened = "no"


class UnsupportedMediaType(MicroError):
    code = 415


class TooManyRequests(MicroError):
    code = 429
    happened: Happened = "no"


class InternalError(MicroError):
    code = 500


class WrongLoop(InternalError):
    happened: Happened = "no"


class NotSupported(MicroError):
    code = 501
    happened: Happened = "no"


class Unavailable(MicroError):
    code = 503
    happened: Happened = "maybe"


class NoNodes(Unavailable):
    happened: Happened = "no"


class Draining(Unavailable):
    happened: Happened = "no"


class SocketClosed(Unavailable):
    pass


class StreamOverflow(Unavailable):
    pass


class BackendError(Unavailable):
    """A server behind a plugin failed.

    ``address`` never holds credentials; the failure underneath is the ``__cause__``.
    """

    def __init__(
        self,
        detail: str = "",
        *,
        plugin: str = "",
        address: str = "",
        happened: Happened | None = None,
    ) -> None:
        super().__init__(detail, happened=happened)
        self.plugin = plugin
        self.address = address


class BackendUnavailable(BackendError):
    happened: Happened = "no"


class BackendUnknown(BackendError):
    happened: Happened = "maybe"


class PublishUnknown(BackendUnknown):
    """``message_id`` lets the caller publish again in a way that consumers can deduplicate."""

    def __init__(
        self, detail: str = "", *, message_id: str = "", plugin: str = "", address: str = ""
    ) -> None:
        super().__init__(detail, plugin=plugin, address=address)
        self.message_id = message_id


class BackendRefused(BackendError):
    happened: Happened = "no"


class Unroutable(BackendError):
    happened: Happened = "no"


class SettingsError(Exception):
    """A plugin or an option that cannot be had as asked; the message names the remedy."""

    exit_code: ClassVar[int] = 2


class PluginNotFound(SettingsError):
    pass


class PluginConflict(SettingsError):
    pass


class PluginLoadError(SettingsError):
    pass


class PluginIncompatible(SettingsError):
    pass


class PluginIncomplete(SettingsError):
    pass


class OptionError(SettingsError):
    pass


_BY_CODE: dict[int, type[MicroError]] = {
    error.code: error
    for error in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        DeadlineExceeded,
        Conflict,
        TooLarge,
        UnsupportedMediaType,
        TooManyRequests,
        InternalError,
        NotSupported,
        Unavailable,
    )
}


def error_for(code: int) -> type[MicroError]:
    """The class that a received error of this code is raised as."""
    return _BY_CODE.get(code, MicroError)
