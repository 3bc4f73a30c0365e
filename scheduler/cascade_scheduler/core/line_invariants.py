"""What must hold of lines, limits and pools after every turn. Checked after every turn in tests."""

from __future__ import annotations

from collections import Counter

from cascade_scheduler.core.books import Books
from cascade_scheduler.core.limits import Limit
from cascade_scheduler.core.placement import has_place
from cascade_scheduler.core.pools import Pool
from cascade_scheduler.core.run import READY

__all__ = ["broken"]

NODES_MAX = 1_000
"""In larger runs it is not looked where each ready node stands."""


def broken(books: Books) -> tuple[str, object] | None:
    """The first rule that does not hold, and for what; None when all is well."""
    return _counts(books) or _lines(books) or _left_behind(books)


def _counts(books: Books) -> tuple[str, object] | None:
    held: Counter[Pool] = Counter()
    running: Counter[Limit] = Counter()
    for attempt in books.attempts.values():
        for pool, micros in attempt.cls.pools:
            held[pool] += micros
        running.update(attempt.limits)
        if not attempt.charged and (attempt.cls.pools or attempt.cls.limits):
            return "what was sent ahead holds no pool and stood under no limit", attempt.id
    pools = [pool for own in books.lines.run_pools.values() for pool in own.values()]
    for pool in [*books.lines.pools.values(), *pools]:
        if not 0 <= pool.free == pool.total - held.pop(pool, 0):
            return "pools add up", pool
    if any(held.values()):
        return "attempts hold pools of runs that live", held
    for limit in books.lines.limits:
        if limit.running != running[limit]:
            return "attempts under a limit are counted", limit.constraint
    kept = books.kept.pools if books.kept is not None else ()
    if any(not pool.kept for pool, _ in kept):
        return "pools are kept for the line that starves", kept
    return None


def _lines(books: Books) -> tuple[str, object] | None:
    """Every ready node stands in the line that is its own, but for those of runs that wait for workers."""
    found = set(books.queues.everywhere())
    for run in books.runs.values():
        if run.state != "running" or run.halting or run.root.held or len(run.status) > NODES_MAX:
            continue
        for node, status in enumerate(run.status):
            if status == READY and (run, node, books.queues.line_of(run, node)) not in found:
                return "a ready node stands in its line", (run.run_id, node)
    return None


def _left_behind(books: Books) -> tuple[str, object] | None:
    """No line whose next node may go, and for which there is a place, was left waiting."""
    for cls in books.queues.classes():
        if not all(limit.permits(books.now) for limit in cls.limits):
            continue
        if any(pool.free < micros or (pool.kept and books.kept != cls) for pool, micros in cls.pools):
            continue
        if has_place(books, cls):
            return "nothing that may go is left waiting", cls
    return None
