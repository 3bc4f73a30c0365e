"""Programs on a cluster of real processes, many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import cascade_dist as cs
from cascade_dist.client.events import (
    ResourceAcquired,
    ResourceReleased,
    TaskExecutionFinished,
    TaskRetrying,
    TaskSkipped,
)
from tests.simulation.evaluator import evaluate
from tests.simulation.outcome import Happened, Outcome, differences
from tests.simulation.programs import Program, build

__all__ = ["run_all"]

SECONDS_MAX = 60.0
"""How long any of the runs may take."""


def run_all(cluster: cs.Cluster, programs: Sequence[Program]) -> list[tuple[Program, list[str]]]:
    """Runs all of the programs at once; gives those that did not come to what they mean, and how."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no Param is named")
        verdicts = [evaluate(build(program), program.params) for program in programs]
        runs = [
            cluster.submit(build(program), params=program.params, on_failure=program.on_failure)
            for program in programs
        ]
    wrong = []
    for program, verdict, run in zip(programs, verdicts, runs, strict=True):
        found = differences(program, verdict, _outcome(run))
        if found:
            wrong.append((program, found))
    return wrong


def _outcome(run: cs.Run[Any]) -> Outcome:
    error = run.exception(SECONDS_MAX)
    happened = Happened()
    for event in run.events():
        if isinstance(event, TaskSkipped):
            happened.add(event.kind, event.task, "", event.reason)
        elif isinstance(event, TaskExecutionFinished):
            happened.add(event.kind, event.task, event.status, "")
        elif isinstance(event, TaskRetrying):
            happened.add(event.kind, event.task, "", "")
        elif isinstance(event, ResourceAcquired | ResourceReleased):
            happened.add(event.kind, event.resource, "", "")
    if error is None:
        return Outcome("value", run.result(), None, happened)
    if isinstance(error, cs.DependencyMissingError):
        return Outcome("missing", None, error, happened)
    return Outcome("failed", None, error, happened)
