"""Real processes that tests kill, freeze and start again: a Redis, schedulers, workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis

import cascade_dist as cs
from tests.machine import find_redis, free_port, wait_until

SECONDS = 30.0


class Process:
    """One process with its own session; its output goes to a file."""

    def __init__(self, *command: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def over(self) -> bool:
        """It has ended."""
        return self._process.poll() is not None

    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def says(self, text: str, seconds: float = SECONDS) -> None:
        """Waits until it has said something."""
        wait_until(lambda: text in self.text() or self.over, seconds)
        assert text in self.text()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def freeze(self) -> None:
        """It stands still, and keeps all its connections."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """The way a machine goes down; also all that it has started."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> int:
        """In order."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self, seconds: float = SECONDS) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(seconds)


class Redis:
    """A Redis of the test's own, which can be killed and started again on its file."""

    def __init__(
        self, directory: Path, *options: str, password: str | None = None, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = directory
        self._password = password
        self._command = [find_redis(), "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--dir", str(directory), *options]
        self.process: Process
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it has read its file."""
        self.process = Process(*self._command, log=self.directory / "redis.log")
        with self.client() as client:
            wait_until(lambda: _answers(client) or self.process.over)
        assert not self.process.over, self.process.text()

    def client(self) -> Any:
        """A plain client."""
        return redis.Redis(port=self.port, password=self._password)

    def stop(self) -> None:
        self.process.kill()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


class Cluster:
    """Schedulers on one state, and workers that know the addresses of all of them.

    Args:
        state: the URL of the state.
        directory: for logs and blobs.
        schedulers: how many; the first one leads, as long as nothing happens.
        workers: how many.
        slots: of each.
        options: of all schedulers.
        worker_env: what workers have in their environment.
    """

    def __init__(
        self,
        state: str,
        directory: Path,
        *,
        schedulers: int = 1,
        workers: int = 1,
        slots: int = 2,
        options: tuple[str, ...] = (),
        worker_env: dict[str, str] | None = None,
    ) -> None:
        self._state = state
        self._directory = directory
        self._options = options
        self.ports = [free_port() for _ in range(schedulers)]
        self.address = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.schedulers: list[Process] = []
        for number in range(schedulers):
            self.schedulers.append(self.start_scheduler(number))
            self.schedulers[-1].says(f"127.0.0.1:{self.ports[number]}")
        self._slots = slots
        self._worker_env = worker_env
        self.workers: list[Process] = []
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> Process:
        """Starts one more worker."""
        command = [sys.executable, "-m", "cascade_worker", self.address, "--slots", str(self._slots)]
        log = self._directory / f"worker-{len(self.workers)}.log"
        process = Process(*command, log=log, env=self._worker_env)
        self.workers.append(process)
        return process

    def start_scheduler(self, number: int, *more: str) -> Process:
        """Starts a scheduler, maybe again, at its own port."""
        command = [sys.executable, "-m", "cascade_scheduler", "--port", str(self.ports[number])]
        command += ["--state", self._state, "--blobs", str(self._directory / "blobs"), *self._options, *more]
        process = Process(*command, log=self._directory / f"scheduler-{number}.log")
        if number < len(self.schedulers):
            self.schedulers[number] = process
        return process

    def connect(self) -> cs.Cluster:
        """A client that knows all addresses."""
        return cs.connect(self.address)

    def stop(self) -> None:
        """Kills all that runs."""
        for process in (*self.workers, *self.schedulers):
            process.thaw()
            process.kill()
