"""The state machine: `Core.turn` takes events and returns commands."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cascade_worker.core import events, followers, resources
from cascade_worker.core.commands import (
    Command,
    Ending,
    EndingKind,
    EndSession,
    Exit,
    FetchInputs,
    Forget,
    KillExecutor,
    LookAtLease,
    RecallLease,
    SendReports,
)
from cascade_worker.core.endings import (
    ProtocolError,
    end_waiting,
    finish,
    forget,
    kill_for,
    on_death,
    on_reclaimed,
    on_results,
    stop,
)
from cascade_worker.core.placing import (
    became_idle,
    close_idle,
    has_started,
    make_ready,
    new_executor,
    place,
    reclaim,
    unqueue,
)
from cascade_worker.core.state import Attempt, Body, Executor, Limits, Phase, State, Timer, Wanted

__all__ = ["Core"]

EXIT_GRACE = 5.0
"""Seconds that a draining worker on which nothing runs waits for its last reports to be acknowledged."""
_STARTED: Final = (Phase.RUNNING, Phase.STORING)


class Core:
    """The worker's decisions. One instance lives as long as the worker, over all its sessions."""

    def __init__(self, amounts: Mapping[str, int], limits: Limits | None = None) -> None:
        self.state = State(limits or Limits(), dict(amounts), dict(amounts))
        self._handlers: dict[type[Any], Callable[[float, Any, list[Command]], None]] = {
            events.Connected: self._on_connected,
            events.Disconnected: self._on_disconnected,
            events.WorkReceived: self._on_work,
            events.MarkMoved: self._on_mark,
            events.InputsReady: self._on_inputs_ready,
            events.InputsFailed: self._on_inputs_failed,
            events.ExecutorStarted: self._on_executor_started,
            events.ExecutorDied: self._on_executor_died,
            events.ExecutorReported: self._on_executor_reported,
            events.ExecutorReclaimed: self._on_executor_reclaimed,
            events.LeaseLooked: self._on_looked,
            events.AttemptBegun: lambda now, event, out: resources.on_begun(self.state, event, now),
            events.ResourceChanged: lambda now, event, out: resources.on_changed(self.state, event, now),
            events.RunClosed: lambda now, event, out: resources.on_closed(self.state, event, now),
            events.Published: self._on_published,
            events.PublishFailed: self._on_publish_failed,
            events.DrainRequested: self._on_drain,
            events.Ticked: self._on_tick,
        }

    def turn(self, now: float, happened: Iterable[events.Event]) -> list[Command]:
        """Takes events and returns what to do, in order. `now` is monotonic, in seconds.

        What contradicts the books ends the session, or the executor, that it came from.
        """
        out: list[Command] = []
        state = self.state
        for event in happened:
            try:
                self._handlers[type(event)](now, event, out)
            except ProtocolError as error:
                if error.executor is None:
                    out.append(EndSession(str(error)))
                else:
                    out.append(KillExecutor(error.executor))
        if state.following:
            followers.fetch(state, out)
        if state.closings:
            resources.start_closings(state, now, out)
        place(state, now, out)
        if state.promises:
            self._keep_promises()
        if state.forgotten:
            out.append(Forget(tuple(state.forgotten)))
            state.forgotten.clear()
        if state.draining and not state.exited:
            self._leave(now, out)
        return out

    def _leave(self, now: float, out: list[Command]) -> None:
        """A draining worker ends when it holds nothing, or nothing but reports that nobody acknowledges."""
        state = self.state
        over = all(attempt.phase == Phase.FINISHED for attempt in state.attempts.values())
        holding = over and resources.close_executors(state, now, out)
        if over and state.leave_at is None:
            state.leave_at = now + EXIT_GRACE + (state.cancel_grace if holding else 0.0)
            state.set_timer(state.leave_at, Timer.DRAIN)
        told = not state.connected or (not state.news and state.news_told <= state.acked)
        for_nobody = over and not state.connected and not state.limits.scheduler_returns
        left = (bool(state.attempts) and not for_nobody) or holding or not told
        if not left or (state.leave_at is not None and now >= state.leave_at):
            state.exited = True
            out.append(Exit())

    @property
    def wakeup(self) -> float | None:
        """When the next tick is due; None: not at all."""
        state = self.state
        due = state.watch_at
        if state.timers and (due is None or state.timers[0][0] < due):
            due = state.timers[0][0]
        if state.tell_started_at is not None and (due is None or state.tell_started_at < due):
            due = state.tell_started_at
        return due

    @property
    def has_reports(self) -> bool:
        """Whether there is something to tell the scheduler."""
        state = self.state
        if state.unreported or state.starts_due:
            return True
        other = state.draining != state.told_draining or state.promised != state.told_promised
        return other or bool(state.closed_runs)

    @property
    def streaming(self) -> bool:
        """Whether an executor works through tiny attempts that are at hand: more is to come at once."""
        return any(map(self._streams, self.state.executors.values()))

    def _streams(self, executor: Executor) -> bool:
        if len(executor.pipe) > 1:
            return True
        if not executor.pipe or executor.pipe[0].follower is None:
            return False
        expected = executor.pipe[0].body.profile.expected
        return expected is not None and expected <= self.state.limits.ahead_seconds

    def held(self) -> list[tuple[int, Phase]]:
        """Every attempt on the books and where it stands, for Hello."""
        return [(attempt.id, attempt.phase) for attempt in self.state.attempts.values()]

    # --- the scheduler ------------------------------------------------------------------------------

    def _on_connected(self, now: float, event: events.Connected, out: list[Command]) -> None:
        state = self.state
        state.connected = True
        state.next_sequence = 2  # Hello was the first
        state.received = event.sequence
        state.bodies.clear()
        state.run_bodies.clear()
        state.unacknowledged.clear()
        state.promises.clear()
        state.news_told = state.acked = 0
        state.promised = state.told_promised = 0  # of the last session; its numbers mean nothing now
        if event.cancel_grace is not None:
            state.cancel_grace = event.cancel_grace
        keep, known = set(event.keep), set(event.known)
        dropped: list[Attempt] = []
        state.unreported = []
        state.started = []
        for attempt in list(state.attempts.values()):
            attempt.sequence = 0
            if attempt.id in known and attempt.phase == Phase.FINISHED:
                forget(state, attempt, out, discard=False)
            elif attempt.id not in keep:
                dropped.append(attempt)
            elif attempt.phase == Phase.FINISHED:
                state.unreported.append(attempt)
            elif attempt.is_begun:
                state.started.append(attempt)
        stop(state, dropped, Wanted.DROP, now, out)
        if event.epoch != state.epoch and state.epoch:  # it may not know of runs that the last one had
            resources.close_lost_runs(state, resources.forgotten_runs(state))
        state.epoch = event.epoch
        state.starts_due = bool(state.started)
        state.told_draining = False
        for _ in range(min(state.limits.slots, state.limits.executors_max) - state.sync_count):
            if not state.draining and (executor := new_executor(state, False, now, out)):
                became_idle(state, executor, now)

    def _on_disconnected(self, now: float, event: events.Disconnected, out: list[Command]) -> None:
        self.state.connected = False
        self._recall(self.state.attempts.values(), out)  # the scheduler cannot say so any more

    def _recall(self, attempts: Iterable[Attempt], out: list[Command]) -> None:
        """Leased loops take no further step by themselves: what they return is reported instead."""
        for attempt in attempts:
            if attempt.leased and attempt.phase != Phase.FINISHED:
                attempt.leased = False
                number = 0 if attempt.executor is None else attempt.executor.id
                out.append(RecallLease(number, attempt.id, attempt.body.asynchronous))

    def _on_looked(self, now: float, event: events.LeaseLooked, out: list[Command]) -> None:
        """A timeout is over, if it began with this step; else it is of the step that runs now."""
        attempt = self.state.attempts.get(event.attempt)
        if attempt is None or attempt.phase != Phase.RUNNING or attempt.body.timeout is None:
            return
        began = attempt.started_at if event.began is None else event.began
        due = began + attempt.body.timeout
        if due > now:
            self.state.set_timer(due, Timer.DEADLINE, attempt.id)
        elif attempt.wanted < Wanted.TIMEOUT:
            stop(self.state, [attempt], Wanted.TIMEOUT, now, out)

    def _on_work(self, now: float, event: events.WorkReceived, out: list[Command]) -> None:
        state = self.state
        self._take_marks(event.sequence, event.acked_through)
        for body in event.bodies:
            state.bodies[body.number] = Body(
                body.run,
                body.name,
                state.profile_of(body.profile),
                body.asynchronous,
                body.timeout,
                body.amounts,
                body.run_id,
                body.resources,
                body.policy,
            )
            if body.run:
                state.run_bodies.setdefault(body.run, []).append(body.number)
        for assigned in event.assigned:
            self._assign(assigned, out)
        if event.retract:
            stop(state, self._find(event.retract), Wanted.RETRACT, now, out)
        if event.cancel:
            stop(state, self._find(event.cancel), Wanted.CANCEL, now, out)
        if event.recall:
            self._recall(self._find(event.recall), out)
        for number in event.forget_bodies:
            gone = state.bodies.pop(number, None)
            if gone is not None and number in state.run_bodies.get(gone.run, ()):
                state.run_bodies[gone.run].remove(number)
        if event.ended_runs:
            for run in event.ended_runs:
                for number in state.run_bodies.pop(run, ()):
                    state.bodies.pop(number, None)
        if event.close_runs:
            resources.close_runs(state, event.close_runs)
        if event.over:
            resources.close_lost_runs(state, event.over)
        if event.promise:
            written = [a for a in state.attempts.values() if a.phase == Phase.SENT]
            coming = [e for e in state.executors.values() if not e.started and (e.pipe or e.running)]
            state.promises.append((event.promise, written, coming))

    def _keep_promises(self) -> None:
        """Promises what holds now: all that was to be given back has been, or had started after all.

        What an executor was given that has yet to come up starts when it does: that is waited for.
        """
        promises, executors = self.state.promises, self.state.executors
        while promises:
            number, written, coming = promises[0]
            if any(a.phase == Phase.SENT and a.wanted != Wanted.NOTHING for a in written):
                return
            if any(e.id in executors and not e.started and (e.pipe or e.running) for e in coming):
                return
            self.state.promised = number
            del promises[0]

    def _assign(self, assigned: events.Assigned, out: list[Command]) -> None:
        state = self.state
        if assigned.attempt in state.attempts:
            return
        body = state.bodies.get(assigned.body)
        if body is None:
            raise ProtocolError(
                f"attempt {assigned.attempt} names body {assigned.body}, which was never sent"
            )
        attempt = Attempt(assigned.attempt, body, False, assigned.ready, assigned.amounts, assigned.run_id)
        attempt.leased = attempt.stepping = assigned.leased
        state.attempts[attempt.id] = attempt
        if state.draining or (assigned.ahead and state.never_fits(attempt.amounts)):
            end_waiting(state, attempt, Wanted.RETRACT, out)
            return
        if assigned.behind:
            followers.follow(state, attempt, assigned.behind, out)
            return
        if not attempt.ready:
            out.append(FetchInputs(attempt.id))
        if assigned.ahead:
            state.queue.append(attempt)
            return
        state.charge(attempt)  # the scheduler has charged it, so it starts, even when its view was late
        if attempt.ready:
            make_ready(state, attempt)

    def _find(self, ids: Iterable[int]) -> list[Attempt]:
        attempts = self.state.attempts
        return [attempts[attempt] for attempt in ids if attempt in attempts]

    def _on_mark(self, now: float, event: events.MarkMoved, out: list[Command]) -> None:
        self._take_marks(event.sequence, event.acked_through)

    def _take_marks(self, sequence: int, acked_through: int) -> None:
        state = self.state
        if sequence != state.received + 1:
            raise ProtocolError(f"the scheduler's message {state.received + 1} is missing; {sequence} came")
        if acked_through >= state.next_sequence:
            raise ProtocolError(f"message {acked_through} is acknowledged, but was never sent")
        state.received = sequence
        state.acked = acked_through
        unacknowledged = state.unacknowledged
        while unacknowledged and unacknowledged[0][0] <= acked_through:
            for attempt in unacknowledged.popleft()[1]:
                # A dropped attempt's id may be gone; ids are never used twice, so pop is safe.
                if state.attempts.pop(attempt.id, None) is not None:
                    state.forgotten.append(attempt.id)

    def flush(self, force: bool = False) -> SendReports | None:
        """What is to be told to the scheduler now; with `force` at least a mark. It changes nothing else."""
        state = self.state
        if not state.connected or not (self.has_reports or force):
            return None
        started = [a.id for a in state.started if a.phase in _STARTED] if state.started else []
        state.started.clear()
        state.starts_due = False
        state.tell_started_at = None
        told, complete = resources.take_news(state) if state.news else ([], True)
        taken, rest = self._take_reports() if complete else ([], state.unreported)
        closed, state.closed_runs = tuple(state.closed_runs), []
        news = (
            told or closed or state.draining != state.told_draining or state.promised != state.told_promised
        )
        if not (started or taken or force or news):
            return None
        sequence = state.next_sequence
        state.next_sequence += 1
        endings: list[tuple[int, Ending]] = []
        for attempt in taken:
            attempt.sequence = sequence
            assert attempt.ending is not None
            endings.append((attempt.id, attempt.ending))
        if taken:
            state.unacknowledged.append((sequence, taken))
        state.unreported = rest
        promised = state.promised if state.promised != state.told_promised else 0
        state.told_draining = state.draining
        state.told_promised = state.promised
        state.told_received = state.received
        if told:
            state.news_told = sequence
        state.starts_due = bool(state.news)
        return SendReports(
            sequence,
            state.received,
            tuple(started),
            tuple(endings),
            state.draining,
            promised,
            tuple(told),
            closed,
        )

    def _take_reports(self) -> tuple[list[Attempt], list[Attempt]]:
        """The reports that fit one message, and those that are left."""
        waiting, room = self.state.unreported, self.state.limits.report_bytes_max
        for place_, attempt in enumerate(waiting):
            room -= attempt.ending.size if attempt.ending else 0
            if room < 0 and place_:
                return waiting[:place_], waiting[place_:]
        return waiting, []

    # --- inputs and values --------------------------------------------------------------------------

    def _on_inputs_ready(self, now: float, event: events.InputsReady, out: list[Command]) -> None:
        attempt = self.state.attempts.get(event.attempt)
        if attempt is None or attempt.phase != Phase.WAITING or attempt.ready:
            return
        attempt.ready = True
        if attempt.charged:
            make_ready(self.state, attempt)

    def _on_inputs_failed(self, now: float, event: events.InputsFailed, out: list[Command]) -> None:
        attempt = self.state.attempts.get(event.attempt)
        if attempt is not None and attempt.phase == Phase.WAITING:
            unqueue(self.state, [attempt])
            finish(self.state, attempt, Ending(EndingKind.INPUT_LOST, event.payload))

    def _on_published(self, now: float, event: events.Published, out: list[Command]) -> None:
        attempt = self.state.attempts.get(event.attempt)
        cached = attempt is not None and not attempt.begun
        self._stored(event.attempt, Ending(EndingKind.DONE, event.payload, flag=cached), out)

    def _on_publish_failed(self, now: float, event: events.PublishFailed, out: list[Command]) -> None:
        self._stored(event.attempt, Ending(EndingKind.FAILED, event.payload), out)

    def _stored(self, attempt_id: int, ending: Ending, out: list[Command]) -> None:
        attempt = self.state.attempts.get(attempt_id)
        if attempt is None or attempt.phase != Phase.STORING:
            return
        if attempt.wanted == Wanted.DROP:
            forget(self.state, attempt, out)
        elif attempt.wanted == Wanted.CANCEL:
            finish(self.state, attempt, Ending(EndingKind.CANCELLED))
        else:
            finish(self.state, attempt, ending._replace(duration_ns=attempt.duration_ns))

    # --- executors ----------------------------------------------------------------------------------

    def _on_executor_started(self, now: float, event: events.ExecutorStarted, out: list[Command]) -> None:
        executor = self.state.executors.get(event.executor)
        if executor is None or executor.started:
            return
        executor.started = True
        self.state.start_failures = 0
        for attempt in [*executor.pipe, *executor.running.values()]:
            if attempt.phase == Phase.RUNNING:
                has_started(self.state, attempt, now)

    def _on_executor_reported(self, now: float, event: events.ExecutorReported, out: list[Command]) -> None:
        executor = self.state.executors.get(event.executor)
        if executor is not None:
            on_results(self.state, executor, event.results, now, out)

    def _on_executor_reclaimed(self, now: float, event: events.ExecutorReclaimed, out: list[Command]) -> None:
        executor = self.state.executors.get(event.executor)
        if executor is not None:
            on_reclaimed(self.state, executor, event.attempts, now, out)

    def _on_executor_died(self, now: float, event: events.ExecutorDied, out: list[Command]) -> None:
        on_death(self.state, event, now, out)

    # --- time ---------------------------------------------------------------------------------------

    def _on_tick(self, now: float, event: events.Ticked, out: list[Command]) -> None:
        state = self.state
        while state.timers and state.timers[0][0] <= now:
            _, _, what, subject = heapq.heappop(state.timers)
            if what == Timer.START:
                state.start_blocked = False
            elif what == Timer.CLOSE:
                resources.overdue(state, subject, now, out)
            elif what == Timer.IDLE:
                close_idle(state, subject, now, out)
            elif what == Timer.DRAIN:
                self._drain_over(now, out)
            elif what == Timer.BIRTH:
                unborn = state.executors.get(subject)
                if unborn is not None and not unborn.started:
                    out.append(KillExecutor(subject))
            else:
                self._attempt_due(what, subject, now, out)
        if state.watch_at is not None and state.watch_at <= now:
            self._watch(now, out)
        if state.tell_started_at is not None and state.tell_started_at <= now:
            state.tell_started_at = None
            running = any(a.phase in _STARTED for a in state.started)
            state.starts_due = running or bool(state.news)
            if not running:
                state.started.clear()

    def _attempt_due(self, what: Timer, subject: int, now: float, out: list[Command]) -> None:
        attempt = self.state.attempts.get(subject)
        if attempt is None or attempt.phase != Phase.RUNNING:
            return
        if what == Timer.KILL:
            if attempt.wanted >= Wanted.TIMEOUT:
                kill_for(self.state, attempt, out)
        elif attempt.wanted < Wanted.TIMEOUT:
            if attempt.stepping and attempt.executor is not None:
                out.append(LookAtLease(attempt.executor.id, attempt.id))
            else:
                stop(self.state, [attempt], Wanted.TIMEOUT, now, out)

    def _watch(self, now: float, out: list[Command]) -> None:
        """Gets back what stands behind attempts that take longer than was thought."""
        state = self.state
        state.watch_at = None
        for executor in state.executors.values():
            if len(executor.pipe) > 1 and not executor.reclaiming and not executor.overrun:
                due = executor.pipe[0].started_at + state.limits.overrun
                if due <= now:
                    executor.overrun = True
                    reclaim(executor, out)
                elif state.watch_at is None or due < state.watch_at:
                    state.watch_at = due

    def _on_drain(self, now: float, event: events.DrainRequested, out: list[Command]) -> None:
        state = self.state
        if state.draining:
            return
        state.draining = True
        state.drain_by = now + event.within
        state.set_timer(state.drain_by, Timer.DRAIN)
        unstarted = [a for a in state.attempts.values() if a.phase in (Phase.WAITING, Phase.SENT)]
        stop(state, unstarted, Wanted.RETRACT, now, out)
        self._recall(state.attempts.values(), out)

    def _drain_over(self, now: float, out: list[Command]) -> None:
        state = self.state
        if state.drain_expired or now < state.drain_by:
            return
        state.drain_expired = True
        holding = any(executor.holds for executor in state.executors.values())
        state.leave_at = now + EXIT_GRACE + (state.cancel_grace if holding else 0.0)
        state.set_timer(state.leave_at, Timer.DRAIN)
        out.extend(KillExecutor(e.id) for e in state.executors.values() if e.pipe or e.running)
