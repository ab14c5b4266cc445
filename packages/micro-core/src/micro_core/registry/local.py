"""The local registry: services of one machine and user, found in a private directory.

One JSON file a node. Its first line is rewritten in place by every heartbeat: a stamp of the boot,
the time, the process and the start of that process. The rest changes only by an atomic rename, and
so does the directory's time, which is all that an idle watcher looks at.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ..errors import BackendRefused
from .base import Registry, RegistryFeatures
from .records import ServiceInfo
from .wire import from_json, to_json

HEADER = 160  # bytes of the stamp with its padding
LIMIT = 1 << 20  # bytes of one file
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_LONGEST = 100  # characters of one part of a file name
_YOUNG = 2_000_000_000  # ns in which a directory may change again under the same time
_PROC = Path("/proc/self/stat").exists()


@dataclass(frozen=True, slots=True)
class _Stamp:
    boot: str
    time: float
    pid: int
    start: int
    ttl: float


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: _Stamp
    body: bytes
    info: ServiceInfo
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
        stamp = _stamp(ttl)
        for node in info.nodes:
            body = b'"service":' + to_json(info.with_nodes([node])).encode() + b"}\n"
            if HEADER + len(body) > LIMIT:
                raise self._refused(f"the record of {node.id} exceeds {LIMIT} bytes: shorten it")
            name = _file_name(info.name, node.id)
            if not self._renew(name, stamp, body):
                self._write(name, _header(stamp) + body)

    async def _deregister(self, info: ServiceInfo) -> None:
        for node in info.nodes:
            (self._path / _file_name(info.name, node.id)).unlink(missing_ok=True)

    def _renew(self, name: str, stamp: _Stamp, body: bytes) -> bool:
        """Rewrite the stamp of a file that says the same; False if none does, or it was taken."""
        path = self._path / name
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if _content(file)[HEADER:] != body:
                return False
            os.pwrite(file, _header(stamp), 0)
            return path.stat().st_ino == os.fstat(file).st_ino
        except (OSError, ValueError):
            return False
        finally:
            os.close(file)

    def _write(self, name: str, data: bytes) -> None:
        self._prepare()
        temporary = self._temporary()
        try:
            with temporary.open("xb") as file:
                file.write(data)
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
        if entry is None or entry.round != self._round or not _lives(entry.stamp, running):
            entry = self._read(self._path / name, entry)
            if entry is not None and not _lives(entry.stamp, running):
                entry = self._remove(name)
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry
        return entry

    def _read(self, path: Path, known: _Entry | None = None) -> _Entry | None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            raw = _content(file)
            stamp, body = _read_stamp(raw), raw[HEADER:]
            if known is not None and known.body == body:
                return _Entry(stamp, body, known.info, self._round)
            return _Entry(stamp, body, _read_body(body), self._round)
        except (OSError, ValueError):
            return None  # not ours to remove
        finally:
            os.close(file)

    def _remove(self, name: str) -> _Entry | None:
        """Take the file away and look again: one renewed in between is put back and given."""
        taken = self._temporary()
        try:
            (self._path / name).rename(taken)
        except OSError:
            return None
        entry = self._read(taken)
        if entry is not None and not _lives(entry.stamp, {}):
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


def _content(file: int) -> bytes:
    """Raises ValueError for what is too long or not a file at all."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT:
        raise ValueError("not a record")
    return os.read(file, status.st_size)


def _header(stamp: _Stamp) -> bytes:
    process = f"{stamp.pid},{stamp.start}"
    text = f'{{"stamp":["{stamp.boot}",{stamp.time:.3f},{process},{stamp.ttl:.6g}],'
    return text.encode().ljust(HEADER - 1) + b"\n"


def _read_stamp(raw: bytes) -> _Stamp:
    """Raises ValueError for anything that ``_header`` did not write."""
    import json

    try:
        boot, written, pid, start, ttl = json.loads(raw[:HEADER].rstrip()[:-1] + b"}")["stamp"]
        return _Stamp(str(boot), float(written), int(pid), int(start), float(ttl))
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError("not a stamp") from error


def _read_body(body: bytes) -> ServiceInfo:
    text = body.rstrip()
    if not text.startswith(b'"service":') or not text.endswith(b"}"):
        raise ValueError("not a record")
    return from_json(text[10:-1])


# -- processes -------------------------------------------------------------------------------


def _stamp(ttl: float) -> _Stamp:
    pid = os.getpid()
    return _Stamp(_boot(), _now(), pid, _started(pid) or 0, min(ttl, 1e9))


def _lives(stamp: _Stamp, running: dict[int, int | None]) -> bool:
    """``running`` remembers, for one look at all, when each process was started."""
    now = _now()
    if stamp.boot != _boot() or not now - stamp.ttl < stamp.time <= now + 1.0:
        return False
    if stamp.pid not in running:
        running[stamp.pid] = _started(stamp.pid)
    return running[stamp.pid] == stamp.start


def _now() -> float:
    """A clock that all processes since the boot share; it follows a clock moved in a test."""
    moved: float = getattr(asyncio.get_running_loop(), "moved", 0.0)
    return time.monotonic() + moved


def _boot() -> str:
    global _boot_id
    if _boot_id is None:
        try:
            _boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            _boot_id = ""
    return _boot_id


_boot_id: str | None = None


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
    except PermissionError:  # another user's, and running
        return 0
    return 0
