"""Ray on this machine."""

from __future__ import annotations

import logging
import os
from typing import Any

import psutil

# Read when ray is imported; a benchmark reports to nobody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Else it warns of a default that is to change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from benchmarks.sides.base import WAIT_SECONDS, WORKERS, Side

__all__ = ["Ray"]

OBJECT_STORE_BYTES = 256 << 20


def _noop() -> None:
    return None


def _step(value: int) -> int:
    return value + 1


class Ray(Side):
    """A local Ray with two CPUs, without dashboard."""

    def __init__(self) -> None:
        self._noop: Any = None
        self._step: Any = None

    def start(self) -> str:
        """Starts it."""
        ray.init(
            address="local",
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        self._noop = ray.remote(num_cpus=1)(_noop)
        self._step = ray.remote(num_cpus=1)(_step)
        return f"ray {ray.__version__}"

    def stop(self) -> None:
        """Stops it, with its daemons."""
        ray.shutdown()

    def submit_noops(self, count: int) -> float:
        """Calls; they are submitted as they are made, so nothing is built before."""
        ray.get([self._noop.remote() for _ in range(count)], timeout=WAIT_SECONDS)
        return 0.0

    def round_trip(self) -> None:
        """A call and its value."""
        ray.get(self._noop.remote(), timeout=WAIT_SECONDS)

    def chain(self, steps: int) -> None:
        """Each call takes the reference that the one before returned."""
        value: Any = 0
        for _ in range(steps):
            value = self._step.remote(value)
        if ray.get(value, timeout=WAIT_SECONDS) != steps:
            raise AssertionError("the chain gave a wrong answer")

    def role(self, process: psutil.Process) -> str:
        """Ray names its processes itself; the workers by what they run."""
        name = str(process.name())
        return "executors" if name.startswith("ray::") else name
