"""Tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmarks.figures import METRICS, OURS, SIDES, Metric, Spread, collect, ratio
from benchmarks.rounds import Absent, Round, Sizes

__all__ = ["Report"]

NAMES = {
    "cascade": "Cascade Dist",
    "transport": "bare transport",
    "grpc": "the same by gRPC",
    "ray": "Ray",
    "dask": "Dask",
}


class Report:
    """Everything that one run of the benchmarks found."""

    def __init__(self, machine: Mapping[str, str], sizes: Sizes, repeats: int) -> None:
        self._machine = machine
        self._sizes = sizes
        self._repeats = repeats
        self._spreads: dict[str, dict[str, Spread]] = {}
        self._cpu: dict[str, dict[str, Spread]] = {}
        self._versions: dict[str, str] = {}
        self._startups: dict[str, Spread] = {}
        self.absent: list[Absent] = []

    def add(self, side: str, rounds: Sequence[Round]) -> None:
        """Takes all rounds of a side."""
        self._spreads[side] = collect(one.figures for one in rounds)
        self._cpu[side] = collect(one.cpu for one in rounds)
        self._startups[side] = Spread(tuple(one.startup_seconds for one in rounds))
        self._versions[side] = rounds[0].version

    @property
    def _sides(self) -> list[str]:
        return [side for side in SIDES if side in self._spreads]

    # --- for people ------------------------------------------------------------------------------

    def print(self, console: Console) -> None:
        """All tables."""
        console.print(", ".join(f"{name} {value}" for name, value in self._machine.items()))
        sizes = self._sizes
        console.print(
            f"2 workers with 1 slot each. {self._repeats} repeats, sides in turn: median (low … high). "
            f"{sizes.tasks:,} no-ops, {sizes.trips:,} round trips, chains of {sizes.steps:,}, "
            f"{sizes.waiting:,} waiting tasks."
        )
        for side in self._sides:
            started = self._startups[side].median
            console.print(f"  {NAMES[side]}: {self._versions[side]}, started in {started:.1f} s")
        console.print(self._figures())
        if OURS in self._spreads and len(self._sides) > 1:
            console.print(self._ratios())
        if any(self._cpu.values()):
            console.print(self._processes())
        for absent in self.absent:
            console.print(f"[yellow]{NAMES[absent.side]} is absent:[/yellow] {escape(absent.reason)}")

    def _figures(self) -> Table:
        table = _table("Figures")
        table.add_column("")
        table.add_column("unit")
        for side in self._sides:
            table.add_column(NAMES[side], justify="right")
        table.add_column("floor", justify="right")
        table.add_column("")
        for metric in METRICS:
            found = [self._spreads[side].get(metric.name) for side in self._sides]
            if any(found):
                cells = [_cell(metric, spread) for spread in found]
                table.add_row(metric.label, metric.unit, *cells, *self._floor(metric))
        return table

    def _floor(self, metric: Metric) -> tuple[str, str]:
        if metric.floor is None:
            return "", ""
        limit = ("≥ " if metric.more_is_better else "≤ ") + metric.show(metric.floor)
        ours = self._spreads.get(OURS, {}).get(metric.name)
        if ours is None:
            return limit, ""
        return limit, "[green]meets[/green]" if metric.meets(ours.median) else "[red]below[/red]"

    def _ratios(self) -> Table:
        table = _table(f"How many times better {NAMES[OURS]} is (below 1: worse)")
        table.add_column("")
        others = [side for side in self._sides if side != OURS]
        for side in others:
            table.add_column(f"than {NAMES[side]}", justify="right")
        for metric in METRICS:
            values = [self._ratio(metric, side) for side in others]
            if any(value is not None for value in values):
                table.add_row(metric.label, *("" if value is None else f"{value:.2f} ×" for value in values))
        return table

    def _ratio(self, metric: Metric, side: str) -> float | None:
        ours, theirs = self._spreads.get(OURS, {}).get(metric.name), self._spreads[side].get(metric.name)
        return ratio(metric, ours, theirs) if ours is not None and theirs is not None else None

    def _processes(self) -> Table:
        table = _table("CPU by process, µs per task")
        measures = list(dict.fromkeys(name.partition(".")[0] for cpu in self._cpu.values() for name in cpu))
        for title in ("", "process", *measures):
            table.add_column(title, justify="right" if title in measures else "left")
        for side in self._sides:
            cpu = self._cpu[side]
            for role in dict.fromkeys(name.partition(".")[2] for name in cpu):
                spreads = [cpu.get(f"{measure}.{role}") for measure in measures]
                cells = ["" if spread is None else f"{spread.median:,.1f}" for spread in spreads]
                table.add_row(NAMES[side], role, *cells)
        return table

    def markdown(self) -> str:
        """The figures as the table of the README."""
        lines = [
            ", ".join(f"{name} {value}" for name, value in self._machine.items())
            + f"; {self._repeats} repeats; "
            + ", ".join(self._versions[side] for side in self._sides),
            "",
            "| | unit | floor | " + " | ".join(NAMES[side] for side in self._sides) + " |",
            "| --- | --- | --- |" + " ---: |" * len(self._sides),
        ]
        for metric in METRICS:
            found = [self._spreads[side].get(metric.name) for side in self._sides]
            if any(found):
                limit, word = self._floor(metric)
                floor = f"{limit} {Text.from_markup(word).plain}".strip()
                cells = [Text.from_markup(_cell(metric, spread)).plain for spread in found]
                lines.append("| " + " | ".join([metric.label, metric.unit, floor, *cells]) + " |")
        return "\n".join(lines) + "\n"

    # --- for programs ----------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Everything, with all values of all repeats."""
        sizes = self._sizes
        return {
            "machine": dict(self._machine),
            "sizes": {name: getattr(sizes, name) for name in ("tasks", "trips", "steps", "waiting")},
            "repeats": self._repeats,
            "floors": {metric.name: metric.floor for metric in METRICS if metric.floor is not None},
            "sides": {side: self._side_as_json(side) for side in self._sides},
            "absent": {absent.side: absent.reason for absent in self.absent},
        }

    def _side_as_json(self, side: str) -> dict[str, Any]:
        ratios = {metric.name: self._ratio(metric, side) for metric in METRICS} if side != OURS else {}
        return {
            "version": self._versions[side],
            "startup_seconds": self._startups[side].as_json(),
            "figures": {name: spread.as_json() for name, spread in self._spreads[side].items()},
            "cpu_us_per_task": {name: spread.as_json() for name, spread in self._cpu[side].items()},
            "times_better_than_it": {name: value for name, value in ratios.items() if value is not None},
        }


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")


def _cell(metric: Metric, spread: Spread | None) -> str:
    if spread is None:
        return ""
    if len(spread.values) == 1:
        return metric.show(spread.median)
    return f"{metric.show(spread.median)} [dim]({metric.show(spread.low)} … {metric.show(spread.high)})[/dim]"
