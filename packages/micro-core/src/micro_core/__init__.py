"""Go Micro for Python: services that are written once and run on the plugins you choose."""

from __future__ import annotations

from .broker.base import Broker
from .broker.subscription import Event
from .client.client import Client
from .client.health import ClientHealth
from .client.options import CallOptions, options
from .client.stream import Stream
from .codec.base import Codec
from .component import Component, Health
from .context import Call, current, detached
from .errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    BackendUnknown,
    BadRequest,
    CodecError,
    Conflict,
    DeadlineExceeded,
    Draining,
    EndpointNotFound,
    Forbidden,
    InternalError,
    InvalidName,
    MessageTooLarge,
    MicroError,
    NoNodes,
    NotFound,
    NotSupported,
    OptionError,
    PluginConflict,
    PluginIncompatible,
    PluginIncomplete,
    PluginLoadError,
    PluginNotFound,
    PublishUnknown,
    ServiceNotFound,
    SettingsError,
    SocketClosed,
    StreamOverflow,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unroutable,
    UnsupportedMediaType,
    WrongLoop,
)
from .health import ServiceHealth
from .message import Message
from .registry.base import Registry
from .registry.records import Endpoint, Node, RegistryEvent, ServiceInfo, Value
from .run import run
from .security import TLS, Secret
from .selector.base import Selector
from .server.endpoint import endpoint
from .service import Service
from .store.base import Record, Store
from .transport.base import Transport
from .wrapper.base import WrappedRequest, Wrapper

__all__ = [
    "TLS",
    "BackendError",
    "BackendRefused",
    "BackendUnavailable",
    "BackendUnknown",
    "BadRequest",
    "Broker",
    "Call",
    "CallOptions",
    "Client",
    "ClientHealth",
    "Codec",
    "CodecError",
    "Component",
    "Conflict",
    "DeadlineExceeded",
    "Draining",
    "Endpoint",
    "EndpointNotFound",
    "Event",
    "Forbidden",
    "Health",
    "InternalError",
    "InvalidName",
    "Message",
    "MessageTooLarge",
    "MicroError",
    "NoNodes",
    "Node",
    "NotFound",
    "NotSupported",
    "OptionError",
    "PluginConflict",
    "PluginIncompatible",
    "PluginIncomplete",
    "PluginLoadError",
    "PluginNotFound",
    "PublishUnknown",
    "Record",
    "Registry",
    "RegistryEvent",
    "Secret",
    "Selector",
    "Service",
    "ServiceHealth",
    "ServiceInfo",
    "ServiceNotFound",
    "SettingsError",
    "SocketClosed",
    "Store",
    "Stream",
    "StreamOverflow",
    "TooLarge",
    "TooManyRequests",
    "Transport",
    "Unauthorized",
    "Unavailable",
    "Unroutable",
    "UnsupportedMediaType",
    "Value",
    "WrappedRequest",
    "Wrapper",
    "WrongLoop",
    "current",
    "detached",
    "endpoint",
    "options",
    "run",
]
