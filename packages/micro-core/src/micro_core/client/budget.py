"""How many retries a client may make, so that they cannot bring down what is failing."""

from __future__ import annotations

import asyncio
import math

_LIVES = 10.0  # seconds


class RetryBudget:
    """Each call earns ``share`` of a retry and each second ``floor`` of them.

    What is earned fades over ten seconds, so an hour of quiet calls pays for no storm. Never more
    than was earned is spent, the first second's floor being there from the start. Source of the
    figures: "Retry Budgets", Finagle blog, 2016.
    """

    def __init__(self, share: float, floor: float) -> None:
        self.calls = 0  # since the last look
        self._share = share
        self._floor = floor
        self._credits = floor
        self._looked = asyncio.get_running_loop().time()

    def take(self) -> bool:
        """Spend one retry, if there is one."""
        now = asyncio.get_running_loop().time()
        passed, self._looked = now - self._looked, now
        faded = -math.expm1(-passed / _LIVES)
        alive = _LIVES * faded  # seconds of even earnings that are left of those passed
        calls, self.calls = self.calls, 0
        calls_alive = calls * alive / passed if passed > 0 else calls
        self._credits += alive * self._floor + calls_alive * self._share - self._credits * faded
        if self._credits < 1.0:
            return False
        self._credits -= 1.0
        return True
