"""Demand: what a router's choice sets going, and what nobody needs any more once it has chosen."""

from __future__ import annotations

from collections.abc import Iterable

from cascade_scheduler.core import cluster_cache, nodes
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.flow import PRUNED
from cascade_scheduler.core.graph import EdgeKind
from cascade_scheduler.core.run import SKIPPED, Run, Skip

__all__ = ["fall_away", "open_up"]


def open_up(run: Run, route: int) -> None:
    """Lets a chosen route go, and all that it needs except other routers' routes.

    Those of them whose edges have all been answered are left in `picks.opened`, for `nodes` to go on with.
    """
    picks = run.picks
    assert picks is not None
    graph, shut = run.graph, picks.shut
    todo = [route]
    opened: list[int] = []
    while todo:
        node = todo.pop()
        if not shut[node] or run.status[node] == SKIPPED:
            continue
        shut[node] = 0
        if not run.pending[node]:
            opened.append(node)
        todo.extend(s for s, kind in graph.sources(node) if kind != EdgeKind.ROUTE and shut[s])
    opened.sort(reverse=True)  # taken from the end
    picks.opened.extend(opened)


def fall_away(books: Books, run: Run, sources: Iterable[int], router: int) -> None:
    """One edge fewer may need each of these; what none may need is pruned, and what only that needed."""
    picks = run.picks
    assert picks is not None
    demand, shut = picks.demand, picks.shut
    todo = list(sources)
    while todo:
        node = todo.pop()
        demand[node] -= 1
        if demand[node] or not shut[node]:
            continue
        nodes.skip(books, run, node, Skip(PRUNED, router))
        if run.cached is not None:
            cluster_cache.do_without(run, run.cached, node)
        # Those data inputs of a hit of the cache fell away when the run began.
        hit = run.is_hit(node)
        todo.extend(s for s, kind in run.graph.sources(node) if not (hit and kind == EdgeKind.DATA))
