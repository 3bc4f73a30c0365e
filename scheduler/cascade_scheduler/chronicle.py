"""What is stored of runs beside what the core saves: their events, and how they ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core import views
from cascade_scheduler.core.commands import EventRecord, SaveOutcome
from cascade_scheduler.core.retelling import retell, retell_standing
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.state import Core
from cascade_scheduler.eventlog import Logged
from cascade_scheduler.runs import RunBook, RunRecord
from cascade_scheduler.store.base import Record, RunAnswered, RunEnding, RunEvents, Standing
from cascade_scheduler.store.writer import NOTHING_WRITTEN, Make, StoreWriter, Written
from cascade_scheduler.wire.event_bytes import events_to_bytes
from cascade_scheduler.wire.updates import fill_finish, tree_nodes

__all__ = ["Chronicle"]

EVENTS_STORED_PER_PIECE = 10_000
FEW_EVENTS = 2
"""Before a run of one task ends it was told at the most that run and task have begun."""
_Mark: TypeAlias = tuple[RunRecord, int]
"""A run, and the id of its last event."""


class Chronicle:
    """Makes the records.

    Args:
        core: names nodes.
        runs: keeps the events.
        writer: brings records to the store.
    """

    def __init__(self, core: Core, runs: RunBook, writer: StoreWriter) -> None:
        self._core = core
        self._runs = runs
        self._writer = writer
        self._keeps = not writer.immediate

    # --- the end ---------------------------------------------------------------------------------

    def ending(self, record: RunRecord, run: Run, outcome: SaveOutcome) -> Sequence[Record]:
        """A run has ended in the core; returns what a later scheduler has to know of that.

        Of a run of one task that has succeeded at once with a small value that is the value alone: from it
        all the rest follows, which is made when its client has been told.
        """
        assert record.ending is not None
        tree = record.ending[1]
        keys = () if tree is None else tuple([(node, run.key(node)) for node in tree_nodes(tree)])
        if (
            views.is_plain(run)
            and type(run.values.get(0)) is bytes
            and not record.stored_through
            and record.events.last <= FEW_EVENTS
            and not record.events.has_lines
            and not self._writer.away
        ):
            record.late = (outcome, keys)
            record.only_key = run.first_key(0)
            return (RunEnding(record.run_id),)
        return self._answer(record, keys), outcome  # in this order: by the outcome it is one that has ended

    def _answer(self, record: RunRecord, keys: tuple[tuple[int, str], ...]) -> RunAnswered:
        """How a run has ended, for who asks for it after a restart."""
        assert record.ending is not None
        finish = client_pb2.RunFinish()
        fill_finish(finish, *record.ending)
        return RunAnswered(record.run_id, finish.SerializeToString(), keys)

    # --- events ----------------------------------------------------------------------------------

    def events(self, commands: Sequence[EventRecord]) -> tuple[Written, Make | None, Make | None]:
        """Keeps events; returns their records, and who makes those that may be made when more is known.

        Those are of runs of one task: mostly they end soon, and all that is told of them is one record.
        """
        if commands:
            self._runs.record(commands)
        dirty = self._runs.take_dirty() if self._keeps else None
        if not dirty:
            return NOTHING_WRITTEN, None, None
        now: list[_Mark] = []
        soon: list[_Mark] = []
        late: list[RunRecord] = []
        for run in dirty:
            if run.late is not None:
                late.append(run)
            else:
                (soon if self._may_end_soon(run) else now).append((run, run.events.last))
        return (
            self._stored(now) if now else NOTHING_WRITTEN,
            partial(self._stored, soon) if soon else None,
            partial(self._behind, late) if late else None,
        )

    def _may_end_soon(self, record: RunRecord) -> bool:
        run = self._core.runs.get(record.run_id)
        if record.stored_through or run is None or not views.is_plain(run):
            return False
        record.only_key = run.first_key(0)  # the core may have forgotten the run when its events are made
        return True

    def _stored(self, marks: Sequence[_Mark]) -> Written:
        """Events of runs, each up to an id, but for those that come with the end of their run."""
        marks = [mark for mark in marks if mark[0].late is None]
        if not marks:
            return NOTHING_WRITTEN
        records = [record for run, last in marks for record in self._events_of(run, last)]
        return Written(records, (partial(_publish, marks),))

    def _behind(self, runs: Sequence[RunRecord]) -> Written:
        """How runs have ended, and their events."""
        records: list[Record] = []
        marks = []
        for run in runs:
            if run.late is None:
                continue  # made before: lines that came behind its end were among its events then
            outcome, keys = run.late
            run.late = None
            if self._runs.get(run.run_id) not in (run, None):
                continue  # another has its id
            last = run.events.last
            records += (self._answer(run, keys), outcome, *self._events_of(run, last))
            marks.append((run, last))
        return Written(records, (partial(_publish, marks),))

    def _events_of(self, run: RunRecord, through: int) -> list[RunEvents]:
        """Events that are not stored, up to an id."""
        after, run.stored_through = run.stored_through, max(through, run.stored_through)
        found = [
            RunEvents(run.run_id, first, payload, run.add_piece(first))
            for first, payload in self._pieces(run, after, through)
        ]
        if not after and len(found) == 1 and run.ending is not None and through == run.events.last:
            found[0] = found[0]._replace(whole=True)
        return found

    def _pieces(self, run: RunRecord, after: int, through: int) -> Iterator[tuple[int, bytes]]:
        """The events of a run that are kept, from one behind `after` on, by the first one's id."""
        while after < through:
            found, _ = run.events.since(after, min(EVENTS_STORED_PER_PIECE, through - after))
            if found and found[-1][0] > through:
                found = [event for event in found if event[0] <= through]
            if not found:
                return
            yield after + 1, events_to_bytes(found, partial(self._name, run))
            after = found[-1][0]

    # --- what a store has lost ------------------------------------------------------------------

    def standing(self) -> Standing:
        """What belongs to no run, for a store that has lost it."""
        limits, workers = retell_standing(self._core)
        return Standing(tuple(limits), tuple(workers))

    def retell(self, run_id: str) -> Sequence[Record]:
        """What is held of a run, for a store that has lost it."""
        run, record = self._core.runs.get(run_id), self._runs.get(run_id)
        told: list[Record] = [] if run is None else list(retell(self._core, run))
        if record is not None and record.live:
            # Later events wait to be stored for the first time.
            found = self._pieces(record, record.events.first - 1, record.events.published)
            pieces = [RunEvents(run_id, first, payload) for first, payload in found]
            waiting = [first for first in record.pieces or () if first > record.events.published]
            record.pieces = deque([*(piece.first for piece in pieces), *waiting])
            told += pieces
        return told

    def _name(self, run: RunRecord, logged: Logged) -> str:
        return self.node_id(logged) or (run.only_key if logged.node >= 0 else "")

    def node_id(self, logged: Logged) -> str:
        """Hex of the structural id of an event's node; a map's child has its index in brackets."""
        if logged.node < 0 or logged.node_id:
            return logged.node_id
        run = self._core.runs.get(logged.run_id)
        return "" if run is None else run.first_key(logged.node)


def _publish(marks: Iterable[_Mark]) -> None:
    for run, last in marks:
        run.events.publish(last)
