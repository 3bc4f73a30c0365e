"""What the benchmarks make of what they measure."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.__main__ import parse
from benchmarks.figures import METRICS, Spread, collect, percentile, ratio
from benchmarks.report import Report
from benchmarks.rounds import Absent, Round, Sizes, measures_of

MORE = next(metric for metric in METRICS if metric.name == "throughput.tasks_per_second")
LESS = next(metric for metric in METRICS if metric.name == "latency.p50_ms")


def test_a_floor_is_met_from_the_side_that_is_better() -> None:
    assert [MORE.meets(value) for value in (7_999, 8_000, 9_000)] == [False, True, True]
    assert [LESS.meets(value) for value in (1.1, 1.2, 1.3)] == [True, True, False]


def test_spreads_are_taken_by_metric() -> None:
    spreads = collect([{"a": 3.0, "b": 1.0}, {"a": 1.0}, {"a": 2.0}])
    assert (spreads["a"].low, spreads["a"].median, spreads["a"].high) == (1.0, 2.0, 3.0)
    assert spreads["b"].values == (1.0,)


def test_a_ratio_above_one_is_always_better() -> None:
    fast, slow = Spread((200.0,)), Spread((100.0,))
    assert ratio(MORE, fast, slow) == 2.0
    assert ratio(LESS, fast, slow) == 0.5


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_memory_is_measured_once_and_of_our_side_alone() -> None:
    wanted = ["latency", "memory"]
    assert measures_of("cascade", wanted, 0) == wanted
    assert measures_of("cascade", wanted, 1) == ["latency"]
    assert measures_of("ray", wanted, 0) == ["latency"]


@pytest.mark.parametrize(
    "arguments", [["--peers", "spark"], ["--repeat", "0"], ["speed"], ["--tasks", "-1"], ["--without", "ray"]]
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_report_shows_floors_ratios_and_who_is_absent() -> None:
    report = Report({"cores": "2"}, Sizes(), repeats=2)
    ours = {"throughput.tasks_per_second": 9_000.0, "latency.p50_ms": 2.0}
    report.add("cascade", [Round("cascade", ours, {"latency.scheduler": 400.0}, "cascade-dist 1", 0.5)])
    report.add("ray", [Round("ray", {"latency.p50_ms": 1.0}, {}, "ray 2", 3.0)])
    report.absent.append(Absent("dask", "not installed: No module named 'distributed' [extra]"))
    out = io.StringIO()
    report.print(Console(file=out, width=200))
    text = out.getvalue()
    assert "meets" in text
    assert "below" in text
    assert "0.50 ×" in text
    assert "No module named 'distributed' [extra]" in text
    assert "| ≥ 8,000 meets | 9,000 |" in report.markdown()
    written = report.as_json()
    assert written["sides"]["ray"]["times_better_than_it"] == {"latency.p50_ms": 0.5}
    assert written["absent"].keys() == {"dask"}
