"""`python -m benchmarks loop`: steps of loops a second, and the memory that a long loop takes.

The steps a second are those of one loop on a private cluster of one worker with one slot: through the
scheduler (`--no-fast-loops`), and left to the worker. The long run is on a cluster with its state in Redis:
first leased steps, then steps through the scheduler, while the resident memory of every process, and what
Redis says that it uses, are sampled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
from rich.console import Console
from rich.table import Table

import cascade_dist as cs
from benchmarks.tasks import countdown

__all__ = ["main", "sparkline"]

ROOT = Path(__file__).resolve().parent.parent
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
SAMPLE_SECONDS = 0.5
MIB = 1 << 20
FAST = "CASCADE_FAST_LOOPS"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop", description=__doc__)
    for name, default, help_ in (
        ("steps", 3_000, "steps through the scheduler, timed"),
        ("leased-steps", 100_000, "leased steps, timed"),
        ("repeat", 3, "rounds of both"),
        ("long-leased", 1_000_000, "leased steps of the long run; 0: no long run"),
        ("long-steps", 20_000, "steps through the scheduler of the long run"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{help_} ({default:,})"
        )
    return parser.parse_args(arguments)


@contextmanager
def _environment(fast: bool) -> Iterator[None]:
    before = os.environ.get(FAST)
    os.environ[FAST] = "true" if fast else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FAST]
        else:
            os.environ[FAST] = before


def _rate(cluster: cs.Cluster, steps: int) -> float:
    began = time.perf_counter()
    cluster.run(countdown(steps))
    return steps / (time.perf_counter() - began)


def rates(options: argparse.Namespace) -> dict[str, list[float]]:
    """Steps a second, by way, round by round."""
    found: dict[str, list[float]] = {}
    for way, fast, steps in (
        ("through the scheduler", False, options.steps),
        ("leased", True, options.leased_steps),
    ):
        with _environment(fast):
            cluster = cs.connect(None, workers=1, slots=1)
        with cluster:
            _rate(cluster, min(steps, 500))  # executors, functions and plans are there after it
            found[way] = [_rate(cluster, steps) for _ in range(options.repeat)]
    return found


# --- the long run ------------------------------------------------------------------------------------


@contextmanager
def _cluster_on_redis(fast: bool) -> Iterator[tuple[cs.Cluster, psutil.Process, Any]]:
    with _environment(fast):
        command = [sys.executable, str(ROOT / "scripts" / "cluster.py"), "--workers", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready = next(line for line in process.stdout if line.startswith("ready "))
        words = dict(word.split("=", 1) for word in ready.split()[1:])
        with cs.connect(words["address"]) as cluster, redis.Redis.from_url(words["redis"]) as client:
            yield cluster, psutil.Process(process.pid), client
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def _role(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "cascade_scheduler" in words:
        return "scheduler"
    return "worker" if "cascade_worker" in words else ""


def _sample(root: psutil.Process, client: Any) -> dict[str, float]:
    """MiB by role; executors count to their worker."""
    found = {"Redis, used": client.info("memory")["used_memory"] / MIB}
    for process in root.children(recursive=True):
        try:
            role = _role(process)
            if role:
                name = f"{role}, resident"
                found[name] = found.get(name, 0.0) + process.memory_info().rss / MIB
        except psutil.NoSuchProcess:
            continue
    return found


def long_run(steps: int, *, fast: bool) -> tuple[float, list[dict[str, float]]]:
    """Seconds, and samples of memory, of one long loop."""
    with _cluster_on_redis(fast) as (cluster, root, client):
        cluster.run(countdown(2_000))
        began = time.perf_counter()
        run = cluster.submit(countdown(steps))
        samples = []
        while not run.done():
            samples.append(_sample(root, client))
            time.sleep(SAMPLE_SECONDS)
        run.result()
        samples.append(_sample(root, client))
        return time.perf_counter() - began, samples


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """A line of bars from the least to the most, at most `width` of them."""
    if len(values) > width:
        size = len(values) / width
        values = [
            statistics.fmean(values[int(at * size) : max(int(at * size) + 1, int((at + 1) * size))])
            for at in range(width)
        ]
    low, high = min(values), max(values)
    span = high - low
    if not span:
        return BARS[0] * len(values)
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in values)


def _print_memory(console: Console, title: str, steps: int, seconds: float, samples: list[Any]) -> None:
    console.print(f"\n{title}: {steps:,} steps in {seconds:.0f} s, {steps / seconds:,.0f} a second")
    table = Table("MiB", "first", "last", "most", "over the run")
    for name in samples[-1]:
        values = [sample[name] for sample in samples if name in sample]
        # A tenth to either side, since the first and the last sample alone say little.
        part = max(1, len(values) // 10)
        first, last = statistics.median(values[:part]), statistics.median(values[-part:])
        table.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{max(values):.1f}", sparkline(values))
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 whatever the figures are."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("one loop", "steps a second (median)", "rounds")
    for way, rounds in rates(options).items():
        table.add_row(way, f"{statistics.median(rounds):,.0f}", " ".join(f"{rate:,.0f}" for rate in rounds))
    console.print(table)
    if options.long_leased:
        for title, steps, fast in (
            ("leased", options.long_leased, True),
            ("through the scheduler", options.long_steps, False),
        ):
            seconds, samples = long_run(steps, fast=fast)
            _print_memory(console, title, steps, seconds, samples)
    return 0
