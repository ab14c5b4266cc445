"""What the memory plugins of one event loop share."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_Hubs = dict[tuple[type, str], Any]
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hubs] = WeakKeyDictionary()
_lock = threading.Lock()  # loops of several threads meet here


def hub(kind: type[T], name: str) -> T:
    """The one ``kind()`` of this name in the running loop, made by whoever asks first."""
    loop = asyncio.get_running_loop()
    with _lock:
        if loop not in _loops:
            _forget_closed()
        hubs = _loops.setdefault(loop, {})
        if (kind, name) not in hubs:
            hubs[kind, name] = kind()
        found: T = hubs[kind, name]
        return found


def _forget_closed() -> None:
    """A hub that holds its own loop, in a timer say, would keep it from being collected."""
    for loop in [loop for loop in _loops if loop.is_closed()]:
        del _loops[loop]
