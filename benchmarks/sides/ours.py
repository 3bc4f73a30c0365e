"""This project: a private cluster."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

import cascade_dist as cs
from benchmarks.processes import resident_bytes
from benchmarks.sides.base import WAIT_SECONDS, WORKERS, Side
from benchmarks.tasks import follow, noop, sleep, step

__all__ = ["Ours"]

GATE_SECONDS = 600.0
"""How long the task sleeps that everything waits for; it is cancelled long before."""

SETTLED_BYTES = 1 << 20
SETTLED_CHECKS = 4
CHECK_SECONDS = 0.5


class Ours(Side):
    """Scheduler, two workers with one slot each, state in memory."""

    def __init__(self) -> None:
        self._cluster: Any = None

    def start(self) -> str:
        """Starts the private cluster."""
        self._cluster = cs.connect(None, workers=WORKERS, slots=1)
        return f"cascade-dist {cs.__version__}"

    def stop(self) -> None:
        """Closes it, with its processes."""
        if self._cluster is not None:
            self._cluster.close()

    def submit_noops(self, count: int) -> float:
        """A list target of impure no-op calls."""
        began = time.perf_counter()
        target = [noop() for _ in range(count)]
        built = time.perf_counter()
        values = self._cluster.submit(target).result(timeout=WAIT_SECONDS)
        if len(values) != count:
            raise AssertionError(f"{len(values)} results of {count}")
        return built - began

    def round_trip(self) -> None:
        """A run of one task."""
        self._cluster.submit(noop()).result(timeout=WAIT_SECONDS)

    def chain(self, steps: int) -> None:
        """One graph in which each task takes the value of the one before."""
        value: Any = 0
        for _ in range(steps):
            value = step(value)
        if self._cluster.submit(value).result(timeout=WAIT_SECONDS) != steps:
            raise AssertionError("the chain gave a wrong answer")

    def memory(self, tasks: int) -> dict[str, float]:
        """Growth of scheduler and client while tasks wait behind one that sleeps.

        The client's figure is what it keeps once the graph is sent and the target forgotten.
        """
        self.submit_noops(max(100, tasks // 20))
        scheduler = self._scheduler()
        before, client_before = resident_bytes(scheduler), resident_bytes()
        began = time.perf_counter()
        gate = sleep(GATE_SECONDS)
        run = self._cluster.submit([follow(gate, number) for number in range(tasks)])
        grown = _settled(scheduler, run) - before
        seconds = time.perf_counter() - began - SETTLED_CHECKS * CHECK_SECONDS
        client = resident_bytes() - client_before
        if run.done():
            run.result(timeout=0)
            raise AssertionError("the run ended before its gate")
        run.cancel()
        return {
            "memory.scheduler_bytes_per_task": grown / tasks,
            "memory.client_bytes_per_task": client / tasks,
            "memory.submit_seconds": seconds,
        }

    def _scheduler(self) -> int:
        for process in psutil.Process().children(recursive=True):
            if self.role(process) == "scheduler":
                return int(process.pid)
        raise LookupError("the private cluster's scheduler is no child of this process")

    def role(self, process: psutil.Process) -> str:
        """Which of the project's processes it is."""
        command = " ".join(process.cmdline())
        if "cascade_scheduler" in command:
            return "scheduler"
        # The fork server and its executors have the worker's command line, or names of their own.
        parent = process.parent()
        started_here = parent is not None and parent.pid == os.getpid()
        return "workers" if started_here and "cascade_worker" in command else "executors"


def _settled(pid: int, run: Any) -> int:
    """Resident bytes of a process once it has taken the run and they stay as they are.

    Raises:
        TimeoutError: they still grow at the end of the wait.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    last, same = 0, 0
    while time.monotonic() < deadline:
        time.sleep(CHECK_SECONDS)
        now = resident_bytes(pid)
        taken = run.status != "pending"
        same = same + 1 if taken and abs(now - last) < SETTLED_BYTES else 0
        last = now
        if same == SETTLED_CHECKS:
            return now
    raise TimeoutError(f"the scheduler's memory did not settle within {WAIT_SECONDS:.0f} s")
