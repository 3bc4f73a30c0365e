"""Leaves alone for a while what has just failed, so that not everybody waits for it again."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Breaker"]

AWAY_SECONDS = 10.0


class Breaker:
    """Whether something may be asked. After a failure, one caller a period tries it; the others do without.

    Args:
        seconds: the period.
        clock: seconds that never run back.
    """

    def __init__(self, seconds: float = AWAY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._try_at: float | None = None

    @property
    def away(self) -> bool:
        """The last try has failed."""
        return self._try_at is not None

    def may_try(self) -> bool:
        """Whether to ask now; who is told so is the only one for a period."""
        if self._try_at is None:
            return True
        now = self._clock()
        if now < self._try_at:
            return False
        self._try_at = now + self._seconds
        return True

    def failed(self) -> bool:
        """It did not answer. True the first time, which is when to warn."""
        first = self._try_at is None
        self._try_at = self._clock() + self._seconds
        return first

    def worked(self) -> bool:
        """It answered. True when it had been away."""
        was_away, self._try_at = self._try_at is not None, None
        return was_away
