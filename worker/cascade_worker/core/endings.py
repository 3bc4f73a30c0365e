"""How attempts end: by themselves, stopped, or with their executor."""

from __future__ import annotations

from typing import Final

from cascade_worker.core import followers, resources
from cascade_worker.core.commands import (
    Command,
    Discard,
    Ending,
    EndingKind,
    KillExecutor,
    Publish,
    StopAttempt,
)
from cascade_worker.core.events import ExecutorDied, Result
from cascade_worker.core.placing import became_idle, promote, reclaim, unqueue
from cascade_worker.core.state import Attempt, Executor, Phase, State, Timer, Wanted

__all__ = [
    "ProtocolError",
    "end_waiting",
    "finish",
    "forget",
    "give_back",
    "kill_for",
    "on_death",
    "on_reclaimed",
    "on_results",
    "stop",
    "timed_out",
]

# Looking a member up on its class takes longer than most of what is done with it.
_FINISHED: Final = Phase.FINISHED
_NOTHING: Final = Wanted.NOTHING
_DONE: Final = EndingKind.DONE
RETURNED = Ending(EndingKind.RETURNED)
CANCELLED = Ending(EndingKind.CANCELLED)


class ProtocolError(Exception):
    """The other side said something that makes no sense; the text says what.

    Attributes:
        executor: the executor that said it; None: the scheduler did.
    """

    def __init__(self, text: str, executor: int | None = None) -> None:
        super().__init__(text)
        self.executor = executor


def finish(state: State, attempt: Attempt, ending: Ending) -> None:
    """An attempt has ended: its amounts are free, its report is due."""
    state.release(attempt)
    attempt.phase = _FINISHED
    attempt.executor = None
    attempt.ending = ending
    state.unreported.append(attempt)
    if attempt.follower is not None or attempt.follows is not None:
        followers.ended(state, attempt)


def forget(state: State, attempt: Attempt, out: list[Command], discard: bool = True) -> None:
    """An attempt is off the books; nobody is told."""
    state.release(attempt)
    attempt.phase = Phase.FINISHED
    attempt.executor = None
    del state.attempts[attempt.id]
    state.forgotten.append(attempt.id)
    if attempt.follower is not None or attempt.follows is not None:
        followers.ended(state, attempt)
    if discard:
        out.append(Discard(attempt.id))


def timed_out(attempt: Attempt, result: Result | None) -> Ending:
    """The ending of an attempt that was stopped at its deadline."""
    reason = f"task {attempt.body.name!r} took longer than its timeout of {attempt.body.timeout:g} s"
    if result is None:
        return Ending(EndingKind.TIMED_OUT, None, f"{reason} and had to be killed", True)
    payload = None if result.ok else result.payload
    return Ending(EndingKind.TIMED_OUT, payload, reason, False, result.duration_ns, result.size)


# --- what executors say ----------------------------------------------------------------------------


def on_results(
    state: State, executor: Executor, results: list[Result], now: float, out: list[Command]
) -> None:
    """Attempts ended in an executor, in order."""
    pipe = executor.pipe
    for result in results:
        if executor.asynchronous:
            attempt = executor.running.pop(result.attempt, None)
            if attempt is None:
                raise ProtocolError(
                    f"executor {executor.id} ended attempt {result.attempt}, which it has not"
                )
        else:
            if not pipe or pipe[0].id != result.attempt:
                text = f"executor {executor.id} ended attempt {result.attempt} out of turn"
                raise ProtocolError(text, executor.id)
            attempt = pipe.popleft()
        attempt.body.profile.observe(result.duration_ns * 1e-9)
        _conclude(state, attempt, result, out)
    if not executor.asynchronous:
        if pipe:
            promote(state, executor, now, out)
        elif not executor.reclaiming and not executor.closing and executor.victim is None:
            became_idle(state, executor, now)


def _conclude(state: State, attempt: Attempt, result: Result, out: list[Command]) -> None:
    wanted = attempt.wanted
    attempt.tail = result.tail
    if wanted == _NOTHING and not result.publish:
        finish(state, attempt, _own_ending(attempt, result))
    elif wanted == Wanted.DROP:
        forget(state, attempt, out)
    elif wanted == Wanted.CANCEL:
        out.append(Discard(attempt.id))
        finish(state, attempt, Ending(EndingKind.CANCELLED, duration_ns=result.duration_ns))
    elif wanted == Wanted.TIMEOUT and result.stopped:
        out.append(Discard(attempt.id))
        finish(state, attempt, timed_out(attempt, result))
    elif result.publish:
        if not attempt.charged:  # it came from behind another one that ended in the same breath
            state.charge(attempt)
        attempt.phase = Phase.STORING
        attempt.executor = None
        attempt.duration_ns = result.duration_ns
        out.append(Publish(attempt.id, result.payload))
    else:
        finish(state, attempt, _own_ending(attempt, result))


def _own_ending(attempt: Attempt, result: Result) -> Ending:
    """The ending of an attempt that was left to end by itself."""
    kind = _DONE if result.ok else EndingKind.FAILED
    cached = result.ok and not attempt.begun
    return Ending(kind, result.payload, "", cached, result.duration_ns, result.size)


def on_reclaimed(
    state: State, executor: Executor, attempts: tuple[int, ...], now: float, out: list[Command]
) -> None:
    """What an executor had not taken is back: the tail of its pipe."""
    executor.reclaiming = False
    back = set(attempts)
    returned: list[Attempt] = []
    while executor.pipe and executor.pipe[-1].id in back:
        returned.append(executor.pipe.pop())
    _give_back_all(state, returned, out)
    for attempt in executor.pipe:
        if attempt.wanted == Wanted.RETRACT:
            attempt.wanted = Wanted.NOTHING  # the executor has it, so it starts
    if not executor.pipe and not executor.closing and executor.victim is None:
        became_idle(state, executor, now)


def _give_back_all(state: State, newest_first: list[Attempt], out: list[Command]) -> None:
    for attempt in newest_first:
        give_back(state, attempt, out)


def give_back(state: State, attempt: Attempt, out: list[Command]) -> None:
    """An attempt that was written to an executor has not started: it waits again, before all others."""
    attempt.phase = Phase.WAITING
    attempt.executor = None
    if attempt.wanted != Wanted.NOTHING:
        end_waiting(state, attempt, attempt.wanted, out)
    elif state.draining:
        end_waiting(state, attempt, Wanted.RETRACT, out)
    elif attempt.body.asynchronous:
        state.async_ready.appendleft(attempt)
    elif attempt.charged:
        state.ready.appendleft(attempt)
    else:
        state.queue.appendleft(attempt)


def end_waiting(state: State, attempt: Attempt, why: Wanted, out: list[Command]) -> None:
    """Ends an attempt that has not started and stands in no line any more."""
    if why == Wanted.DROP:
        forget(state, attempt, out, discard=False)
    else:
        finish(state, attempt, RETURNED if why == Wanted.RETRACT else CANCELLED)


# --- stopping --------------------------------------------------------------------------------------


def stop(state: State, attempts: list[Attempt], why: Wanted, now: float, out: list[Command]) -> None:
    """Retracts, cancels or drops attempts, wherever they stand."""
    waiting = [attempt for attempt in attempts if attempt.phase == Phase.WAITING]
    unqueue(state, waiting)
    for attempt in attempts:
        phase = attempt.phase
        if phase == Phase.WAITING:
            end_waiting(state, attempt, why, out)
        elif phase == Phase.SENT:
            attempt.wanted = max(attempt.wanted, why)
            if attempt.executor is not None:
                reclaim(attempt.executor, out)
        elif phase == Phase.FINISHED:
            if why == Wanted.DROP and attempt.id in state.attempts:  # followers have gone with those before
                state.unreported = [other for other in state.unreported if other is not attempt]
                forget(state, attempt, out)
        elif why != Wanted.RETRACT:
            _stop_running(state, attempt, why, now, out)


def _stop_running(state: State, attempt: Attempt, why: Wanted, now: float, out: list[Command]) -> None:
    told = attempt.wanted >= Wanted.TIMEOUT
    attempt.wanted = max(attempt.wanted, why)
    executor = attempt.executor
    if executor is not None and not told:  # in STORING there is no user code to stop
        out.append(StopAttempt(executor.id, attempt.id, executor.asynchronous))
        state.set_timer(now + state.cancel_grace, Timer.KILL, attempt.id)


def kill_for(state: State, attempt: Attempt, out: list[Command]) -> None:
    """User code did not end in time after it was told to: its executor is killed."""
    executor = attempt.executor
    if executor is not None and attempt.phase == Phase.RUNNING and executor.victim is None:
        executor.victim = attempt
        out.append(KillExecutor(executor.id))


# --- death -----------------------------------------------------------------------------------------


def on_death(state: State, event: ExecutorDied, now: float, out: list[Command]) -> None:
    """An executor's process has ended, for whatever reason."""
    executor = state.executors.pop(event.executor, None)
    if executor is None:
        return
    if executor.asynchronous:
        if state.async_executor is executor:
            state.async_executor = None
    elif not executor.closing:
        state.sync_count -= 1
    if executor in state.idle:
        state.idle.remove(executor)
    resources.gone(state, executor, now)
    unread = set(event.unread)
    held = list(executor.pipe) or list(executor.running.values())
    # A sync executor takes its next task only when it has answered for the one before.
    taken = [a for a in held if a.phase == Phase.RUNNING and a.id not in unread]
    for attempt in taken:
        _end_with(state, executor, attempt, event.reason, out)
    _give_back_all(state, [a for a in reversed(held) if a.phase != Phase.FINISHED], out)
    executor.pipe.clear()
    executor.running.clear()
    if executor.started or executor.closing or executor.victim is not None:
        state.start_failures = 0
    else:
        _failed_to_start(state, event.reason, now)


def _end_with(state: State, executor: Executor, attempt: Attempt, reason: str, out: list[Command]) -> None:
    """Ends an attempt whose executor has died under it."""
    if attempt.wanted == Wanted.DROP:
        forget(state, attempt, out)
        return
    out.append(Discard(attempt.id))
    if attempt.wanted == Wanted.CANCEL:
        finish(state, attempt, Ending(EndingKind.CANCELLED, flag=True))
    elif attempt.wanted == Wanted.TIMEOUT:
        finish(state, attempt, timed_out(attempt, None))
    else:
        victim = executor.victim
        innocent = state.drain_expired or (victim is not None and victim is not attempt)
        if innocent and victim is not None:
            reason = f"its executor was killed to stop task {victim.body.name!r}"
        elif innocent:
            reason = "its worker had to end before the task did"
        finish(state, attempt, Ending(EndingKind.LOST, None, reason, innocent))


def _failed_to_start(state: State, reason: str, now: float) -> None:
    """Executors that die before they come up are started again after a pause, and not for ever."""
    state.start_failures += 1
    state.start_blocked = True
    state.set_timer(now + state.limits.start_delay, Timer.START)
    if state.start_failures >= state.limits.start_failures_max:
        state.start_failures = 0
        text = f"no executor could be started: {reason}"
        for line in (state.ready, state.async_ready):
            for attempt in list(line):
                finish(state, attempt, Ending(EndingKind.LOST, None, text))
            line.clear()
