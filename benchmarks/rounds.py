"""Rounds: every side in turn, each in a process of its own, again and again.

A side lives only while it is measured, so an idle daemon of one costs the other nothing; and repeats of all
sides are spread over the same time, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import OURS
from benchmarks.processes import stop_children
from benchmarks.side import NOT_INSTALLED

__all__ = ["Absent", "Round", "Sizes", "measures_of", "play"]

ROOT = Path(__file__).resolve().parent.parent
STDERR_LINES = 15


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    tasks: int = 10_000
    trips: int = 2_000
    steps: int = 500
    waiting: int = 200_000

    def arguments(self) -> list[str]:
        """For the command line of a side."""
        return [
            *("--tasks", str(self.tasks)),
            *("--trips", str(self.trips)),
            *("--steps", str(self.steps)),
            *("--waiting", str(self.waiting)),
        ]


@dataclass(frozen=True, slots=True)
class Round:
    """What one side gave in one round."""

    side: str
    figures: dict[str, float]
    cpu: dict[str, float] = field(default_factory=dict)
    """µs per task by `measure.role`."""
    version: str = ""
    startup_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Absent:
    """A side that gave nothing, and why."""

    side: str
    reason: str
    installed: bool = True


def measures_of(side: str, wanted: Sequence[str], number: int) -> list[str]:
    """What a side measures in a round. Memory is ours alone, and does not vary enough to repeat."""
    return [name for name in wanted if name != "memory" or (side == OURS and number == 0)]


def play(
    sides: Sequence[str], wanted: Sequence[str], sizes: Sizes, repeats: int, timeout_seconds: float
) -> Iterator[tuple[int, str, Round | Absent]]:
    """Number of the round, side, and what came of it. A side that failed is not tried again."""
    failed: set[str] = set()
    for number in range(repeats):
        for side in sides:
            measures = measures_of(side, wanted, number)
            if not measures or side in failed:
                continue
            # Memory has a cluster of its own: what throughput left behind is no waiting task's.
            for group in (["memory"], [name for name in measures if name != "memory"]):
                if not set(group) & set(measures):
                    continue
                found = play_one(side, group, sizes, timeout_seconds)
                if isinstance(found, Absent):
                    failed.add(side)
                yield number, side, found


def play_one(side: str, measures: Sequence[str], sizes: Sizes, timeout_seconds: float) -> Round | Absent:
    """One side in one round. Whatever it has started has ended when this returns."""
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        out, err = Path(folder) / "figures.json", Path(folder) / "stderr"
        command = [sys.executable, "-m", "benchmarks.side", side, "--out", str(out)]
        command += ["--measures", ",".join(measures), *sizes.arguments()]
        with err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return Absent(side, f"not done within {timeout_seconds:.0f} s; stopped")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                stop_children()
        if process.returncode == 0 and out.exists():
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
            return Round(side, **found)
        lines = err.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = "\n".join(lines[-STDERR_LINES:]) or f"exit code {process.returncode}"
        return Absent(side, reason, installed=process.returncode != NOT_INSTALLED)


def _environment() -> dict[str, str]:
    """The caller's environment without what would point our side at a cluster that is already there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CASCADE_")}
    paths = [str(ROOT), str(ROOT / "scheduler"), str(ROOT / "worker"), os.environ.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
