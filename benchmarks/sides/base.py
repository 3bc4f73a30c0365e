"""What every side can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import psutil

__all__ = ["WAIT_SECONDS", "WORKERS", "Side"]

WORKERS = 2
"""Workers with one slot each, everywhere."""

WAIT_SECONDS = 120.0
"""No side waits longer for one answer."""


class Side(ABC):
    """One system on two workers with one slot each."""

    @abstractmethod
    def start(self) -> str:
        """Starts it; its name and version."""

    @abstractmethod
    def stop(self) -> None:
        """Stops it."""

    @abstractmethod
    def submit_noops(self, count: int) -> float:
        """Runs no-op tasks to the last result; seconds that it took to build them before the submit."""

    @abstractmethod
    def round_trip(self) -> None:
        """Submits one no-op task and waits for its result."""

    @abstractmethod
    def chain(self, steps: int) -> None:
        """Runs a chain of dependent tasks and checks its result."""

    def extra(self, tasks: int) -> dict[str, float]:
        """Further figures of this side alone, taken with the throughput."""
        return {}

    def memory(self, tasks: int) -> dict[str, float]:
        """Figures of memory; empty where this side has none."""
        return {}

    def role(self, process: psutil.Process) -> str:
        """What one of the started processes is, for the table of CPU time."""
        return str(process.name())
