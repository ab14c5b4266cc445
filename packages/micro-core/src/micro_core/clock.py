"""The clock of intervals."""

from __future__ import annotations

import asyncio
import time


def now() -> float:
    """Seconds of the running event loop's clock, which a test can move; else of a monotonic one."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
