"""What the processes of a side cost, and how they are ended."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

import psutil

__all__ = ["adopt_orphans", "cpu_seconds", "resident_bytes", "stop_children"]

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, so that they can still be ended.

    Daemons that a crashed peer leaves behind would otherwise go on beside the next measurement.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_children(grace_seconds: float = 5.0) -> int:
    """Ends every descendant of this process, by its own pid; how many there were."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        _tell(process.terminate)
    _, alive = psutil.wait_procs(left, timeout=grace_seconds)
    for process in alive:
        _tell(process.kill)
    psutil.wait_procs(alive, timeout=grace_seconds)
    return len(left)


def _tell(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        pass


def cpu_seconds(role: Callable[[psutil.Process], str]) -> dict[str, float]:
    """CPU seconds so far of this process ("client") and its descendants, summed by role."""
    found = {"client": _cpu(psutil.Process())}
    for process in psutil.Process().children(recursive=True):
        try:
            name = role(process)
            found[name] = found.get(name, 0.0) + _cpu(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _cpu(process: psutil.Process) -> float:
    """Seconds on a CPU. The kernel's own count is in nanoseconds, psutil's in ticks of 10 ms."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        times = process.cpu_times()
        return float(times.user + times.system)
    return total / 1e9


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process; None: of this one."""
    return int(psutil.Process(pid).memory_info().rss)
