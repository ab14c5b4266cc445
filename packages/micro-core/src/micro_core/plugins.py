"""Plugins by name: what is installed, and the class behind a chosen name.

Only the class that is asked for is imported; listing imports nothing. A name is asked for by a
flag, a variable or a text in code: then every installed distribution has a say, and a name that
two of them claim is a PluginConflict even if one of them is micro-core. Where nobody asked, the
core takes its own default without looking at what else is installed.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from .errors import (
    PluginConflict,
    PluginIncompatible,
    PluginIncomplete,
    PluginLoadError,
    PluginNotFound,
)
from .flags import nearest
from .options import shown
from .plugin import Plugin

if TYPE_CHECKING:
    from importlib.metadata import Distribution

P = TypeVar("P", bound=type[Plugin])
log = logging.getLogger("micro.plugins")

PIP = "pip install --find-links dist {what}"
CORE = "micro-core"

BASES: dict[str, str] = {
    "registry": "micro_core.registry.base:Registry",
    "broker": "micro_core.broker.base:Broker",
    "transport": "micro_core.transport.base:Transport",
    "codec": "micro_core.codec.base:Codec",
    "selector": "micro_core.selector.base:Selector",
    "store": "micro_core.store.base:Store",
    "client": "micro_core.client.base:RpcClient",
    "server": "micro_core.server.base:RpcServer",
}
KINDS = tuple(BASES)

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
    ("selector", "p2c"): "micro_core.selector.p2c:P2CSelector",
    ("selector", "random"): "micro_core.selector.random:RandomSelector",
    ("selector", "roundrobin"): "micro_core.selector.roundrobin:RoundRobinSelector",
    ("client", "mucp"): "micro_core.client.mucp:MucpClient",
    ("server", "mucp"): "micro_core.server.mucp:MucpServer",
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
    """One entry point. ``requires`` are the requirements of its distribution."""

    kind: str
    name: str
    value: str
    dist: str
    version: str
    requires: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        return f"{self.dist} {self.version}".rstrip()

    @property
    def label(self) -> str:
        return f"{self.kind} {self.name} of {self.origin}"

    @property
    def misfit(self) -> str:
        """The requirement on micro-core that this one does not meet, ``""`` when it fits."""
        return _misfit(self.requires, core_version()) if self.requires else ""


_registered: dict[tuple[str, str], type[Plugin]] = {}
_scanned: list[Installed] | None = None


def pip_line(*what: str) -> str:
    """The command that installs ``what``: the only place where one is written."""
    return PIP.format(what=" ".join(what))


# -- what is installed -----------------------------------------------------------------------


def installed(kind: str | None = None) -> list[Installed]:
    """All entry points of a kind, or of every kind, sorted; nothing is imported.

    The distributions are read once in a process, see :func:`refresh`.
    """
    global _scanned
    if _scanned is None:
        _scanned = sorted(
            {*_own(), *_scan()}, key=lambda one: (KINDS.index(one.kind), one.name, one.dist)
        )
    return [one for one in _scanned if kind in (None, one.kind)]


def names(kind: str) -> list[str]:
    """The sorted names that :func:`load` knows of a kind."""
    in_code = {name for of, name in _registered if of == kind}
    return sorted({one.name for one in installed(kind)} | in_code)


def refresh() -> None:
    """Forget what was installed: the next question looks again."""
    global _scanned
    _scanned = None


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
        return f"{CORE} {core_version()}".rstrip()
    found = [one for one in installed() if re.split(r"[.:]", one.value)[0] == package]
    return found[0].origin if found else "in code"


def _own() -> Iterator[Installed]:
    version = core_version()
    for (kind, name), value in BUILTIN.items():
        yield Installed(kind, name, value, CORE, version)


def _scan() -> Iterator[Installed]:
    from importlib.metadata import distributions

    for name in {name for dist in distributions() if (name := _name_with_plugins(dist))} - {CORE}:
        try:
            yield from list(_entries(name))
        except Exception as error:
            log.warning("the plugins of %s are left out, its metadata is broken: %s", name, error)


def _entries(name: str) -> Iterator[Installed]:
    from importlib.metadata import distribution

    dist = distribution(name)  # of two copies on the path the first is the one that is imported
    for entry in dist.entry_points:
        kind = entry.group.removeprefix("micro.")
        if kind in BASES and kind != entry.group:
            requires = tuple(dist.requires or ())
            yield Installed(kind, entry.name, entry.value, name, dist.version, requires)


def _name_with_plugins(dist: Distribution) -> str:
    """Its normalized name; ``""`` without plugins, or when an uninstallation left half of it."""
    try:
        if "[micro." not in (dist.read_text("entry_points.txt") or ""):
            return ""
        whole = {"Name", "Version"} <= set(dist.metadata)
        return _normalized(dist.metadata["Name"]) if whole else ""
    except (OSError, ValueError):  # not one of ours, or nobody could tell whose
        return ""


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- by name ---------------------------------------------------------------------------------


def load(kind: str, name: str) -> type[Plugin]:
    """The class of the plugin that is called ``name``, or ``distribution:name``.

    Raises PluginNotFound, PluginConflict, PluginIncompatible, PluginLoadError or
    PluginIncomplete, each naming what mends it.
    """
    if (kind, name) in _registered:
        return _registered[kind, name]
    entry = find(kind, name)
    if entry.misfit:
        raise PluginIncompatible(
            f"{entry.label} needs {entry.misfit}, and this is {CORE} {core_version()}\n"
            f"Install versions that fit:\n{pip_line('--upgrade', CORE, entry.dist)}"
        )
    return complete(kind, _imported(entry), entry.label)


def load_default(kind: str, name: str) -> type[Plugin]:
    """Like :func:`load`, for a name that nobody asked for: the core's own plugin comes first."""
    value = BUILTIN.get((kind, name))
    if value is None or (kind, name) in _registered:
        return load(kind, name)
    entry = Installed(kind, name, value, CORE, "")
    return complete(kind, _imported(entry), entry.label)


def find(kind: str, name: str) -> Installed:
    """The entry point that ``name`` or ``distribution:name`` stands for; imports nothing."""
    if kind not in BASES:
        raise PluginNotFound(f"no kind {shown(kind)}: there are {', '.join(KINDS)}")
    dist, _, plain = name.rpartition(":")
    found = {
        one.value: one
        for one in installed(kind)
        if one.name == plain and (not dist or _normalized(dist) == one.dist)
    }
    if not found:
        raise PluginNotFound("\n".join(_missing(kind, name)))
    if len(found) > 1:
        raise PluginConflict("\n".join(_conflict(kind, plain, list(found.values()))))
    return next(iter(found.values()))


def _imported(entry: Installed) -> object:
    module, _, path = entry.value.partition("[")[0].strip().partition(":")
    try:
        found: object = import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginLoadError(
            f"{entry.label} cannot be imported from {entry.value}\n{text[:300]}\n"
            f"Install it again, with what it needs:\n{pip_line('--force-reinstall', entry.dist)}"
        ) from error
    return found


def complete(kind: str, found: object, label: str) -> type[Plugin]:
    """``found`` when it is a class of ``kind`` with nothing left to implement.

    Raises PluginIncomplete.
    """
    base = _base(kind)
    if not isinstance(found, type):
        fault = f"is a {type(found).__name__}, not a class"
    elif not issubclass(found, base):
        fault = f"is class {found.__qualname__}, which is no subclass of {BASES[kind]}"
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


def _base(kind: str) -> type[Plugin]:
    module, _, name = BASES[kind].partition(":")
    return cast("type[Plugin]", getattr(import_module(module), name))


# -- in code ---------------------------------------------------------------------------------


def register(kind: str, name: str, cls: type[Plugin]) -> None:
    """Make ``cls`` the plugin ``name`` in this process, whatever is installed under that name."""
    _registered[kind, name] = complete(kind, cls, f"{kind} {name}, registered in code,")


def unregister(kind: str, name: str) -> None:
    """Undo :func:`register`; an unknown name is harmless."""
    _registered.pop((kind, name), None)


@contextmanager
def registered(kind: str, name: str, cls: P) -> Generator[P, None, None]:
    """:func:`register` for the time of a ``with`` block."""
    before = _registered.get((kind, name))
    register(kind, name, cls)
    try:
        yield cls
    finally:
        unregister(kind, name)
        if before is not None:
            _registered[kind, name] = before


# -- what to say -----------------------------------------------------------------------------


def _missing(kind: str, name: str) -> Iterator[str]:
    dist, _, plain = name.rpartition(":")
    whose = f" of {shown(dist)}" if dist else ""
    yield f"no {kind} {shown(plain)}{whose} is installed"
    known = [name for of, name in ELSEWHERE if of == kind]
    if plain in names(kind):
        yield f"Without the distribution: --{kind} {plain}"
    elif plain in known:
        yield from _get(kind, plain)
    elif near := nearest(plain, [*names(kind), *known]):
        yield f"Did you mean {near}?"
        yield from () if near in names(kind) else _get(kind, near)
    elif others := [of for of in KINDS if plain in names(of) or (of, plain) in ELSEWHERE]:
        yield f"{plain} is a {' and a '.join(others)}, not a {kind}."
    yield _installed_line(kind)


def _get(kind: str, name: str) -> Iterator[str]:
    dist, what = ELSEWHERE[kind, name]
    yield f"{name} ({what}) is in {dist}, which is not installed:"
    yield pip_line(dist)


def _conflict(kind: str, name: str, found: Sequence[Installed]) -> Iterator[str]:
    yield f"{len(found)} distributions have a {kind} {name}"
    yield from (f"{one.origin}: --{kind} {one.dist}:{name}" for one in found)
    yield f"Say which one, there, in MICRO_{kind.upper()} or in code; or uninstall the other."


def _installed_line(kind: str) -> str:
    found = [f"{one.name} ({one.origin})" for one in installed(kind)]
    found += [f"{name} (in code)" for of, name in _registered if of == kind]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"Installed: {', '.join(found[:_LISTED]) or 'none'}{more}"


# -- fit with the core -----------------------------------------------------------------------

_REQUIREMENT = r"([\w.-]+)\s*(?:\[[^]]*])?\s*\(?([^;)]*)\)?\s*"
_CLAUSE = r"\s*(~=|==|!=|<=|>=|<|>)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?\s*"
_COMPARE: dict[str, Callable[[list[int], list[int]], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


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
    match = re.match(r"\d+(?:\.\d+)*", version, re.ASCII)
    return [int(number) for number in match[0].split(".")] if match else []


def _admits(clause: str, release: list[int]) -> bool:
    match = re.fullmatch(_CLAUSE, clause)
    if match is None:
        return True
    sign, bound, wild = match[1], _numbers(match[2]), bool(match[3])
    if sign == "~=":
        prefix = ".".join(match[2].split(".")[:-1])
        return _admits(f">={match[2]}", release) and _admits(f"=={prefix}.*", release)
    width = len(bound) if wild else max(len(bound), len(release))
    padded = [numbers + [0] * (width - len(numbers)) for numbers in (release, bound)]
    return _COMPARE[sign](padded[0][:width], padded[1])
