"""Why a node that is ready does not run, in words."""

from __future__ import annotations

from cascade_scheduler.core.books import Books
from cascade_scheduler.core.feasible import plain
from cascade_scheduler.core.limits import CONCURRENCY, RATE_LIMIT, Limit
from cascade_scheduler.core.run import Run

__all__ = ["reason"]


def reason(books: Books, run: Run, node: int) -> str:
    """What a ready node waits for, in the order in which it is asked: limits, pools, workers."""
    cls = books.queues.line_of(run, node)
    for limit in cls.limits:
        if not limit.permits(books.now):
            return f"held by {_told(limit)} on {limit.constraint.scope} ({limit.constraint.id})"
    for pool, micros in cls.pools:
        if pool.free < micros or (pool.kept and books.kept != cls):
            kept = ", and another node has waited longer" if pool.free >= micros else ""
            return (
                f"waits for {pool.name}={plain(micros)} of a pool with {plain(pool.free)} of "
                f"{plain(pool.total)} free{kept}"
            )
    if (run.run_id, cls) in books.infeasible:
        return "no worker has its amounts"
    return "waits for a free worker"


def _told(limit: Limit) -> str:
    constraint = limit.constraint
    if constraint.type == CONCURRENCY:
        return f"the limit of {constraint.limit} at a time"
    if constraint.type == RATE_LIMIT:
        return f"the rate limit of {constraint.rate:g}/s"
    return "the pause"
