"""The local registry: services of one machine and user, found in a private directory.

One file a node: a line for its owner (boot, process, start of that process, TTL) and a line for
the record. A heartbeat sets the file's time, which counts from the boot. The contents change only
by an atomic rename, and so does the directory's time, which is all that an idle watcher looks at.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from ..errors import BackendRefused
from .base import Registry, RegistryFeatures
from .records import ServiceInfo
from .wire import from_json, to_json

LIMIT = 1 << 20  # bytes of one file
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_LONGEST = 100  # characters of one part of a file name
_YOUNG = 2_000_000_000  # ns in which a directory may change again under the same time
_PROC = Path("/proc/self/stat").exists()


@dataclass(frozen=True, slots=True)
class _Entry:
    body: bytes
    info: ServiceInfo
    boot: str
    pid: int
    start: int
    ttl: float
    time: float  # of the last heartbeat
    round: int


class LocalRegistry(Registry):
    """Finds services of the same machine and user, with no server and no configuration.

    ``directory`` is ``$XDG_RUNTIME_DIR/micro`` by default, else ``micro-<uid>`` among the
    temporary files. A node exists while its process runs and renews it within the TTL; whoever
    reads next removes the others.
    """

    name: ClassVar[str] = "local"
    reach: ClassVar[Literal["process", "host", "network"]] = "host"
    features = RegistryFeatures(expiry=True)
    poll_interval = 0.25

    def __init__(self, directory: str | None = None) -> None:
        super().__init__(*filter(None, [directory]))
        self._given = directory
        self._path = Path()
        self._entries: dict[str, _Entry] = {}
        self._names: list[str] = []
        self._seen: tuple[int, int] | None = None
        self._round = 0
        self._temporaries = 0

    async def _connect(self) -> None:
        self._path = _directory(self._given)
        self.addresses = (str(self._path),)
        self._seen = None
        self._prepare()
        self._clean()

    # -- writing -----------------------------------------------------------------------------

    async def _register(self, info: ServiceInfo, ttl: float) -> None:
        for node in info.nodes:
            body = _body(info.with_nodes([node]), ttl)
            if len(body) > LIMIT:
                raise self._refused(f"the record of {node.id} exceeds {LIMIT} bytes: shorten it")
            name = _file_name(info.name, node.id)
            if not self._renew(name, body):
                self._write(name, body)

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            (self._path / _file_name(info.name, node.id)).unlink(missing_ok=True)

    def _renew(self, name: str, body: bytes) -> bool:
        """Stamp a file that says the same; False if none does, or it was taken."""
        path = self._path / name
        with suppress(OSError, ValueError), _opened(path) as file:
            if _content(file) == body:
                _stamp(file)
                return path.stat().st_ino == os.fstat(file).st_ino
        return False

    def _write(self, name: str, body: bytes) -> None:
        self._prepare()
        temporary = self._temporary()
        try:
            with temporary.open("xb") as file:
                file.write(body)
                file.flush()
                _stamp(file.fileno())
            temporary.replace(self._path / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _temporary(self) -> Path:
        self._temporaries += 1
        return self._path / f"{os.getpid()}-{id(self):x}-{self._temporaries}.tmp"

    # -- reading -----------------------------------------------------------------------------

    async def _get_service(self, name: str) -> Sequence[ServiceInfo]:
        return [info for info in self._scan(_quoted(name) + "@") if info.name == name]

    async def _list_services(self) -> Sequence[str]:
        return [info.name for info in self._scan("")]

    def _scan(self, prefix: str) -> Iterator[ServiceInfo]:
        self._look()
        running: dict[int, int | None] = {}
        for name in self._names:
            if name.startswith(prefix):
                entry = self._entry(name, running)
                if entry is not None:
                    yield entry.info

    def _look(self) -> None:
        """List the directory unless it is surely as it was, and then trust no file either."""
        try:
            status = self._path.stat()
            seen = status.st_ino, status.st_mtime_ns
            if seen == self._seen:
                return
            names = [path.name for path in self._path.iterdir()]
        except FileNotFoundError:
            self._prepare()
            seen, names = (0, 0), []
        self._names = sorted(name for name in names if name.endswith(".json"))
        self._seen = seen if time.time_ns() - seen[1] > _YOUNG else None
        self._round += 1
        self._entries = {name: e for name in self._names if (e := self._entries.get(name))}

    def _entry(self, name: str, running: dict[int, int | None]) -> _Entry | None:
        """The node in a file, if it exists; the file of one that does not is removed."""
        entry = self._entries.get(name)
        if entry is None or entry.round != self._round or not _lives(entry, running):
            entry = self._read(self._path / name, entry)
            if entry is not None and not _lives(entry, running):
                entry = self._remove(name)
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry
        return entry

    def _read(self, path: Path, known: _Entry | None = None) -> _Entry | None:
        """``None`` for what is not one of our files, and so not ours to remove."""
        with suppress(OSError, ValueError), _opened(path) as file:
            body, time = _content(file), os.fstat(file).st_mtime_ns / 1e9
            if known is not None and known.body == body:
                return replace(known, time=time, round=self._round)
            return _entry(body, time, self._round)
        return None

    def _remove(self, name: str) -> _Entry | None:
        """Take the file away and look again: one renewed in between is put back and given."""
        taken = self._temporary()
        try:
            (self._path / name).rename(taken)
        except OSError:
            return None
        entry = self._read(taken)
        if entry is not None and not _lives(entry, {}):
            entry = None
        if entry is not None:
            with suppress(OSError):  # its owner was faster, or will write it at the next beat
                (self._path / name).hardlink_to(taken)
        taken.unlink(missing_ok=True)
        return entry

    # -- the directory -----------------------------------------------------------------------

    def _prepare(self) -> None:
        """Make the directory, or make sure that nobody else can write there."""
        with suppress(FileExistsError):
            self._path.mkdir(mode=0o700, parents=True)
        status = self._path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise self._refused("is not a directory itself: give the real one, or remove it")
        if status.st_uid != os.getuid():
            raise self._refused(f"belongs to user {status.st_uid}: give another or remove it")
        if status.st_mode & 0o022:
            raise self._refused("can be written by others: chmod 700 it, or give another")

    def _clean(self) -> None:
        """Remove what writers that were killed left behind."""
        for path in self._path.glob("*.tmp"):
            pid = path.name.split("-")[0]
            if pid.isdecimal() and _started(int(pid)) is None:
                path.unlink(missing_ok=True)

    def _refused(self, why: str) -> BackendRefused:
        return BackendRefused(
            f"registry local: {self._path} {why}", plugin=self.name, address=self.address
        )


def _directory(given: str | None) -> Path:
    """By default below the user's runtime directory, if there is one and it is the user's."""
    if given:
        return Path(given).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    with suppress(OSError):
        if runtime and Path(runtime).stat().st_uid == os.getuid():
            return Path(runtime) / "micro"
    import tempfile

    return Path(tempfile.gettempdir()) / f"micro-{os.getuid()}"


# -- the file --------------------------------------------------------------------------------


def _file_name(service: str, id: str) -> str:
    return f"{_quoted(service)}@{_quoted(id)}.json"


def _quoted(name: str) -> str:
    """Injective, also where file names have no case; a long one ends in a digest."""
    quoted = "".join(chr(b) if b in _SAFE else f"%{b:02x}" for b in name.encode())
    if len(quoted) <= _LONGEST:
        return quoted
    import hashlib

    return f"{quoted[:58]}~{hashlib.sha256(name.encode()).hexdigest()[:41]}"


@contextmanager
def _opened(path: Path) -> Generator[int, None, None]:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _content(file: int) -> bytes:
    """Raises ValueError for what is too long or not a file at all."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT:
        raise ValueError("not a record")
    return os.read(file, status.st_size)


def _stamp(file: int) -> None:
    now = int(_now() * 1e9)
    os.utime(file, ns=(now, now))


def _body(info: ServiceInfo, ttl: float) -> bytes:
    pid = os.getpid()
    owner = f'["{_boot()}",{pid},{_started(pid) or 0},{min(ttl, 1e9):.6g}]'
    return f"{owner}\n{to_json(info)}\n".encode()


def _entry(body: bytes, time: float, round: int) -> _Entry:
    """Raises ValueError for anything that ``_body`` did not write."""
    import json

    owner, _, text = body.partition(b"\n")
    try:
        boot, pid, start, ttl = json.loads(owner)
        return _Entry(
            body, from_json(text), str(boot), int(pid), int(start), float(ttl), time, round
        )
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError("not a record") from error


# -- processes -------------------------------------------------------------------------------


def _lives(entry: _Entry, running: dict[int, int | None]) -> bool:
    """``running`` remembers, for one look at all, when each process was started."""
    now = _now()
    if entry.boot != _boot() or not now - entry.ttl < entry.time <= now + 1.0:
        return False
    if entry.pid not in running:
        running[entry.pid] = _started(entry.pid)
    return running[entry.pid] == entry.start


def _now() -> float:
    """A clock that all processes since the boot share; it follows a clock moved in a test."""
    moved: float = getattr(asyncio.get_running_loop(), "moved", 0.0)
    return time.monotonic() + moved


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a running process began, in ticks since the boot; 0 unknown, ``None`` not running."""
    if not _PROC:
        return _signalled(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _signalled(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # another user's, and running
    return 0
