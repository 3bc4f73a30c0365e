"""A store in this process's memory: it forgets with the process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Sequence

from cascade_scheduler.core.commands import (
    DropConstraint,
    DropWorker,
    SaveAttempt,
    SaveCancel,
    SaveCheckpoint,
    SaveConstraint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
    SaveWorker,
)
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.store.base import (
    Batch,
    RunAnswered,
    RunCreated,
    RunDropped,
    RunEvents,
    RunImporting,
    RunResumed,
    Standing,
    StoredAnswer,
    StoredAttempt,
    StoredDue,
    StoredFailure,
    StoredFrame,
    StoredHead,
    StoredJump,
    StoredResult,
    StoredRun,
    StoredWorker,
    StoreFenced,
    StoreGap,
    StoreGarbage,
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

    async def heads(self) -> Sequence[StoredHead]:
        """Nothing."""
        return ()

    async def roster(self) -> Sequence[StoredWorker]:
        """Nothing."""
        return ()

    async def load_run(self, run_id: str) -> StoredRun | None:
        """Nothing."""
        return None

    async def garbage(self, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """Nothing."""
        return StoreGarbage({}, 0, (), 0)

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
        self.incoming: dict[str, StoredRun] = {}
        """Runs that are being imported."""
        self.constraints: dict[str, Constraint] = {}
        self.workers: dict[str, StoredWorker] = {}


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

    async def heads(self) -> Sequence[StoredHead]:
        """Every run, oldest first."""
        return [
            StoredHead(run.created.run_id, run.created.name, run.state, run.error, run.created.submitted)
            for run in self._shared.runs.values()
        ]

    async def roster(self) -> Sequence[StoredWorker]:
        """The workers, by their ids."""
        return sorted(self._shared.workers.values())

    async def load_run(self, run_id: str) -> StoredRun | None:
        """The run, if it is remembered."""
        return self._shared.runs.get(run_id)

    async def garbage(self, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """What of imports was not finished."""
        found = [run_id for run_id in self._shared.incoming if run_id not in spare]
        for run_id in () if dry_run else found:
            del self._shared.incoming[run_id]
        return StoreGarbage(dict.fromkeys(found, 1), 0, (), len(self._shared.runs))

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
        if isinstance(record, RunImporting):
            runs.pop(record.run_id, None)
            nothing = RunCreated(record.run_id, "", "", False, 0.0, "", 0, b"", b"", (), b"", ())
            self._shared.incoming[record.run_id] = StoredRun(nothing)
            return
        if isinstance(record, RunCreated) and record.imported:
            made = runs[record.run_id] = self._shared.incoming.pop(record.run_id)
            made.created = record._replace(imported=False)
            return
        if isinstance(record, RunCreated):
            old = runs.get(record.run_id) if record.resumed else None
            made = runs[record.run_id] = StoredRun(record._replace(resumed=False))
            if old is not None:
                made.results, made.facts = dict(old.results), dict(old.facts)
            return
        if isinstance(record, SaveConstraint):
            self._shared.constraints[record.constraint.id] = record.constraint
            return
        if isinstance(record, DropConstraint):
            self._shared.constraints.pop(record.id, None)
            return
        if isinstance(record, SaveWorker):
            self._shared.workers[record.worker] = StoredWorker(*record)
            return
        if isinstance(record, DropWorker):
            self._shared.workers.pop(record.worker, None)
            return
        if isinstance(record, Standing):
            self._shared.constraints = {kept.constraint.id: kept.constraint for kept in record.constraints}
            self._shared.workers = {kept.worker: StoredWorker(*kept) for kept in record.workers}
            return
        run_id = getattr(record, "run_id", "")
        run = runs.get(run_id) or self._shared.incoming.get(run_id)
        if run is None:
            return
        if isinstance(record, RunDropped):
            runs.pop(run_id, None)
            self._shared.incoming.pop(run_id, None)
        elif isinstance(record, SaveFrame):
            _replace_frame(run, record)
        else:
            _change(run, record)

    async def commit(self, batch: Batch) -> None:
        """Lands a batch."""
        self.apply(batch)

    async def close(self) -> None:
        """Does nothing."""


def _change(run: StoredRun, record: object) -> None:
    if isinstance(record, SaveResult):
        run.results[record.key] = StoredResult(record.attempt, record.value, record.truth, record.length)
    elif isinstance(record, SaveFacts):
        run.facts[record.key] = record.facts
    elif isinstance(record, SaveAttempt):
        attempt = StoredAttempt(record.attempt, record.try_, record.worker, record.behind)
        run.dues.pop((record.node, record.child), None)
        if record.child < 0:
            run.attempts[record.node] = attempt
        else:
            run.children[record.node, record.child] = attempt
    elif isinstance(record, SaveDue):
        place = (record.node, record.child)
        run.dues[place] = StoredDue(record.tries, record.at)
        run.children.pop(place, None)
        if record.child < 0:
            run.attempts.pop(record.node, None)
    elif isinstance(record, SaveSkip):
        run.skipped[record.key] = record.reason
    elif isinstance(record, SaveFailure):
        run.failures[record.node, record.child] = StoredFailure(record.error, record.task)
    elif isinstance(record, RunResumed):
        for part in (run.skipped, run.attempts, run.children, run.dues, run.failures):
            part.clear()
        run.state, run.error, run.events, run.cancelled, run.answer = "running", "", {}, False, None
    elif isinstance(record, SaveCancel):
        run.cancelled = True
    elif isinstance(record, SaveCheckpoint):
        run.checkpoint = (record.node_id, record.args)
        run.counts, run.iterations = record.counts, record.iterations
    elif isinstance(record, SaveOutcome):
        run.state, run.error = record.state, record.error
    elif isinstance(record, RunAnswered):
        run.answer = StoredAnswer(record.finish, record.keys)
    elif isinstance(record, RunEvents):
        events = {first: piece for first, piece in run.events.items() if first not in record.dropped}
        events[record.first] = record.payload
        run.events = events


def _replace_frame(run: StoredRun, record: SaveFrame) -> None:
    stored = record.stored
    run.frame = record.number
    run.counts, run.iterations = record.counts, 0
    run.checkpoint = None
    if isinstance(stored, StoredJump):
        run.jump = stored
    else:
        assert isinstance(stored, StoredFrame)
        run.jump = None
        functions = tuple(sorted(stored.functions))
        run.created = run.created._replace(chunks=(stored.chunk,), end=stored.end, functions=functions)
    for part in (run.results, run.skipped, run.attempts, run.children, run.dues, run.facts, run.failures):
        part.clear()
