"""Lines: in which of them a ready node stands.

All nodes of a line hold the same amounts, of the same pools, under the same limits. So a line can go or it
cannot, as a whole, and one that cannot is in nobody's way and costs one look a turn, however long it is.
Without pools and limits a node's line is its amount class, and nothing is worked out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cascade_scheduler.core.limits import Limits
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.pools import Pool, make_pools

__all__ = ["Lines"]

MEMO_MAX = 10_000


class Lines:
    """What decides about lines: the limits and pools that there are."""

    def __init__(self, pools: Iterable[tuple[str, int]] = ()) -> None:
        self.limits = Limits()
        self.pools: dict[str, Pool] = make_pools(pools, of_run=False)
        """The cluster's."""
        self.run_pools: dict[str, dict[str, Pool]] = {}
        """Those of runs that have some, by run."""
        self.plain = not self.pools
        """There is nothing but amounts of workers."""
        self._memo: dict[tuple[str, str, AmountClass], AmountClass] = {}

    def open_run(self, run_id: str, pools: Sequence[tuple[str, int]]) -> None:
        """A run brings pools of its own."""
        if pools:
            self.run_pools[run_id] = make_pools(pools, of_run=True)
            self.changed()

    def close_run(self, run_id: str) -> None:
        """A run has ended."""
        if self.run_pools.pop(run_id, None) is not None:
            self.changed()

    def changed(self) -> None:
        """Limits or pools have come or gone."""
        self.plain = not (self.limits or self.pools or self.run_pools)
        self._memo.clear()

    def of(self, run_id: str, task: str, cls: AmountClass) -> AmountClass:
        """The line of nodes of a task of a run that hold these amounts."""
        key = (run_id, task, cls)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            found = self._memo[key] = self._work_out(run_id, task, cls)
        return found

    def pool(self, run_id: str, name: str) -> Pool | None:
        """The pool of an amount: the run's own, else the cluster's; None: a worker gives it."""
        mine = self.run_pools.get(run_id)
        return (mine.get(name) if mine else None) or self.pools.get(name)

    def _work_out(self, run_id: str, task: str, cls: AmountClass) -> AmountClass:
        of_workers: list[tuple[str, int]] = []
        of_pools: list[tuple[Pool, int]] = []
        for name, micros in cls.amounts:
            pool = self.pool(run_id, name)
            if pool is None:
                of_workers.append((name, micros))
            else:
                of_pools.append((pool, micros))
        return AmountClass(tuple(of_workers), cls.asynchronous, tuple(of_pools), self.limits.of(run_id, task))
