"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Exponential backoff with full jitter, in seconds.

    Source: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015: a delay drawn evenly
    from zero to the cap keeps a crowd of clients apart. ``reset`` after a success.
    """

    def __init__(
        self, first: float = 0.1, most: float = 5.0, *, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._most = most
        self._tries = 0
        self._random = rng or random.Random()

    def next(self, *, worked: float = 0.0) -> float:
        """``worked``: seconds that went well since the last delay; five are a success."""
        if worked > 5.0:
            self.reset()
        cap = min(self._most, self._first * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return self._random.uniform(0.0, cap)

    def reset(self) -> None:
        self._tries = 0
