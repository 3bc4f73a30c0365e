"""What is measured, in which unit, against which floor; medians and spreads of repeats."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MEASURES", "METRICS", "OURS", "SIDES", "Metric", "Spread", "collect", "ratio"]

OURS = "cascade"
SIDES = (OURS, "transport", "grpc", "ray", "dask")
"""In the order in which they are shown and run."""

MEASURES = ("throughput", "latency", "chain", "memory")


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure."""

    name: str
    """`measure.figure`, as in the JSON."""
    label: str
    unit: str
    more_is_better: bool
    floor: float | None = None
    """What our own figure has to meet, in the metric's unit."""
    digits: int = 2

    @property
    def measure(self) -> str:
        """The measure that it belongs to."""
        return self.name.partition(".")[0]

    def meets(self, value: float) -> bool:
        """Whether a figure is as good as the floor; True without one."""
        if self.floor is None:
            return True
        return value >= self.floor if self.more_is_better else value <= self.floor

    def show(self, value: float) -> str:
        """A figure as people read it, without its unit."""
        return f"{value:,.{self.digits}f}"


METRICS = (
    Metric("throughput.tasks_per_second", "no-op tasks, graph building included", "tasks/s", True, 8000, 0),
    Metric("throughput.submitted_per_second", "no-op tasks, from submit on", "tasks/s", True, None, 0),
    Metric("throughput.cpu_us_per_task", "CPU of all processes together", "µs/task", False, None, 0),
    Metric("throughput.unbatched_per_second", "one message per task", "tasks/s", True, None, 0),
    Metric("latency.p50_ms", "one task's round trip, p50", "ms", False, 1.2),
    Metric("latency.p99_ms", "one task's round trip, p99", "ms", False),
    Metric("chain.ms_per_task", "dependent tasks, per task", "ms", False, 0.6),
    Metric("memory.scheduler_bytes_per_task", "scheduler, per waiting task", "bytes", False, 4096, 0),
    Metric("memory.client_bytes_per_task", "client, per waiting task", "bytes", False, None, 0),
    Metric("memory.submit_seconds", "until all tasks wait", "s", False, None, 1),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of what repeats gave."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value; of an even number of values the mean of the two in the middle."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)

    def as_json(self) -> dict[str, Any]:
        """For the JSON file."""
        return {"median": self.median, "low": self.low, "high": self.high, "values": list(self.values)}


def collect(rounds: Iterable[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of every figure over rounds, each a mapping from metric name to value."""
    values: dict[str, list[float]] = {}
    for one in rounds:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: Spread(tuple(found)) for name, found in values.items()}


def ratio(metric: Metric, ours: Spread, theirs: Spread) -> float:
    """How many times better ours is than theirs; below 1 it is worse."""
    if metric.more_is_better:
        return ours.median / theirs.median
    return theirs.median / ours.median


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of the values lies; nearest rank, so it is a real one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
