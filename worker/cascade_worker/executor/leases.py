"""Leases: an executor goes on with a loop by itself, step by step, until the worker wants it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from cascade_worker.executor.frames import DONE, LEASE, TAIL

__all__ = ["PERIOD_SECONDS", "RECALL_WORD", "ROOM_WORD", "STEP_WORD", "STOP_WORD", "Lease", "NextStep"]

PERIOD_SECONDS = 1.0
"""How often a lease says how far it has come."""

# Words of the page that an executor shares with the worker; only the last is of use to an async one.
STOP_WORD = 0
"""The attempt that is to stop."""
RECALL_WORD = 1
"""The attempt that is to take no further step by itself."""
STEP_WORD = 2
"""When the step that runs began, in nanoseconds of the monotonic clock; 0: with the attempt."""
ROOM_WORD = 3
"""Here and behind it, by object directory: 1 plus the bytes for which its bound has room; 0: it has none."""

Frame = tuple[Any, ...]


class NextStep(NamedTuple):
    """What a leased loop goes on with: a call of the same task."""

    args: bytes
    node_id: bytes
    head: bytes = b""
    """What it has in common with calls before it: a field of worker_pb2.Tail."""


class Lease:
    """One attempt that may take further steps.

    Args:
        attempt: its id.
        recalled: whether the worker wants it back.
        say: sends a frame to the worker.
    """

    __slots__ = ("_attempt", "_recalled", "_say", "_told", "_told_at", "_word", "iterations", "last")

    def __init__(
        self,
        attempt: int,
        recalled: Callable[[], bool],
        say: Callable[[Frame], None],
        word: memoryview | None = None,
    ) -> None:
        self._attempt = attempt
        self._recalled = recalled
        self._say = say
        self._word = word
        """The page, where the worker looks when a step began."""
        self._told = 0
        self._told_at = time.monotonic()
        self.iterations = 0
        """Steps that it took beyond the first."""
        self.last = NextStep(b"", b"")

    @property
    def goes_on(self) -> bool:
        """It may take a further step."""
        return not self._recalled()

    def step(self, step: NextStep) -> None:
        """A further step begins."""
        self.iterations += 1
        self.last = step
        now = time.monotonic()
        if self._word is not None:
            self._word[STEP_WORD] = time.monotonic_ns()
        if now - self._told_at >= PERIOD_SECONDS:
            self._told_at = now
            self.tell()

    def tell(self) -> None:
        """Says how far it has come, and with what it goes on, unless that was said."""
        if self._told != self.iterations:
            self._told = self.iterations
            self._say((LEASE, self._attempt, self.iterations, self.last.args, self.last.node_id))

    def ending(self, answer: Frame) -> Frame:
        """The answer of the attempt, with what the lease has to say before or in it."""
        if not self.iterations:
            return answer
        if answer[0] == DONE:
            return (*answer[:-1], {**(answer[-1] or {}), "iterations": self.iterations})
        if answer[0] == TAIL:
            return (*answer[:-1], self.iterations)
        self.tell()  # what failed is tried again from here
        return answer
