"""Flow: whether a node whose edges have all been answered goes, is skipped, or fails. SEMANTICS §4."""

from __future__ import annotations

from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import DONE, SKIPPED, Run, Skip
from cascade_scheduler.core.values import ErrorInfo

__all__ = [
    "CONDITION_FALSE",
    "CONDITION_MISSING",
    "SKIPPED_CONDITION",
    "SKIPPED_DATA",
    "SKIPPED_SEQUENCE",
    "decide",
    "length",
    "truth",
]

CONDITION_FALSE = "ConditionFalse"
CONDITION_MISSING = "ConditionMissing"
SKIPPED_CONDITION = "UpstreamSkipped_Condition"
SKIPPED_SEQUENCE = "UpstreamSkipped_Sequence"
SKIPPED_DATA = "UpstreamSkipped_Data"


def decide(run: Run, node: int) -> Skip | ErrorInfo | None:
    """None: the node goes. The order of the checks is contractual: condition, order, then data."""
    edges = run.graph.sources(node)
    status = run.status
    for source, kind in edges:
        if kind == EdgeKind.CONDITION:
            if status[source] == SKIPPED:
                return Skip(SKIPPED_CONDITION, source)
            error = run.observe_errors.get(source)
            if error is not None:
                return error
            answer = truth(run, source)
            if answer is None:
                return Skip(CONDITION_MISSING, source)
            if not answer:
                return Skip(CONDITION_FALSE, source)
    for source, kind in edges:
        if kind == EdgeKind.SEQUENCE and status[source] == SKIPPED:
            return Skip(SKIPPED_SEQUENCE, source)
        if kind == EdgeKind.GATE and status[source] == SKIPPED:
            return Skip(run.skips[source].reason, run.skips[source].source)
    for source, kind in edges:
        if kind in (EdgeKind.DATA, EdgeKind.ITEMS) and status[source] == SKIPPED:
            return Skip(SKIPPED_DATA, source)
        if kind == EdgeKind.ITEMS and source in run.observe_errors:
            error = run.observe_errors[source]
            names = f"{run.task(node)!r} maps over the value of {run.task(source)!r}"
            return ErrorInfo("TypeError", f"{names}, which is not a list ({error.type}: {error.message})")
    return None


def truth(run: Run, node: int) -> bool | None:
    """bool() of a node's value; None when the node has no value."""
    if run.status[node] != DONE:
        return None
    if run.runs_code(node):
        return run.truths.get(node)
    known = length(run, node)
    if known is not None:
        return known > 0
    return True  # a gate stands for a map that may go


def length(run: Run, node: int) -> int | None:
    """len() of a node's value, where the core can know it."""
    if run.runs_code(node):
        return run.lengths.get(node)
    kind = run.graph.spec(node).kind
    if kind == NodeKind.COLLECT:
        return len(run.graph.inputs(node))
    expansion = run.expansions.get(node)
    return None if expansion is None else expansion.size
