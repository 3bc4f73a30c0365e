"""The process of one side in one round: starts it, measures, stops it, writes the figures as JSON.

`python -m benchmarks.side NAME --out FILE --measures throughput,latency …`; `benchmarks.rounds` runs it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.processes import adopt_orphans, cpu_seconds, stop_children
from benchmarks.sides import CLASSES, make
from benchmarks.sides.base import Side

WARM_TRIPS = 200
WARM_CHAIN = 50
NOT_INSTALLED = 3
"""Exit code: what the side needs cannot be imported."""

CHAINS = 3
"""Chains per round; the round's figure is the middle one."""


class Meter:
    """What the processes of a side spend while something is measured."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._before = cpu_seconds(side.role)

    def per(self, tasks: int) -> dict[str, float]:
        """µs of CPU per task by role, since it was made."""
        after = cpu_seconds(self._side.role)
        return {name: (spent - self._before.get(name, 0.0)) * 1e6 / tasks for name, spent in after.items()}


Found = tuple[dict[str, float], dict[str, float]]
"""Figures by metric, and µs of CPU per task by role."""


def throughput(side: Side, tasks: int) -> Found:
    """Many tasks at once."""
    side.submit_noops(max(1, tasks // 4))
    gc.collect()
    meter = Meter(side)
    began = time.perf_counter()
    building = side.submit_noops(tasks)
    seconds = time.perf_counter() - began
    cpu = meter.per(tasks)
    figures = {
        "throughput.tasks_per_second": tasks / seconds,
        "throughput.submitted_per_second": tasks / (seconds - building),
        "throughput.cpu_us_per_task": sum(cpu.values()),
    }
    return {**figures, **side.extra(tasks)}, cpu


def latency(side: Side, trips: int) -> Found:
    """Round trips one after the other."""
    for _ in range(min(WARM_TRIPS, trips)):
        side.round_trip()
    clock, spent = time.perf_counter, []
    meter = Meter(side)
    for _ in range(trips):
        began = clock()
        side.round_trip()
        spent.append(clock() - began)
    figures = {
        "latency.p50_ms": percentile(spent, 0.5) * 1e3,
        "latency.p99_ms": percentile(spent, 0.99) * 1e3,
    }
    return figures, meter.per(trips)


def chain(side: Side, steps: int) -> Found:
    """Chains one after the other."""
    side.chain(min(WARM_CHAIN, steps))
    spent = []
    meter = Meter(side)
    for _ in range(CHAINS):
        began = time.perf_counter()
        side.chain(steps)
        spent.append(time.perf_counter() - began)
    return {"chain.ms_per_task": percentile(spent, 0.5) * 1e3 / steps}, meter.per(CHAINS * steps)


def measure(side: Side, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, from a side that has started."""
    figures: dict[str, float] = {}
    cpu: dict[str, float] = {}
    wanted = options.measures.split(",")
    for name, work, size in (
        ("throughput", throughput, options.tasks),
        ("latency", latency, options.trips),
        ("chain", chain, options.steps),
    ):
        if name in wanted:
            more, spent = work(side, size)
            figures |= more
            cpu |= {f"{name}.{role}": value for role, value in spent.items()}
    if "memory" in wanted:
        figures |= side.memory(options.waiting)
    return {"figures": figures, "cpu": cpu}


def main() -> None:
    """Exit code 0: the figures are in the file. Else the reason is on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(CLASSES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measures", required=True)
    for option in ("--tasks", "--trips", "--steps", "--waiting"):
        parser.add_argument(option, type=int, required=True)
    options = parser.parse_args()
    adopt_orphans()
    code = 1
    try:
        began = time.perf_counter()
        side = make(options.name)
        version = side.start()
        started = time.perf_counter() - began
        found = measure(side, options)
        found |= {"version": version, "startup_seconds": started}
        options.out.write_text(json.dumps(found), encoding="utf-8")
        side.stop()
        code = 0
    except ImportError as error:
        print(f"not installed: {error}", file=sys.stderr)
        code = NOT_INSTALLED
    except Exception:
        traceback.print_exc()
    stop_children()
    sys.stderr.flush()
    # An interpreter with a peer's threads in it does not always end by itself.
    os._exit(code)


if __name__ == "__main__":
    main()
