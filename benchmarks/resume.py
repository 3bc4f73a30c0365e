"""`python -m benchmarks resume`: how long a run takes to go on after its scheduler was killed.

A run of many no-op tasks, all done, a task that holds a gate, and one behind it. The scheduler is killed with
SIGKILL while the gate is held, the gate opens, and a new scheduler is started on the same Redis: it reads the
run, the workers say what they hold, the gate's result is taken once, and the last task is dispatched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

import cascade_dist as cs
from benchmarks.state import WAIT_SECONDS, redis_server
from benchmarks.tasks import follow, gate, noop

__all__ = ["main"]

FLOOR_SECONDS = 2.0
WORKERS = 2
START_SECONDS = 30.0
DOWN_SECONDS = 1.0
"""For so long there is no scheduler."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks resume", description=__doc__)
    for name, default, help_ in (("nodes", 10_000, "nodes that are done"), ("repeat", 3, "rounds")):
        shown = f"{help_} ({default:,})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=shown)
    return parser.parse_args(arguments)


@dataclass(frozen=True, slots=True)
class Resumed:
    """Seconds of one round."""

    hello_to_dispatch: float
    """From the last Hello of a worker to the start of the task behind the gate."""
    start_to_hello: float
    """From the start of the new process to the last Hello: it reads the run meanwhile."""
    start_to_result: float
    """From the start of the new process to the result at the client."""


class Processes:
    """A scheduler and workers on a Redis, with the scheduler's log in a file."""

    def __init__(self, url: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._url = url
        self._folder = folder
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self, log: str) -> Path:
        """Starts one; returns the path of its log."""
        path = self._folder / log
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "cascade_scheduler", "--port", port, "--state", self._url]
        with path.open("wb") as file:
            self._scheduler = subprocess.Popen(
                [*command, "--log-format", "json", "--blobs", str(self._folder / "blobs")],
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return path

    def start_workers(self) -> None:
        """Starts them; they connect when there is a scheduler."""
        for number in range(WORKERS):
            command = [sys.executable, "-m", "cascade_worker", self.address, "--name", f"w{number}"]
            local = ["--local-dir", str(self._folder / f"w{number}"), "--log-level", "error"]
            self._workers.append(subprocess.Popen([*command, *local], stdout=subprocess.DEVNULL))

    def kill_scheduler(self) -> None:
        """Ends it without a word."""
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()

    def stop(self) -> None:
        """Ends all of them."""
        for process in (*self._workers, self._scheduler):
            if process is not None:
                process.terminate()
        for process in (*self._workers, self._scheduler):
            if process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()


@contextlib.contextmanager
def _processes(url: str) -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        processes = Processes(url, Path(folder))
        try:
            yield processes
        finally:
            processes.stop()


def round_of(url: str, nodes: int) -> Resumed:
    """One life, death and second life of a scheduler."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()  # else it would wait for the workers of the last round
    with _processes(url) as processes, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "gate")
        processes.start_scheduler("first.log")
        processes.start_workers()
        with _connected(processes.address) as cluster:
            _wait_for(lambda: cluster.status().workers == WORKERS)
            target = [follow(gate(path), 1), *(noop() for _ in range(nodes))]
            run = cluster.submit(target)
            _wait_for(lambda: cluster.describe(run.id).run.progress.done >= nodes)
            processes.kill_scheduler()
            Path(path).touch()
            time.sleep(DOWN_SECONDS)
            began = time.time()
            log = processes.start_scheduler("second.log")
            if len(run.result(WAIT_SECONDS)) != nodes + 1:
                raise AssertionError("the run gave a wrong answer")
            ended = time.time()
            dispatched = max(
                event.timestamp.timestamp()
                for event in cluster.events(run.id, follow=False)
                if event.kind == "TaskExecutionStarted" and getattr(event, "task", "") == "follow"
            )
        hello = _last_hello(log)
        return Resumed(dispatched - hello, hello - began, ended - began)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[cs.Cluster]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            cluster = cs.connect(address, progress=False)
            break
        except cs.ConnectionFailedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with cluster:
        yield cluster


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the tasks were not done in time")
        time.sleep(0.05)


def _last_hello(log: Path) -> float:
    """When the last worker was connected, in seconds since the Unix epoch."""
    found = []
    for line in log.read_text().splitlines():
        told = json.loads(line)
        if "is connected with" in told["message"]:
            found.append(datetime.fromisoformat(told["timestamp"]).timestamp())
    if len(found) < WORKERS:
        raise AssertionError(f"{len(found)} workers came back")
    return max(found)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 whatever the figures are."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    with redis_server() as url:
        rounds = [round_of(url, options.nodes) for _ in range(options.repeat)]
    table = Table(f"{options.nodes:,} nodes done", "median", "rounds")
    for label, values in (
        ("last Hello to dispatch", [one.hello_to_dispatch for one in rounds]),
        ("new process to last Hello", [one.start_to_hello for one in rounds]),
        ("new process to result", [one.start_to_result for one in rounds]),
    ):
        shown = f"{statistics.median(values):.2f} s"
        if label == "last Hello to dispatch":
            meets = "meets" if statistics.median(values) <= FLOOR_SECONDS else "above"
            shown += f" ({meets} {FLOOR_SECONDS:g} s)"
        table.add_row(label, shown, " ".join(f"{value:.2f}" for value in values))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
