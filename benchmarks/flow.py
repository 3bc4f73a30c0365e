"""`python -m benchmarks.flow`: what control flow costs the scheduler, beside a plain edge.

Each shape is a graph of many equal pieces on a private cluster of two workers with one slot each. The figure
is the CPU time of the scheduler's process from submit to result, divided by the nodes of the graph,
structural ones included; the ratio is to a plain edge in the same round. Shapes take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import cascade_dist as cs
from benchmarks.sides.ours import Ours
from benchmarks.tasks import choice, follow, items, noop, step

__all__ = ["SHAPES", "main"]

Shape = Callable[[int], tuple[Any, int]]


def plain(pieces: int) -> tuple[Any, int]:
    """A task, and one that takes its value."""
    return [follow(noop(), number) for number in range(pieces)], 2 * pieces + 1


def condition(pieces: int) -> tuple[Any, int]:
    """A task that runs if the value of another is true."""
    return [step(number).run_if(choice(True)) for number in range(pieces)], 2 * pieces + 1


def router(pieces: int) -> tuple[Any, int]:
    """A task that takes one of two routes by the value of a selector: selector, two routes, router, task."""
    target = [
        step(cs.Router(choice(number % 2), {0: step(number), 1: step(-number)})) for number in range(pieces)
    ]
    return target, 5 * pieces + 1


def known_map(pieces: int) -> tuple[Any, int]:
    """A map over a list that the client knows."""
    return step.map(value=range(2 * pieces)), 2 * pieces + 1


def lazy_map(pieces: int) -> tuple[Any, int]:
    """A map over a list that a task makes."""
    return step.map(value=items(2 * pieces)), 2 * pieces + 2


SHAPES: dict[str, Shape] = {
    "plain edge": plain,
    "condition": condition,
    "router": router,
    "map over a known list": known_map,
    "map over a lazy list": lazy_map,
}


def measure(side: Ours, shape: Shape, pieces: int) -> float:
    """Microseconds of the scheduler's CPU per node."""
    target, nodes = shape(pieces)
    process = psutil.Process(side._scheduler())
    before = sum(process.cpu_times()[:2])
    side._cluster.run(target, progress=False)
    return 1e6 * (sum(process.cpu_times()[:2]) - before) / nodes


def main(arguments: list[str] | None = None) -> int:
    """Prints figures and ratios; exit code 0 whatever they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow", description=__doc__)
    parser.add_argument(
        "--pieces", type=int, default=4_000, metavar="N", help="of each graph (default: 4,000)"
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="K", help="rounds (default: 5)")
    options = parser.parse_args(arguments)
    found: dict[str, list[float]] = {name: [] for name in SHAPES}
    side = Ours()
    side.start()
    try:
        for shape in SHAPES.values():
            measure(side, shape, max(1, options.pieces // 10))
        for _ in range(options.repeat):
            for name, shape in SHAPES.items():
                found[name].append(measure(side, shape, options.pieces))
    finally:
        side.stop()
    table = Table("shape", "µs of the scheduler per node", "ratio to a plain edge", "floor")
    for name, figures in found.items():
        ratios = [figure / base for figure, base in zip(figures, found["plain edge"], strict=True)]
        shown = f"{statistics.median(figures):.1f} ({min(figures):.1f} … {max(figures):.1f})"
        table.add_row(name, shown, f"{statistics.median(ratios):.2f}", "≤ 1.3")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
