"""Dask's distributed on this machine."""

from __future__ import annotations

import logging
from typing import Any

import distributed as untyped

from benchmarks.sides.base import WAIT_SECONDS, WORKERS, Side

__all__ = ["Dask"]


def _noop(_: int = 0) -> None:
    return None


def _step(value: int) -> int:
    return value + 1


distributed: Any = untyped  # it has types, but not for its constructors


class Dask(Side):
    """A LocalCluster of two processes with one thread each, without dashboard. Its scheduler lives here."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None

    def start(self) -> str:
        """Starts it."""
        self._cluster = distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        self._client = distributed.Client(self._cluster)
        self._client.wait_for_workers(WORKERS, timeout=60)
        return f"distributed {distributed.__version__}"

    def stop(self) -> None:
        """Stops it, with its workers."""
        if self._client is not None:
            self._client.close(timeout=10)
        if self._cluster is not None:
            self._cluster.close(timeout=10)

    def submit_noops(self, count: int) -> float:
        """One map: the fastest of the ways in which Dask takes many calls (one message for all of them)."""
        futures = self._client.map(_noop, range(count), pure=False)
        self._client.gather(futures)
        return 0.0

    def round_trip(self) -> None:
        """A call and its value."""
        self._client.submit(_noop, pure=False).result(timeout=WAIT_SECONDS)

    def chain(self, steps: int) -> None:
        """Each call takes the future that the one before returned."""
        value: Any = 0
        for _ in range(steps):
            value = self._client.submit(_step, value, pure=False)
        if value.result(timeout=WAIT_SECONDS) != steps:
            raise AssertionError("the chain gave a wrong answer")
