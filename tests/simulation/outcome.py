"""What came of a run, and how that differs from what had to."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from tests.simulation.evaluator import PRUNED, Problem, Verdict
from tests.simulation.programs import Program
from tests.simulation.tasks import INNER, text

__all__ = ["Happened", "Outcome", "differences", "told"]

SILENT = ("gather", "never", "router", "literal", "gate")
"""Nodes that no call of the program stands for."""


class Happened:
    """What a run's events say, counted by the names of calls."""

    def __init__(self) -> None:
        self.skipped: Counter[tuple[str, str]] = Counter()
        self.finished: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        """Resources that were set up and not torn down."""

    def add(self, kind: str, task: str, status: str, reason: str) -> None:
        """Counts an event."""
        if task in SILENT or task.endswith(".gate") or task.startswith(INNER):
            return
        if kind == "TaskSkipped":
            self.skipped[_plain(task), reason] += 1
        elif kind == "TaskExecutionFinished" and status == "Succeeded":
            self.finished[task] += 1
        elif kind == "TaskRetrying":
            self.retries[task] += 1
        elif kind in ("ResourceAcquired", "ResourceReleased"):
            self.held[task] += 1 if kind == "ResourceAcquired" else -1


class Outcome(NamedTuple):
    """How a run ended; `kind` as in `Verdict`."""

    kind: str
    value: Any
    error: BaseException | None
    happened: Happened


def told(skip_reason: str) -> tuple[str, Any, BaseException | None]:
    """What a client makes of a target that was skipped."""
    if skip_reason == "UpstreamSkipped_Sequence":
        return "value", None, None
    return "missing", None, None


def differences(program: Program, verdict: Verdict, outcome: Outcome) -> list[str]:
    """In which ways the outcome is not what it had to be; empty: it is."""
    found = []
    if outcome.kind == "missing" and Problem("DependencyMissingError") in verdict.problems:
        pass  # it is a nested graph whose target was skipped
    elif outcome.kind != verdict.kind:
        found.append(f"it ended as {_ending(outcome)}, and not as {_wanted(verdict)}")
    elif verdict.kind == "value" and text(outcome.value) != text(verdict.value):
        found.append(f"the value is {text(outcome.value)}, and not {text(verdict.value)}")
    elif verdict.kind == "failed" and not _is_one_of(outcome.error, verdict):
        found.append(f"it failed with {outcome.error!r}, and not with one of {verdict.problems}")
    happened = outcome.happened
    found += [f"{count} instances of {name} were left" for name, count in happened.held.items() if count]
    if verdict.kind == "failed" and program.on_failure == "cancel":
        found += _beyond(happened, verdict)
    else:
        found += _skips(happened, verdict)
        found += _counts("finished", happened.finished, verdict.executed)
        if verdict.kind != "failed":
            found += _counts("tried again", happened.retries, verdict.retries)
    return found


def _ending(outcome: Outcome) -> str:
    return f"{outcome.kind} {outcome.error!r}" if outcome.error is not None else outcome.kind


def _wanted(verdict: Verdict) -> str:
    return f"{verdict.kind} {verdict.problems}" if verdict.problems else verdict.kind


def _is_one_of(error: BaseException | None, verdict: Verdict) -> bool:
    for problem in verdict.problems:
        if any(kind.__name__ == problem.type for kind in type(error).__mro__) and (
            problem.message is None or problem.message == str(error)
        ):
            return True
    return False


def _skips(happened: Happened, verdict: Verdict) -> list[str]:
    """Each skipped call has to be told once, with one of its reasons; and no other."""
    left = Counter(happened.skipped)
    found = []
    for call in sorted(verdict.skipped, key=lambda call: len(call.reasons)):
        if call.name.startswith(INNER):
            continue
        for reason in sorted(call.reasons):
            if left[_plain(call.name), reason] > 0:
                left[_plain(call.name), reason] -= 1
                break
        else:
            optional = verdict.kind == "failed" and PRUNED in call.reasons
            if not optional:
                found.append(
                    f"{call.name} was not told to be skipped for {' or '.join(sorted(call.reasons))}"
                )
    for (name, reason), count in left.items():
        if count and not name.endswith("]"):
            found.append(
                f"{name} was skipped for {reason}{'' if count == 1 else f', {count} times too often'}"
            )
    return found


def _counts(what: str, have: Counter[str], want: Counter[str]) -> list[str]:
    return [
        f"{name} has {what} {have[name]} times, and not {want[name]}"
        for name in sorted({*have, *want})
        if not name.startswith(INNER) and have[name] != want[name]
    ]


def _beyond(happened: Happened, verdict: Verdict) -> list[str]:
    """Of a run that was stopped, some may be missing, and nothing else may be there."""
    allowed: Counter[tuple[str, str]] = Counter()
    for call in verdict.skipped:
        for reason in call.reasons:
            allowed[_plain(call.name), reason] += 1
    found = [
        f"{name} was skipped for {reason}"
        for (name, reason), count in happened.skipped.items()
        if count > allowed[name, reason] and not name.endswith("]")
    ]
    return found + [
        f"{name} has finished {count} times, and not {verdict.executed[name]}"
        for name, count in happened.finished.items()
        if count > verdict.executed[name]
    ]


def _plain(name: str) -> str:
    """A skipped map is told by its task's name or as `name.map`."""
    return name.removesuffix(".map")
