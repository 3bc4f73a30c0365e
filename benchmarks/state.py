"""`python -m benchmarks state`: what keeping the state in Redis costs, and how long a run takes to go on.

Two private clusters of two workers with one slot each, one with its state in memory, one in a Redis of its
own (`appendonly yes`), are measured in turns: no-op tasks a second, and the round trip of one task. The
figures are ratios of the same run: Redis / memory.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

import cascade_dist as cs
from benchmarks.figures import percentile
from benchmarks.tasks import noop

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
FLOOR = 1.3
START_SECONDS = 20.0
WAIT_SECONDS = 300.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks state", description=__doc__)
    for name, default, help_ in (
        ("tasks", 10_000, "no-op tasks of one run"),
        ("trips", 1_000, "round trips"),
        ("repeat", 5, "rounds"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{help_} ({default:,})"
        )
    parser.add_argument("--unix", action="store_true", help="Redis listens on a Unix socket, not on TCP")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def redis_server(*, unix: bool = False) -> Iterator[str]:
    """The URL of a Redis of this benchmark's own, on TCP or on a Unix socket."""
    script = str(ROOT / "scripts" / "ensure_redis.py")
    found = subprocess.run([sys.executable, script, "--find"], stdout=subprocess.PIPE, text=True, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as folder:
        where = ["--port", "0", "--unixsocket", f"{folder}/redis.sock"] if unix else ["--port", str(port)]
        command = [found.stdout.strip(), *where, "--bind", "127.0.0.1", "--dir", folder]
        process = subprocess.Popen([*command, "--appendonly", "yes", "--save", ""], stdout=subprocess.DEVNULL)
        url = f"unix://{folder}/redis.sock" if unix else f"redis://127.0.0.1:{port}/0"
        try:
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def throughput(cluster: cs.Cluster, tasks: int) -> float:
    """No-op tasks a second, graph building included."""
    began = time.perf_counter()
    values = cluster.submit([noop() for _ in range(tasks)]).result(WAIT_SECONDS)
    if len(values) != tasks:
        raise AssertionError(f"{len(values)} results of {tasks}")
    return tasks / (time.perf_counter() - began)


def round_trip(cluster: cs.Cluster, trips: int) -> float:
    """Milliseconds from submit to result of one task, p50."""
    taken = []
    for _ in range(trips):
        began = time.perf_counter()
        cluster.submit(noop()).result(WAIT_SECONDS)
        taken.append((time.perf_counter() - began) * 1e3)
    return percentile(taken, 0.5)


MEASURES: tuple[tuple[str, Callable[[cs.Cluster, argparse.Namespace], float], bool], ...] = (
    ("no-op tasks/s", lambda cluster, options: throughput(cluster, options.tasks), True),
    ("round trip p50, ms", lambda cluster, options: round_trip(cluster, options.trips), False),
)
"""What is measured, how, and whether more is better."""


def measure(
    clusters: dict[str, cs.Cluster], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Figures by measure and state, round by round; who begins a round takes turns."""
    for cluster in clusters.values():
        throughput(cluster, max(100, options.tasks // 4))  # executors, functions and plans are there after it
        round_trip(cluster, max(20, options.trips // 10))
    found: dict[str, dict[str, list[float]]] = {label: {} for label, _, _ in MEASURES}
    for number in range(options.repeat):
        names = list(clusters)[:: 1 if number % 2 else -1]
        for label, figure, _ in MEASURES:
            for name in names:
                found[label].setdefault(name, []).append(figure(clusters[name], options))
    return found


def _print(console: Console, found: dict[str, dict[str, list[float]]]) -> None:
    table = Table("", "memory", "Redis", f"ratio (floor {FLOOR})", "rounds")
    for label, _, more_is_better in MEASURES:
        memory, stored = found[label]["memory"], found[label]["redis"]
        ratios = [a / b if more_is_better else b / a for a, b in zip(memory, stored, strict=True)]
        table.add_row(
            label,
            f"{statistics.median(memory):,.2f}",
            f"{statistics.median(stored):,.2f}",
            f"{statistics.median(ratios):.2f} {'meets' if statistics.median(ratios) <= FLOOR else 'below'}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 whatever the figures are."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    with (
        redis_server(unix=options.unix) as url,
        cs.connect(None, workers=2, slots=1) as memory,
        cs.connect(None, workers=2, slots=1, state_backend=url) as stored,
    ):
        _print(console, measure({"memory": memory, "redis": stored}, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
