"""The turn: drain what waits, ask the core, store, tell.

There is no task and no queue to wake. A service that has read a message posts its event; when the last turn
was a while ago, the next one runs right there, so that an event that arrives alone waits for nothing. Else a
turn is scheduled behind everything that is ready in this iteration of the loop, so that events that arrive in
a crowd make one turn.

What the core says goes three ways. Orders for workers go out at once. Records go to the store, at most one
batch in flight. What clients are told, the acknowledgement of the reports that it follows from, and orders to
let go of values wait for the store's acknowledgement of the same turn; with a store in memory that is the
same instant.

An exception in the core is a bug, and its state is then worth nothing: half an event may have been handled.
Going on could give a client a wrong answer, so the scheduler writes down the last events and exits with code
70. Workers keep what is not acknowledged, and with Redis the next scheduler finds the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeAlias, Union

from cascade_scheduler.core.commands import (
    AskPromise,
    Assign,
    CancelAttempt,
    CloseRun,
    Command,
    ConstraintsAnswered,
    DropConstraint,
    DropWorker,
    EventRecord,
    FrameGone,
    LookUpCached,
    PlanWanted,
    RecallLease,
    ReleaseObject,
    RetractAttempt,
    RunEnded,
    RunRefused,
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
    StoreCached,
    TargetValue,
    WelcomeWorker,
    WorkerGone,
)
from cascade_scheduler.core.events import Event, Tick
from cascade_scheduler.outbox import Bell
from cascade_scheduler.store.base import Record
from cascade_scheduler.store.writer import Make, Then, Written

__all__ = ["CoreLike", "Listener", "Order", "Turn", "Writer"]

Order: TypeAlias = Union[
    Assign, RetractAttempt, CancelAttempt, CloseRun, ReleaseObject, AskPromise, RecallLease
]
"""What a worker is to do."""

_EVENTS, _SAVES, _ORDERS, _RELEASES, _TOLD, _CACHED = range(6)
_PILES: dict[type[Any], int] = {
    EventRecord: _EVENTS,
    **dict.fromkeys((SaveAttempt, SaveDue, SaveFacts, SaveFailure, SaveCancel, SaveFrame), _SAVES),
    **dict.fromkeys((SaveCheckpoint, SaveResult, SaveSkip, SaveOutcome), _SAVES),
    **dict.fromkeys((SaveConstraint, DropConstraint, SaveWorker, DropWorker), _SAVES),
    **dict.fromkeys((Assign, RetractAttempt, CancelAttempt, CloseRun, AskPromise, RecallLease), _ORDERS),
    ReleaseObject: _RELEASES,
    TargetValue: _TOLD,
    LookUpCached: _CACHED,
    StoreCached: _CACHED,
}
"""Commands that are carried out together with their like."""

STORY_TURNS = 64
"""Turns whose events are kept for the story that a bug report needs."""

TOGETHER_SECONDS = 0.0002
"""A turn that begins so soon after the last one waits for what else is ready: there is a crowd."""
ALARM_SECONDS_MIN = 0.001
"""Wake-ups are not closer than this, so that one that is overdue for ever cannot keep the loop busy."""


class CoreLike(Protocol):
    """The state machine."""

    def turn(self, events: Sequence[Event], now: float) -> list[Command]:
        """Takes events, says what to do."""

    @property
    def next_wakeup(self) -> float | None:
        """When a Tick is wanted at the latest."""


class Writer(Protocol):
    """Takes records, calls back when they have landed."""

    def put(
        self,
        records: Sequence[Record],
        then: Sequence[Then],
        *,
        soon: Make | None = None,
        late: Make | None = None,
    ) -> None:
        """Takes the records of one turn, and who makes what lands with them, and behind them."""


class Listener(Protocol):
    """The books of the shell: who is to be told what."""

    def orders(self, commands: Sequence[Order]) -> None:
        """Orders for workers; they go out when the turn is over."""

    def welcome(self, command: WelcomeWorker) -> None:
        """The answer to a Hello."""

    def worker_gone(self, command: WorkerGone) -> None:
        """The worker is off the books."""

    def events(self, commands: Sequence[EventRecord]) -> tuple[Written, Make | None, Make | None]:
        """Events of runs; returns their records, and who makes more: with the turn's batch, and behind it."""

    def foresee(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """What clients are told once it is stored, if they have not been told already."""

    def tell(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """Something for runs' clients; called when it is stored."""

    def cached(self, commands: Sequence[LookUpCached | StoreCached]) -> None:
        """Questions to the cluster's cache, and values for it."""

    def run_refused(self, command: RunRefused) -> Sequence[Record]:
        """The run was not taken; returns what undoes its records."""

    def run_ending(self, command: RunEnded, outcome: SaveOutcome | None) -> Sequence[Record]:
        """The run has ended in the core; its clients are told later. Returns what is stored of that."""

    def plan_wanted(self, command: PlanWanted) -> None:
        """A plan is to be made; `PlanMade` has to follow in a later turn."""

    def frame_gone(self, command: FrameGone) -> None:
        """A frame is no longer needed."""

    def constraints_answered(self, command: ConstraintsAnswered) -> None:
        """A request about limits is settled; called when that is stored."""


class Turn:
    """Runs the core."""

    def __init__(
        self,
        core: CoreLike,
        writer: Writer,
        listener: Listener,
        *,
        bell: Bell,
        clock: Callable[[], float],
        on_bug: Callable[[BaseException, Sequence[tuple[float, Sequence[Event]]]], None],
    ) -> None:
        self._core = core
        self._writer = writer
        self._listener = listener
        self._bell = bell
        self._clock = clock
        self._on_bug = on_bug
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._records: list[Record] = []
        self._then: list[Then] = []
        self._later: list[tuple[int, Callable[[], Sequence[Record]]]] = []
        """With how many records were posted before them."""
        self._scheduled = False
        self._running = False
        self._ended = 0.0
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._due: float | None = None
        """When the core wants a Tick; nothing changes it between turns."""
        self._story: deque[tuple[float, Sequence[Event]]] = deque(maxlen=STORY_TURNS)
        self.count = 0
        """Turns so far."""

    def post(
        self,
        event: Event | None,
        *,
        then: Then | None = None,
        records: Sequence[Record] = (),
        later: Callable[[], Sequence[Record]] | None = None,
    ) -> None:
        """Adds an event to the next turn.

        Args:
            event: what happened; None when only the other arguments matter.
            then: called when the turn is over and its records have landed; maybe before this returns.
            records: land with the turn's own records, before them.
            later: makes such records when what workers wait for has gone out.
        """
        if event is not None:
            self._events.append(event)
        if then is not None:
            self._then.append(then)
        if records:
            self._records.extend(records)
        if later is not None:
            self._later.append((len(self._records), later))
        if self._scheduled:
            return
        alone = not self._running and monotonic() - self._ended > TOGETHER_SECONDS
        if alone and (self._due is None or self._due > self._clock()):
            self._run()
        else:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def stop(self) -> None:
        """No further turn is run."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        self._running = True
        try:
            self._turn()
        finally:
            self._running = False
            self._ended = monotonic()

    def _turn(self) -> None:
        events, self._events = self._events, []
        records, self._records = self._records, []
        then, self._then = self._then, []
        later, self._later = self._later, []
        now = self._clock()
        if self._due is not None and self._due <= now:
            events.append(Tick())  # last, so that what waits is read before anybody is declared lost
        self._story.append((now, events))
        try:
            commands = self._core.turn(events, now)
            self.count += 1
            with self._bell:
                self._carry_out(commands, records, then, later)
        except Exception as error:
            self.bug(error)
            return
        self._arm(now)

    def bug(self, error: BaseException) -> None:
        """Something happened that cannot: nothing more is decided."""
        self.stop()
        self._on_bug(error, self._story)

    def _carry_out(
        self,
        commands: Sequence[Command],
        records: list[Record],
        then: list[Then],
        later: Sequence[tuple[int, Callable[[], Sequence[Record]]]],
    ) -> None:
        listener = self._listener
        piles: tuple[list[Any], ...] = ([], records, [], [], [], [])
        events, _, orders, releases, told, cached = piles
        pile_of = _PILES
        for command in commands:
            kind = type(command)
            if kind in pile_of:
                piles[pile_of[kind]].append(command)
            elif isinstance(command, FrameGone):
                listener.frame_gone(command)
            elif isinstance(command, RunEnded):
                told.append(command)
                outcome = records[-1] if records else None
                if isinstance(outcome, SaveOutcome):
                    records.pop()
                    records.extend(listener.run_ending(command, outcome))
                else:
                    records.extend(listener.run_ending(command, None))
            elif isinstance(command, RunRefused):
                records.extend(listener.run_refused(command))
            elif isinstance(command, WelcomeWorker):
                listener.welcome(command)
            elif isinstance(command, WorkerGone):
                listener.worker_gone(command)
            elif isinstance(command, PlanWanted):
                listener.plan_wanted(command)
            elif isinstance(command, ConstraintsAnswered):
                then.append(partial(listener.constraints_answered, command))
            else:
                raise TypeError(f"the core gave a command that nobody carries out: {command!r}")
        if orders:
            listener.orders(orders)
            self._bell.answer_all()  # workers may begin while the rest is being written down here
        for at, make in reversed(later):  # each to its place: what is posted before a submit may drop the run
            records[at:at] = make()
        told_of, soon, late = listener.events(events)
        records.extend(told_of.records)
        then.extend(told_of.then)
        if cached:
            listener.cached(cached)
        if told:
            # Behind what was posted, so that a run is accepted first.
            then.append(partial(listener.tell, told))
        if releases:
            # Who no longer needs them does so by results that are not stored yet: until then they stay.
            then.append(partial(listener.orders, releases))
        if records or then or soon or late:
            self._writer.put(records, then, soon=soon, late=late)
        if told:
            listener.foresee(told)

    def _arm(self, now: float) -> None:
        """Sets the alarm for the core's next wake-up."""
        due = self._due = self._core.next_wakeup
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(max(ALARM_SECONDS_MIN, due - now), self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)
