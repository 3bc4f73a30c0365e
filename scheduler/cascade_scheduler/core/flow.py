"""Flow: whether a node whose edges have all been answered goes, is skipped, or fails. SEMANTICS §4.

What a decision needs of a value is looked up at the node whose value it is: a router's chosen route, or the
source of a stage that was skipped. When it was not observed there, the answer is `Unobserved`: the node waits
until somebody has looked.
"""

from __future__ import annotations

from typing import NamedTuple

from cascade_scheduler.core.candidates import OBSERVE_AMOUNT, OBSERVE_ROUTE, OBSERVE_SPLIT, OBSERVE_TRUTH
from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import DONE, SKIPPED, Run, Skip
from cascade_scheduler.core.values import ErrorInfo

__all__ = [
    "CACHE_HIT",
    "CONDITION_FALSE",
    "CONDITION_MISSING",
    "PRUNED",
    "SKIPPED_CONDITION",
    "SKIPPED_DATA",
    "SKIPPED_ROUTE",
    "SKIPPED_SEQUENCE",
    "Unobserved",
    "amounts",
    "choose",
    "decide",
    "delay",
    "length",
    "truth",
]

CACHE_HIT = "CacheHit"
CONDITION_FALSE = "ConditionFalse"
CONDITION_MISSING = "ConditionMissing"
PRUNED = "Pruned"
SKIPPED_CONDITION = "UpstreamSkipped_Condition"
SKIPPED_SEQUENCE = "UpstreamSkipped_Sequence"
SKIPPED_ROUTE = "UpstreamSkipped_Route"
SKIPPED_DATA = "UpstreamSkipped_Data"

MICROS = 1_000_000
_VALUES = frozenset((EdgeKind.DATA, EdgeKind.ITEMS, EdgeKind.AMOUNT))


class Unobserved(NamedTuple):
    """A fact about a node's value that nobody has looked for: bits of what, and in which routers' keys."""

    node: int
    bits: int
    routers: tuple[int, ...] = ()


Verdict = Skip | ErrorInfo | Unobserved | None


def decide(run: Run, node: int) -> Verdict:
    """None: the node goes. The order of the checks is contractual: condition, order, routes, then data."""
    edges = run.graph.sources(node)
    if run.cached is not None and run.is_hit(node):  # it needs no inputs, and they may have been pruned
        edges = [edge for edge in edges if edge[1] != EdgeKind.DATA]
    status = run.status
    errors = run.picks.errors if run.picks is not None else None
    for source, kind in edges:
        if kind == EdgeKind.CONDITION:
            if errors and source in errors:
                return errors[source]
            if status[source] == SKIPPED:
                return Skip(SKIPPED_CONDITION, source)
            answer = truth(run, source)
            if answer is None:
                return _unknown(run, source, OBSERVE_TRUTH) or Skip(CONDITION_MISSING, source)
            if not answer:
                return Skip(CONDITION_FALSE, source)
    for source, kind in edges:
        if kind == EdgeKind.SEQUENCE:
            if errors and source in errors:
                return errors[source]
            if status[source] == SKIPPED:
                return Skip(SKIPPED_SEQUENCE, source)
        elif kind == EdgeKind.GATE and status[source] == SKIPPED:
            return Skip(run.skips[source].reason, run.skips[source].source)
    if run.plan.routed:
        for source, kind in edges:
            if kind not in _VALUES or status[source] != SKIPPED:
                continue
            error = run.picks.error_of(source) if run.picks is not None else None
            if error is not None:
                return error
            if run.graph.spec(source).kind == NodeKind.ROUTER:
                return Skip(run.skips[source].reason, source)
    items = False
    for source, kind in edges:
        if kind in _VALUES and status[source] == SKIPPED and not run.has_value(source):
            return Skip(SKIPPED_DATA, source)
        items = items or kind == EdgeKind.ITEMS
    verdict = _decide_items(run, node, edges) if items else None
    if verdict is None and run.graph.amount_names:
        return _decide_amounts(run, node)
    return verdict


def _decide_items(run: Run, node: int, edges: list[tuple[int, int]]) -> Verdict:
    """Whether what a map maps over are lists."""
    for source, kind in edges:
        if kind != EdgeKind.ITEMS or length(run, source) is not None:
            continue
        verdict = _unknown(run, source, OBSERVE_SPLIT)
        if isinstance(verdict, ErrorInfo):
            names = f"{run.task(node)!r} maps over the value of {run.task(source)!r}"
            told = f"{verdict.type}: {verdict.message}"
            return ErrorInfo("TypeError", f"{names}, which is not a list ({told})")
        if verdict is not None:
            return verdict
    return None


def _decide_amounts(run: Run, node: int) -> Verdict:
    graph = run.graph
    for e in range(graph.edge_start[node], graph.edge_start[node + 1]):
        if graph.edge_kind[e] != EdgeKind.AMOUNT:
            continue
        source, name = graph.edge_source[e], graph.amount_names[e]
        what = f"the amount {name!r}" if name else "the delay"
        names = f"{what} of {run.task(node)!r} is the value of {run.task(source)!r}"
        micros = run.amounts_seen.get(run.resolve(source))
        if micros is None:
            verdict = _unknown(run, source, OBSERVE_AMOUNT)
            if isinstance(verdict, Unobserved):
                return verdict
            told = "" if verdict is None else f" ({verdict.type}: {verdict.message})"
            return ErrorInfo("ValueError", f"{names}, which is no number{told}")
        if micros < 0:
            return ErrorInfo("ValueError", f"{names}, which is {micros / MICROS:g}; it must not be negative")
    return None


def choose(run: Run, router: int) -> Skip | ErrorInfo | Unobserved | int:
    """Which route a router whose selector has been answered takes: the node."""
    graph = run.graph
    selector = graph.edge_source[graph.edge_start[router]]
    assert run.picks is not None
    error = run.picks.error_of(selector)
    if error is not None:
        return error
    if not run.has_value(selector):
        return Skip(SKIPPED_DATA, selector)
    node = run.resolve(selector)
    found = run.routes.get((node, router))
    if found is None:
        asked = [r for r in run.plan.wanted.get(node, ()) if (node, r) not in run.routes]
        verdict = _unknown(run, selector, OBSERVE_ROUTE, (router, *(r for r in asked if r != router)))
        if verdict is not None:
            return verdict
        found = f"nobody could tell which key the value of {run.task(selector)!r} is"
    if isinstance(found, str):
        return ErrorInfo("RouteNotFoundError", found)
    routes = graph.routes(router)
    if not 0 <= found < len(routes):
        return ErrorInfo(
            "RouteNotFoundError", f"the router has {len(routes)} routes, and chose number {found}"
        )
    return routes[found]


def _unknown(run: Run, source: int, bit: int, routers: tuple[int, ...] = ()) -> ErrorInfo | Unobserved | None:
    """Why a fact about a node's value is not known; None when it never will be."""
    node = run.resolve(source)
    error = run.observe_errors.get(node)
    if error is not None:
        return error
    if run.status[node] != DONE:
        return None
    if run.observed.get(node, 0) & bit and not routers:
        return None
    if run.runs_code(node) and node not in run.values and not run.is_hit(node):
        return None  # it was to be observed where it was made
    return Unobserved(node, bit, routers)


def truth(run: Run, node: int) -> bool | None:
    """bool() of a node's value; None when it is not known, or the node has no value."""
    if run.status[node] != DONE:
        return None
    node = run.resolve(node)
    if run.runs_code(node):
        return run.truths.get(node)
    kind = run.graph.spec(node).kind
    if kind == NodeKind.GATE:
        return True  # it stands for a map that may go
    if kind in (NodeKind.COLLECT, NodeKind.MAP):
        return bool(length(run, node))
    return run.truths.get(node)


def length(run: Run, node: int) -> int | None:
    """len() of a node's value, where the core can know it."""
    node = run.resolve(node)
    if run.runs_code(node):
        return run.lengths.get(node)
    if run.graph.spec(node).kind == NodeKind.COLLECT:
        return len(run.graph.inputs(node))
    expansion = run.expansions.get(node)
    return run.lengths.get(node) if expansion is None else expansion.size


def amounts(run: Run, node: int) -> tuple[tuple[str, int], ...]:
    """What one attempt of a decided node holds, in micros: its spec's amounts, overlaid by lazy ones."""
    spec = run.spec(node)
    graph = run.graph
    if not graph.amount_names:
        return spec.amounts
    origin, _ = run.origin(node)
    lazy: dict[str, int] = {}
    for e in range(graph.edge_start[origin], graph.edge_start[origin + 1]):
        if graph.edge_kind[e] == EdgeKind.AMOUNT:
            lazy[graph.amount_names[e]] = run.amounts_seen[run.resolve(graph.edge_source[e])]
    return tuple(sorted({**dict(spec.amounts), **lazy}.items())) if lazy else spec.amounts


def delay(run: Run, node: int) -> float | None:
    """How long a decided wait or recv waits, in seconds; None: without bound."""
    graph = run.graph
    for e in range(graph.edge_start[node], graph.edge_start[node + 1]):
        if graph.edge_kind[e] == EdgeKind.AMOUNT:
            return run.amounts_seen[run.resolve(graph.edge_source[e])] / MICROS
    timer = graph.timers.get(node)
    return None if timer is None else timer.delay
