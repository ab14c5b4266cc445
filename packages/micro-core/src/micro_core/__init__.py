"""Go Micro for Python: services that are written once and run on the plugins you choose."""

from __future__ import annotations

from .broker.base import Broker as Broker
from .broker.subscription import Event as Event
from .client.client import Client as Client
from .client.health import ClientHealth as ClientHealth
from .client.options import CallOptions as CallOptions, options as options
from .client.stream import Stream as Stream
from .codec.base import Codec as Codec
from .component import Component as Component, Health as Health
from .context import Call as Call, current as current, detached as detached
from .errors import (
    BackendError as BackendError,
    BackendRefused as BackendRefused,
    BackendUnavailable as BackendUnavailable,
    BackendUnknown as BackendUnknown,
    BadRequest as BadRequest,
    CodecError as CodecError,
    Conflict as Conflict,
    DeadlineExceeded as DeadlineExceeded,
    Draining as Draining,
    EndpointNotFound as EndpointNotFound,
    Forbidden as Forbidden,
    InternalError as InternalError,
    InvalidName as InvalidName,
    MessageTooLarge as MessageTooLarge,
    MicroError as MicroError,
    NoNodes as NoNodes,
    NotFound as NotFound,
    NotSupported as NotSupported,
    OptionError as OptionError,
    PluginConflict as PluginConflict,
    PluginIncompatible as PluginIncompatible,
    PluginIncomplete as PluginIncomplete,
    PluginLoadError as PluginLoadError,
    PluginNotFound as PluginNotFound,
    PublishUnknown as PublishUnknown,
    ServiceNotFound as ServiceNotFound,
    SettingsError as SettingsError,
    SocketClosed as SocketClosed,
    StreamOverflow as StreamOverflow,
    TooLarge as TooLarge,
    TooManyRequests as TooManyRequests,
    Unauthorized as Unauthorized,
    Unavailable as Unavailable,
    Unroutable as Unroutable,
    UnsupportedMediaType as UnsupportedMediaType,
    WrongLoop as WrongLoop,
)
from .health import ServiceHealth as ServiceHealth
from .message import Message as Message
from .registry.base import Registry as Registry
from .registry.records import (
    Endpoint as Endpoint,
    Node as Node,
    RegistryEvent as RegistryEvent,
    ServiceInfo as ServiceInfo,
    Value as Value,
)
from .run import run as run
from .security import TLS as TLS, Secret as Secret
from .selector.base import Selector as Selector
from .server.endpoint import endpoint as endpoint
from .service import Service as Service
from .store.base import Record as Record, Store as Store
from .transport.base import Transport as Transport
from .wrapper.base import WrappedRequest as WrappedRequest, Wrapper as Wrapper
