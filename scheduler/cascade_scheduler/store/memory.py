"""A store in this process's memory: it forgets with the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from cascade_scheduler.core.commands import (
    DropConstraint,
    SaveAttempt,
    SaveCheckpoint,
    SaveConstraint,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.store.base import (
    Batch,
    RunCreated,
    RunDropped,
    RunEvents,
    StoredAttempt,
    StoredFrame,
    StoredJump,
    StoredResult,
    StoredRun,
    StoreFenced,
    StoreGap,
)

__all__ = ["ForgetfulStore", "MemoryRuns", "MemoryStore"]


class ForgetfulStore:
    """`memory://` of a running scheduler: the core holds the runs, and nobody could read a second copy."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    @property
    def url(self) -> str:
        """The store as people may see it."""
        return "memory://"

    @property
    def immediate(self) -> bool:
        """Nothing survives, so nothing waits."""
        return True

    async def open(self) -> int:
        """The epoch that it was made with."""
        return self._epoch

    async def load(self) -> AsyncIterator[StoredRun]:
        """Nothing."""
        nothing: tuple[StoredRun, ...] = ()
        for run in nothing:
            yield run

    async def load_run(self, run_id: str) -> StoredRun | None:
        """Nothing."""
        return None

    async def constraints(self) -> Sequence[Constraint]:
        """Nothing."""
        return ()

    def apply(self, batch: Batch) -> None:
        """Does nothing."""

    async def commit(self, batch: Batch) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing."""


class MemoryRuns:
    """What stores of one test share, as schedulers share a Redis."""

    def __init__(self) -> None:
        self.epoch = 0
        self.number = 0
        self.runs: dict[str, StoredRun] = {}
        self.constraints: dict[str, Constraint] = {}


class MemoryStore:
    """A store that keeps to the whole protocol in memory: epochs, batch numbers, resume."""

    def __init__(self, runs: MemoryRuns | None = None) -> None:
        self._shared = runs or MemoryRuns()
        self._epoch = 0

    @property
    def url(self) -> str:
        """The store as people may see it."""
        return "memory://"

    @property
    def immediate(self) -> bool:
        """Nothing is waited for."""
        return True

    async def open(self) -> int:
        """Begins a new epoch."""
        self._shared.epoch += 1
        self._shared.number = 0
        self._epoch = self._shared.epoch
        return self._epoch

    async def load(self) -> AsyncIterator[StoredRun]:
        """Every run, oldest first."""
        for run in list(self._shared.runs.values()):
            yield run

    async def load_run(self, run_id: str) -> StoredRun | None:
        """The run, if it is remembered."""
        return self._shared.runs.get(run_id)

    async def constraints(self) -> Sequence[Constraint]:
        """The limits that were set and not removed."""
        return tuple(self._shared.constraints.values())

    def apply(self, batch: Batch) -> None:
        """Lands a batch."""
        shared = self._shared
        if shared.epoch != self._epoch:
            raise StoreFenced(
                f"another scheduler has taken over: its epoch is {shared.epoch}, ours {self._epoch}"
            )
        if batch.number == shared.number:
            return
        if batch.number != shared.number + 1:
            raise StoreGap(f"batch {batch.number} came after batch {shared.number}: batches between are lost")
        shared.number = batch.number
        for record in batch.records:
            self._apply(record)

    def _apply(self, record: object) -> None:
        runs = self._shared.runs
        if isinstance(record, RunCreated):
            old = runs.get(record.run_id) if record.resumed else None
            created = record._replace(resumed=False)
            runs[record.run_id] = StoredRun(created, results={} if old is None else dict(old.results))
            return
        if isinstance(record, SaveConstraint):
            self._shared.constraints[record.constraint.id] = record.constraint
            return
        if isinstance(record, DropConstraint):
            self._shared.constraints.pop(record.id, None)
            return
        run = runs.get(getattr(record, "run_id", ""))
        if run is None:
            return
        if isinstance(record, SaveResult):
            run.results[record.key] = StoredResult(record.attempt, record.value, record.truth, record.length)
        elif isinstance(record, SaveAttempt):
            run.attempts[record.node] = StoredAttempt(record.attempt, record.try_, record.worker)
        elif isinstance(record, SaveSkip):
            run.skipped[record.key] = record.reason
        elif isinstance(record, SaveCheckpoint):
            run.checkpoint = (record.node_id, record.args)
        elif isinstance(record, SaveFrame):
            _replace_frame(run, record)
        elif isinstance(record, SaveOutcome):
            run.state, run.error = record.state, record.error
        elif isinstance(record, RunEvents):
            events = {first: piece for first, piece in run.events.items() if first not in record.dropped}
            events[record.first] = record.payload
            run.events = events
        elif isinstance(record, RunDropped):
            del runs[record.run_id]

    async def commit(self, batch: Batch) -> None:
        """Lands a batch."""
        self.apply(batch)

    async def close(self) -> None:
        """Does nothing."""


def _replace_frame(run: StoredRun, record: SaveFrame) -> None:
    stored = record.stored
    run.frame = record.number
    run.checkpoint = None
    if isinstance(stored, StoredJump):
        run.jump = stored
    else:
        assert isinstance(stored, StoredFrame)
        run.jump = None
        functions = tuple(sorted(stored.functions))
        run.created = run.created._replace(chunks=(stored.chunk,), end=stored.end, functions=functions)
    for part in (run.results, run.skipped, run.attempts):
        part.clear()
