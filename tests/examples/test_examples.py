"""The examples give on a cluster what they give in one process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cascade_dist as cs

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def skipped(run: Any) -> list[tuple[str, str]]:
    return sorted((e.task, e.reason) for e in run.events() if isinstance(e, cs.events.TaskSkipped))


# --- the data pipeline -----------------------------------------------------------------------------


@pytest.mark.integration
def test_the_pipeline_gives_the_plain_report(example_cluster: cs.Cluster, tmp_path: Path) -> None:
    pipeline = load("data_pipeline")
    paths = pipeline.write_sample(tmp_path)
    run = example_cluster.submit(pipeline.graph(paths))
    assert run.result(60) == pipeline.plain(paths)
    ran = {e.task for e in run.events() if isinstance(e, cs.events.TaskExecutionFinished)}
    reasons = skipped(run)
    assert sum(task.startswith("read_") and why == "Pruned" for task, why in reasons) == 2 * len(paths)
    assert ("nothing_in", "Pruned") in reasons
    assert ("convert", "ConditionFalse") in reasons
    assert {"read_csv", "read_json", "read_log", "nothing_in", "convert"} <= ran


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    pipeline = load("data_pipeline")
    for name, text, expected in (("a", "[]", "json"), ("b", "shop=x", "log"), ("c.CSV", "", "csv")):
        path = tmp_path / name
        path.write_text(text)
        assert pipeline.format_of_file(str(path)) == expected


# --- the agent -------------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_agent_ends_where_the_plain_loop_does(example_cluster: cs.Cluster) -> None:
    agent = load("agent_loop")
    run = example_cluster.submit(agent.graph(120, 3), name="warehouse")
    assert run.result(90) == agent.plain(120, 3)


def test_the_agents_days_are_the_same_in_every_process() -> None:
    agent = load("agent_loop")
    here = agent.plain(300, 5)
    program = f"import agent_loop; print(agent_loop.plain(300, 5) == {here!r})"
    there = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLES, capture_output=True, text=True, check=True, timeout=60
    )
    assert there.stdout.strip() == "True"


# --- the sweep -------------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_sweep_finds_what_the_plain_one_finds(example_cluster: cs.Cluster) -> None:
    sweep = load("parameter_sweep")
    example_cluster.set_rate_limit("task:score*", "200/s")
    try:
        run = example_cluster.submit(sweep.sweep(sweep.settings(), target=0.98))
        assert run.result(100) == sweep.plain(0.98)
    finally:
        example_cluster.clear_constraints(scope="task:score*")


def test_a_sweep_ends_early_or_with_one_setting() -> None:
    sweep = load("parameter_sweep")
    assert sweep.plain(0.5)["stopped_early"]
    last = sweep.plain(1.1)
    assert not last["stopped_early"]
    assert last["rounds"] == 5


# --- as programs -----------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["data_pipeline.py"], "330 rows in 24 files"),
        (["agent_loop.py", "--days", "30"], "after 30 days"),
        (["parameter_sweep.py", "--rate", "500/s"], "trials in"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_examples_run_as_programs(arguments: list[str], shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
