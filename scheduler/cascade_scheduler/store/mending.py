"""What has to be written again when a store has lost what it had acknowledged.

The core and the books of the shell tell what they hold of each run; how a run began, and the graph that it is
in, are kept here, since nobody else needs them once they have landed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cascade_scheduler.core.commands import SaveFrame, SaveOutcome
from cascade_scheduler.store.base import (
    Record,
    RunAnswered,
    RunCreated,
    RunDropped,
    Standing,
    StoredFrame,
    StoredJump,
    StoredRun,
)
from cascade_scheduler.store.shared import SharedStore

__all__ = ["Beginnings", "Memory", "records_of"]

ENDED_MAX = 1_000
"""Runs that have ended last, of which it is known that they have."""


class Memory(NamedTuple):
    """Who tells what is held, and the store that gets it."""

    store: SharedStore
    standing: Callable[[], Standing]
    """What belongs to no run."""
    retell: Callable[[str], Sequence[Record]]
    """What is held of a run besides its beginning, in the order in which it may be written."""


class _Ended(NamedTuple):
    created: RunCreated
    """Without its graph."""
    records: tuple[Record, ...]


class Beginnings:
    """How live runs began, and what is left to say of those that have ended.

    A run counts as live until the store has its end.
    """

    def __init__(self) -> None:
        self._created: dict[str, RunCreated] = {}
        self._frames: dict[str, tuple[SaveFrame, ...]] = {}
        """The last graph that a run went on as, and the last jump within the graph that it is in."""
        self._answers: dict[str, RunAnswered] = {}
        """Of runs that end in the same batch."""
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    def remember(self, stored: StoredRun) -> None:
        """A run that was found in the store."""
        created = self._created[stored.created.run_id] = stored.created
        if stored.frame:
            going_on: object = stored.jump
            if going_on is None:
                going_on = StoredFrame(created.chunks[0], created.end, created.functions)
            self._frames[created.run_id] = (SaveFrame(created.run_id, stored.frame, going_on, stored.counts),)

    def note(self, records: Iterable[Record]) -> None:
        """Looks for what begins runs among the records of a turn."""
        for record in records:
            kind = type(record)
            if kind is RunCreated or kind is SaveFrame:
                self._begin(record)

    def _begin(self, record: Record) -> None:
        if isinstance(record, RunCreated):
            if record.imported:
                return  # it is over
            self._created[record.run_id] = record
            self._frames.pop(record.run_id, None)
            self._ended.pop(record.run_id, None)
        elif isinstance(record, SaveFrame):
            frames = self._frames.get(record.run_id, ())
            if isinstance(record.stored, StoredFrame):
                frames = ()
            elif frames and isinstance(frames[-1].stored, StoredJump):
                frames = frames[:-1]
            self._frames[record.run_id] = (*frames, record)

    def landed(self, records: Iterable[Record]) -> None:
        """Looks for what ends runs among records that the store has now."""
        for record in records:
            if type(record) in _ENDS:
                self._end(record)

    def _end(self, record: Record) -> None:
        if isinstance(record, SaveOutcome):
            created = self._created.pop(record.run_id, None)
            self._frames.pop(record.run_id, None)
            if created is not None:
                answer = self._answers.pop(record.run_id, None)
                records = (record,) if answer is None else (record, answer)
                self._ended[record.run_id] = _Ended(created._replace(chunks=(), functions=()), records)
                if len(self._ended) > ENDED_MAX:
                    self._ended.popitem(last=False)
        elif isinstance(record, RunAnswered):
            ended = self._ended.get(record.run_id)
            if ended is not None:
                self._ended[record.run_id] = ended._replace(records=(*ended.records, record))
            elif record.run_id in self._created:
                self._answers[record.run_id] = record
        elif isinstance(record, RunDropped):
            for known in (self._created, self._frames, self._answers, self._ended):
                known.pop(record.run_id, None)

    def live(self) -> list[str]:
        """Runs that have not ended."""
        return list(self._created)

    def ended(self) -> list[str]:
        """Runs that have ended, oldest first."""
        return list(self._ended)

    def created(self, run_id: str) -> RunCreated | None:
        """How a run began; of one that has ended without its graph."""
        ended = self._ended.get(run_id)
        return self._created.get(run_id) if ended is None else ended.created

    def frames(self, run_id: str) -> tuple[SaveFrame, ...]:
        """How a live run came to where it is, when that is not its first frame."""
        return self._frames.get(run_id, ())

    def ending(self, run_id: str) -> tuple[Record, ...]:
        """What says that a run has ended."""
        ended = self._ended.get(run_id)
        return () if ended is None else ended.records


_ENDS = frozenset((RunDropped, RunAnswered, SaveOutcome))


async def records_of(run_id: str, beginnings: Beginnings, memory: Memory) -> Sequence[Record]:
    """What is to be written again of a run, as it stands when this returns.

    Results that are still in the store stay there as long as the run is in its first frame: they were
    accepted, and may no longer be held by anybody.

    Raises:
        StoreUnavailable: the store cannot be reached now.
    """
    created = beginnings.created(run_id)
    if created is None:
        return ()
    known = await memory.store.has_run(created)
    # From here on nothing is awaited: what is told is of one moment.
    ending = beginnings.ending(run_id)
    if ending:
        return (*memory.retell(run_id), *ending) if known else ()
    created = beginnings.created(run_id)
    if created is None:
        return ()
    frames = beginnings.frames(run_id)
    return (created._replace(resumed=known and not frames), *frames, *memory.retell(run_id))
