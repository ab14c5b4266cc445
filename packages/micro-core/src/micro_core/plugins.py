"""Plugins by name: what is installed, and the class behind a chosen name.

Only the class that is asked for is imported; listing imports nothing. A name is asked for by a
flag, a variable or a text in code: then every installed distribution has a say, and a name that
two of them claim is a PluginConflict even if one of them is micro-core. Where nobody asked, the
core takes its own default without looking at what else is installed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from operator import eq, ge, gt, le, lt, ne
from typing import NamedTuple, TypeVar, cast

from .errors import (
    PluginConflict,
    PluginIncompatible,
    PluginIncomplete,
    PluginLoadError,
    PluginNotFound,
)
from .flags import nearest
from .optiontypes import shown
from .plugin import Plugin

P = TypeVar("P", bound=type[Plugin])
log = logging.getLogger("micro.plugins")

PIP = "pip install --find-links dist {what}"
CORE = "micro-core"
KINDS = ("registry", "broker", "transport", "codec", "selector", "store", "client", "server")

# The entry points of micro-core itself, so that a default needs no look at the installation.
BUILTIN: dict[tuple[str, str], str] = {
    ("registry", "memory"): "micro_core.registry.memory:MemoryRegistry",
    ("registry", "local"): "micro_core.registry.local:LocalRegistry",
    ("broker", "memory"): "micro_core.broker.memory:MemoryBroker",
    ("broker", "http"): "micro_core.broker.http:HttpBroker",
    ("transport", "memory"): "micro_core.transport.memory:MemoryTransport",
    ("transport", "http"): "micro_core.transport.http:HttpTransport",
    ("codec", "json"): "micro_core.codec.json:JsonCodec",
    ("codec", "bytes"): "micro_core.codec.bytes:BytesCodec",
    ("codec", "protobuf"): "micro_core.codec.protobuf:ProtobufCodec",
    ("store", "memory"): "micro_core.store.memory:MemoryStore",
    ("store", "sqlite"): "micro_core.store.sqlite:SqliteStore",
    ("selector", "p2c"): "micro_core.selector.p2c:P2CSelector",
    ("selector", "random"): "micro_core.selector.random:RandomSelector",
    ("selector", "roundrobin"): "micro_core.selector.roundrobin:RoundRobinSelector",
    ("client", "mucp"): "micro_core.client.mucp:MucpClient",
    ("server", "mucp"): "micro_core.server.mucp:MucpServer",
}

# Libraries that are not required and that one of the above works with: (module, distribution).
NEEDS: dict[tuple[str, str], tuple[str, str]] = {
    ("codec", "protobuf"): ("google.protobuf", "protobuf"),
}

# Our plugins in other distributions, to say what is missing: (distribution, what it speaks to).
ELSEWHERE: dict[tuple[str, str], tuple[str, str]] = {
    ("registry", "consul"): ("micro-registry-consul", "Consul, through its HTTP API"),
    ("registry", "etcd"): ("micro-registry-etcd", "etcd v3"),
    ("registry", "etcdv3"): ("micro-registry-etcd", "etcd v3"),
    ("registry", "zookeeper"): ("micro-registry-zookeeper", "ZooKeeper"),
    ("registry", "nats"): ("micro-registry-nats", "a registry without a server, over NATS"),
    ("registry", "mdns"): ("micro-registry-mdns", "multicast DNS, the default of Go Micro"),
    ("broker", "kafka"): ("micro-broker-kafka", "Kafka"),
    ("broker", "confluent"): ("micro-broker-confluent", "Kafka, through librdkafka"),
    ("broker", "rabbitmq"): ("micro-broker-rabbitmq", "RabbitMQ"),
    ("broker", "nats"): ("micro-broker-nats", "NATS"),
    ("broker", "jetstream"): ("micro-broker-nats", "NATS JetStream"),
    ("broker", "redis"): ("micro-broker-redis", "Redis streams"),
    ("broker", "redis-pubsub"): ("micro-broker-redis", "Redis publish/subscribe"),
    ("broker", "mqtt"): ("micro-broker-mqtt", "MQTT"),
    ("transport", "rabbitmq"): ("micro-transport-rabbitmq", "RabbitMQ"),
    ("transport", "nats"): ("micro-transport-nats", "NATS"),
    ("client", "grpc"): ("micro-grpc", "gRPC"),
    ("server", "grpc"): ("micro-grpc", "gRPC"),
}

_LISTED = 20


class Installed(NamedTuple):
    """One entry point. ``misfit`` is what its distribution requires of micro-core in vain."""

    kind: str
    name: str
    value: str
    dist: str
    version: str
    misfit: str = ""

    @property
    def origin(self) -> str:
        return f"{self.dist} {self.version}".strip()

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.origin}"


_registered: dict[tuple[str, str], type[Plugin]] = {}


def pip_line(*what: str) -> str:
    """The command that installs ``what``: the only place where one is written."""
    return PIP.format(what=" ".join(what))


# -- what is installed -----------------------------------------------------------------------


def installed(kind: str | None = None) -> list[Installed]:
    """All entry points of a kind, or of every kind, and what code registered; imports nothing.

    The distributions are read once in a process, see :func:`refresh`.
    """
    in_code = [Installed(*key, "", "in code", "") for key in _registered]
    return [one for one in _installed() + in_code if kind in (None, one.kind)]


@cache
def _installed() -> list[Installed]:
    own = [Installed(*key, value, CORE, core_version()) for key, value in BUILTIN.items()]
    return sorted({*own, *_scan()}, key=lambda one: (KINDS.index(one.kind), one.name, one.dist))


refresh = _installed.cache_clear  # the next question looks again


def names(kind: str) -> list[str]:
    """The sorted names that :func:`load` knows of a kind."""
    return sorted({one.name for one in installed(kind)})


def core_version() -> str:
    """The version of micro-core, ``""`` where it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(CORE)
    except PackageNotFoundError:
        return ""


def origin(cls: type[Plugin]) -> str:
    """The distribution and its version that a class comes from, ``"in code"`` when from none."""
    package = cls.__module__.partition(".")[0]
    if package == __package__:
        return f"{CORE} {core_version()}".strip()
    found = (one.origin for one in installed() if re.match(rf"{package}\b", one.value))
    return next(found, "in code")


def _scan() -> Iterator[Installed]:
    from importlib.metadata import distribution, distributions

    for found in distributions():
        name = "a distribution without a name"
        try:
            if "[micro." not in (found.read_text("entry_points.txt") or ""):
                continue
            name = _normalized(found.metadata["Name"])
            dist = distribution(name)  # of several on the path the first is imported
            misfit = _misfit(dist.requires or (), core_version())
            for entry in list(dist.entry_points):
                prefix, _, kind = entry.group.partition(".")
                if prefix == "micro" and kind in KINDS and name != CORE:
                    yield Installed(kind, entry.name, entry.value, name, dist.version, misfit)
        except Exception as error:
            log.warning("the plugins of %s are left out, its metadata is broken: %s", name, error)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- by name ---------------------------------------------------------------------------------


def load(kind: str, name: str) -> type[Plugin]:
    """The class of the plugin that is called ``name``, or ``distribution:name``.

    Raises PluginNotFound, PluginConflict, PluginIncompatible, PluginLoadError or
    PluginIncomplete, each naming what mends it.
    """
    return _registered.get((kind, name)) or _class_of(find(kind, name))


def load_default(kind: str, name: str) -> type[Plugin]:
    """Like :func:`load`, for a name that nobody asked for: the core's own plugin comes first."""
    if (kind, name) in _registered or (kind, name) not in BUILTIN:
        return load(kind, name)
    return _class_of(Installed(kind, name, BUILTIN[kind, name], CORE, ""))


def find(kind: str, name: str) -> Installed:
    """The entry point that ``name`` or ``distribution:name`` stands for; imports nothing."""
    if kind not in KINDS:
        raise PluginNotFound(f"no kind {shown(kind)}: there are {', '.join(KINDS)}")
    dist, _, plain = name.rpartition(":")
    claims = [one for one in installed(kind) if one.name == plain]
    found = {one.value: one for one in claims if not dist or _normalized(dist) == one.dist}
    if not found:
        raise PluginNotFound("\n".join(_missing(kind, dist, plain)))
    if len(found) > 1:
        which = "\n".join(f"{one.origin}: --{kind} {one.dist}:{plain}" for one in found.values())
        raise PluginConflict(
            f"{len(found)} distributions have a {kind} {plain}\n{which}\n"
            f"Say which one, there, in MICRO_{kind.upper()} or in code; or uninstall the other."
        )
    return next(iter(found.values()))


def lacking(kind: str, name: str) -> str:
    """The distribution without which a plugin of the core does not work, ``""`` if it does."""
    from importlib.util import find_spec

    module, dist = NEEDS.get((kind, name), ("", ""))
    try:
        return "" if not module or find_spec(module) else dist
    except ImportError:  # not even its parent package
        return dist


def _class_of(entry: Installed) -> type[Plugin]:
    if entry.dist == CORE and (needs := lacking(entry.kind, entry.name)):
        raise PluginLoadError(
            f"{entry} needs {needs}, which is not installed\nInstall it:\n{pip_line(needs)}"
        )
    if entry.misfit:
        raise PluginIncompatible(
            f"{entry} needs {entry.misfit}, and this is {CORE} {core_version()}\n"
            f"Install versions that fit:\n{pip_line('--upgrade', CORE, entry.dist)}"
        )
    module, _, path = entry.value.partition("[")[0].strip().partition(":")
    try:
        found: object = import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginLoadError(
            f"{entry} cannot be imported from {entry.value}\n{text[:300]}\n"
            f"Install it again, with what it needs:\n{pip_line('--force-reinstall', entry.dist)}"
        ) from error
    return complete(entry.kind, found, str(entry))


def base(kind: str) -> type[Plugin]:
    """The interface of a kind."""
    name = f"Rpc{kind.title()}" if kind in ("client", "server") else kind.title()
    return cast("type[Plugin]", getattr(import_module(f".{kind}.base", __package__), name))


def complete(kind: str, found: object, label: str) -> type[Plugin]:
    """``found`` when it is a class of ``kind`` with nothing left to implement.

    Raises PluginIncomplete.
    """
    interface = base(kind)
    if not isinstance(found, type):
        fault = f"is a {type(found).__name__}, not a class"
    elif not issubclass(found, interface):
        path = f"{interface.__module__}:{interface.__name__}"
        fault = f"is class {found.__qualname__}, which is no subclass of {path}"
    elif missing := sorted(cast("frozenset[str]", getattr(found, "__abstractmethods__", ()))):
        fault = f"does not implement {', '.join(missing)}"
    elif not isinstance(getattr(found, "name", None), str):
        fault = "has no class attribute 'name'"
    else:
        return found
    raise PluginIncomplete(
        f"{label} {fault}\nIts author must mend this; another version may be complete.\n"
        f"{_installed_line(kind)}"
    )


# -- in code ---------------------------------------------------------------------------------


def register(kind: str, name: str, cls: type[Plugin]) -> None:
    """Make ``cls`` the plugin ``name`` in this process, whatever is installed under that name."""
    _registered[kind, name] = complete(kind, cls, f"{kind} {name}, registered in code,")


@contextmanager
def registered(kind: str, name: str, cls: P) -> Generator[P, None, None]:
    """:func:`register` for the time of a ``with`` block."""
    before = _registered.copy()
    register(kind, name, cls)
    try:
        yield cls
    finally:
        _registered.clear()
        _registered.update(before)


# -- what to say -----------------------------------------------------------------------------


def _missing(kind: str, dist: str, name: str) -> Iterator[str]:
    yield f"no {kind} {shown(name)}{' of ' + shown(dist) if dist else ''} is installed"
    known = names(kind)
    near = nearest(name, [*known, *(plain for of, plain in ELSEWHERE if of == kind)])
    others = [of for of in KINDS if name in names(of) or (of, name) in ELSEWHERE]
    if name in known:
        yield f"Without the distribution: --{kind} {name}"
    elif near:
        if near != name:
            yield f"Did you mean {near}?"
        if near not in known:
            what, speaks = ELSEWHERE[kind, near]
            yield f"{near} ({speaks}) is in {what}, which is not installed:\n{pip_line(what)}"
    elif others:
        yield f"{name} is a {' and a '.join(others)}, not a {kind}."
    yield _installed_line(kind)


def _installed_line(kind: str) -> str:
    found = [f"{one.name} ({one.origin})" for one in installed(kind)]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"Installed: {', '.join(found[:_LISTED]) or 'none'}{more}"


# -- fit with the core -----------------------------------------------------------------------

_REQUIREMENT = r"([\w.-]+)\s*(?:\[[^]]*])?\s*\(?([^;)]*)\)?\s*"
_CLAUSE = r"\s*(~=|[=!]=|[<>]=?)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?\s*"
_COMPARE = {"==": eq, "!=": ne, "<=": le, ">=": ge, "<": lt, ">": gt}


def _misfit(requires: Iterable[str], version: str) -> str:
    """The first requirement on micro-core that ``version`` does not meet.

    Versions are compared by their release numbers; what is written in another way is met.
    """
    release = _numbers(version)
    for requirement in requires:
        match = re.fullmatch(_REQUIREMENT, requirement)
        if not release or match is None or _normalized(match[1]) != CORE:
            continue
        if not all(_admits(clause, release) for clause in match[2].split(",")):
            return f"{CORE}{match[2].strip()}"
    return ""


def _numbers(version: str) -> list[int]:
    """Long enough to be compared with others: 1.2 is 1.2.0.0."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return [*map(int, match[0].split(".")), *[0] * 9][:9] if match else []


def _admits(clause: str, release: list[int]) -> bool:
    match = re.fullmatch(_CLAUSE, clause)
    if match is None:
        return True
    sign, bound, parts = match[1], _numbers(match[2]), match[2].count(".") + 1
    if sign == "~=":
        return release >= bound and release[: parts - 1] == bound[: parts - 1]
    width = parts if match[3] else None
    return bool(_COMPARE[sign](release[:width], bound[:width]))
