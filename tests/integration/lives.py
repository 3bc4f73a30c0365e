"""Schedulers and workers that are really killed, and tasks that tell how often they ran."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

import cascade_dist as cs
from tests.machine import free_port

from .conftest import note

START_SECONDS = 30.0


@cs.task
def step(path: str, number: int, *before: Any) -> int:
    note(path, f"step{number}")
    return number + int(sum(before))


@cs.task
def gate(path: str, flag: str, *before: int) -> int:
    """Blocks until somebody has made the flag; who dies meanwhile finds it blocking."""
    note(path, "gate")
    while not os.path.exists(flag):
        time.sleep(0.02)
    return sum(before)


def fresh(url: str) -> str:
    """Empties a Redis: runs and workers of other tests would be waited for."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children, in a way that it cannot notice."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


class Life:
    """A scheduler and workers, which die together, or one by one.

    Args:
        state: where the scheduler keeps its state.
        blobs: directory of its blobs.
        workers: how many there are.
        slots: of each worker.
        grace: how long runs of before wait for workers that do not come.
        options: further ones of the scheduler.
    """

    def __init__(
        self,
        state: str,
        blobs: Path,
        *,
        workers: int = 1,
        slots: int = 4,
        grace: str = "60s",
        options: Sequence[str] = (),
    ) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._command = ["cascade_scheduler", "--port", str(port), "--state", state, "--blobs", str(blobs)]
        self._command += ["--recovery-grace", grace, *options]
        self._slots = slots
        self._scheduler = self._start(*self._command)
        self.workers = [self.start_worker() for _ in range(workers)]

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", *command], start_new_session=True)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more worker, which is not in `workers`."""
        return self._start("cascade_worker", self.address, "--slots", str(self._slots))

    def start_scheduler(self) -> None:
        """A scheduler at the address of the last one."""
        self._scheduler = self._start(*self._command)

    def kill_scheduler(self) -> None:
        """The workers stay, and look for the next one."""
        kill(self._scheduler)

    def restart_scheduler(self) -> None:
        """It dies, and another one takes its place."""
        self.kill_scheduler()
        self.start_scheduler()

    def connect(self) -> cs.Cluster:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return cs.connect(self.address)
            except cs.ConnectionFailedError:
                assert time.monotonic() < deadline, "the scheduler did not come up"
                time.sleep(0.1)

    def kill(self) -> None:
        """The way a machine goes down: nobody has time for anything."""
        for process in (self._scheduler, *self.workers):
            kill(process)
