"""Whether an amount can be had at all, and how to say that it cannot."""

from __future__ import annotations

from cascade_scheduler.core.books import Books
from cascade_scheduler.core.events import RunSubmitted
from cascade_scheduler.core.graph import NodeKind
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.pools import Pool

__all__ = ["never", "plain", "refusal", "undeclared"]

MICROS = 1_000_000

Amounts = tuple[tuple[str, int], ...]


def refusal(books: Books, event: RunSubmitted) -> str | None:
    """Why a graph can never run here, as far as its specs say; None: it may.

    Pools are closed. Workers are, once all are there that are expected; else more may come, but with pools of
    its own a run says that it knows the names of all that there is.
    """
    pools = {name: Pool(name, micros, of_run=True) for name, micros in event.pools} if event.pools else {}
    settings = books.settings
    complete = settings.closed and books.workers and len(books.workers) >= settings.expected_workers
    if not (complete or pools or books.lines.pools):
        return None
    plain = not (pools or books.lines.pools)
    for spec in event.graph.specs:
        if spec.kind not in (NodeKind.CALL, NodeKind.MAP) or not spec.amounts:
            continue
        if plain and _any_could(books, spec.amounts):
            continue
        of_pools: list[tuple[Pool, int]] = []
        of_workers: list[tuple[str, int]] = []
        for name, micros in spec.amounts:
            pool = pools.get(name) or books.lines.pools.get(name)
            if pool is None:
                of_workers.append((name, micros))
            else:
                of_pools.append((pool, micros))
        cls = AmountClass(tuple(of_workers), spec.asynchronous, tuple(of_pools))
        if (
            any(pool.total < micros for pool, micros in of_pools)
            or (complete and not any(worker.could(cls.amounts) for worker in books.workers.values()))
            or (pools and undeclared(books, cls.amounts))
        ):
            return never(books, spec.name, cls)
    return None


def _any_could(books: Books, amounts: Amounts) -> bool:
    for worker in books.workers.values():  # noqa: SIM110 - a loop is faster here, and this is hot
        if worker.could(amounts):
            return True
    return False


def undeclared(books: Books, amounts: Amounts) -> bool:
    """There are workers, and one of the names is that of nothing that they have."""
    return bool(books.workers) and any(
        micros and not any(worker.amounts.get(name) for worker in books.workers.values())
        for name, micros in amounts
    )


def never(books: Books, task: str, cls: AmountClass) -> str:
    """Says which amount cannot be had, and the most there is."""
    for pool, micros in cls.pools:
        if pool.total < micros:
            whose = "this run's pool" if pool.of_run else "the cluster's pool"
            wanted = f"{pool.name}={plain(micros)}"
            return f"task {task!r} needs {wanted}, but the most there is in {whose} is {plain(pool.total)}"
    for name, micros in cls.amounts:
        most = max((worker.amounts.get(name, 0) for worker in books.workers.values()), default=0)
        if most < micros:
            if most == 0:
                wanted = f"{name}={plain(micros)}"
                remedy = f"no worker declares {name!r}, and no pool; start one with --resources '{wanted}'"
            else:
                remedy = f"the most that one worker has is {plain(most)}"
            return f"task {task!r} needs {name}={plain(micros)}, but {remedy}"
    wanted = ", ".join(f"{name}={plain(micros)}" for name, micros in cls.amounts)
    return f"task {task!r} needs {wanted} together, but no single worker has all of it"


def plain(micros: int) -> str:
    """An amount as people write it."""
    whole, part = divmod(micros, MICROS)
    return str(whole) if not part else f"{micros / MICROS:g}"
