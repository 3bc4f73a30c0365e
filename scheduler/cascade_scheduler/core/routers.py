"""Routers: a selector's value chooses one of the routes, and the router stands for its value."""

from __future__ import annotations

from cascade_scheduler.core import demand, flow, nodes
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.flow import SKIPPED_ROUTE, Unobserved
from cascade_scheduler.core.run import SKIPPED, Run, Skip
from cascade_scheduler.core.values import ErrorInfo

__all__ = ["NO_ROUTE", "pick"]

NO_ROUTE = "RouteNotFound"
"""Reason of a router whose consumers fail. Nobody is told of it."""


def pick(books: Books, run: Run, node: int) -> bool:
    """A router's selector has been answered, or the route that it chose; True when that settles it."""
    picks = run.picks
    assert picks is not None
    route = picks.source.get(node, -1)
    if route < 0:
        verdict = flow.choose(run, node)
        if isinstance(verdict, Unobserved):
            nodes.park(books, run, node, verdict)
            return False
        nodes.let_go_indirect(books, run, node)
        if not isinstance(verdict, int):
            return _without_value(books, run, node, verdict)
        route = verdict
        _take(books, run, node, route)
    if run.has_value(route):
        picks.alias[node] = picks.alias.get(route, route)
        nodes.structural_done(books, run, node)
        return True
    error = picks.error_of(route)
    if error is not None:
        return _without_value(books, run, node, error)
    if run.status[route] == SKIPPED:
        return _without_value(books, run, node, Skip(SKIPPED_ROUTE, route))
    run.pending[node] = 1
    return False


def _take(books: Books, run: Run, node: int, route: int) -> None:
    picks = run.picks
    assert picks is not None
    others = run.graph.routes(node)
    others.remove(route)  # one edge of it stays, if it stands for several keys
    picks.source[node] = route
    picks.chosen_by.setdefault(route, []).append(node)
    demand.open_up(run, route)
    for other in others:
        nodes.let_go(books, run, other)
    demand.fall_away(books, run, others, node)


def _without_value(books: Books, run: Run, node: int, verdict: Skip | ErrorInfo) -> bool:
    """The router stands for nothing: its consumers are skipped or fail, and say why."""
    picks = run.picks
    assert picks is not None
    unchosen = [] if node in picks.source else run.graph.routes(node)
    if isinstance(verdict, ErrorInfo) and node == run.graph.target:
        nodes.fail(books, run, node, verdict)
    else:
        if isinstance(verdict, ErrorInfo):
            picks.errors[node] = verdict
            verdict = Skip(NO_ROUTE, node)
        nodes.skip(books, run, node, verdict)
    if run.state == "running":
        demand.fall_away(books, run, unchosen, node)
    return run.status[node] == SKIPPED
