"""Which attempt goes to which executor, and when.

Amounts go to the queue's first, in order: the scheduler keeps its books by the same rule without being told.
An attempt that holds its amounts goes to an idle executor, or to a new one. What is left, and is known to be
very short, is written to busy executors ahead of time, so that a stream of tiny tasks does not wait for a
round trip over the pipe each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cascade_worker.core.commands import (
    CloseExecutor,
    Command,
    Reclaim,
    SendTasks,
    StartExecutor,
    StopAttempt,
)
from cascade_worker.core.state import Attempt, Executor, Phase, State, Timer, Wanted

__all__ = [
    "became_idle",
    "close_executor",
    "close_idle",
    "has_started",
    "make_ready",
    "new_executor",
    "place",
    "promote",
    "reclaim",
    "unqueue",
]

Sends = dict[int, list[int]]

# Looking a member up on its class takes longer than most of what is done with it.
_RUNNING: Final = Phase.RUNNING
_SENT: Final = Phase.SENT
_NOTHING: Final = Wanted.NOTHING


def place(state: State, now: float, out: list[Command]) -> None:
    """Charges and starts all that can be; the last step of every turn."""
    _charge(state)
    if not (state.ready or state.queue or state.async_ready):
        return
    sends: Sends = {}
    while True:
        if state.async_ready:
            _place_async(state, now, sends, out)
        while state.ready:
            executor = _idle_executor(state, now, out)
            if executor is None:
                break
            attempt = state.ready.popleft()
            _start(state, executor, attempt, now)
            sends.setdefault(executor.id, []).append(attempt.id)
        if state.ready or state.queue:
            _write_ahead(state, sends)
        # Who was first may have gone into a pipe, and who is first now may need less.
        if not _charge(state):
            break
    for executor_id, attempts in sends.items():
        out.append(SendTasks(executor_id, tuple(attempts)))


def _charge(state: State) -> bool:
    """Gives amounts to the queue's first, as long as they fit; whether anybody got some."""
    queue = state.queue
    charged = False
    while queue and state.fits(queue[0].amounts):
        attempt = queue.popleft()
        state.charge(attempt)
        charged = True
        if attempt.ready:
            make_ready(state, attempt)
    return charged


def make_ready(state: State, attempt: Attempt) -> None:
    """An attempt holds its amounts and has its inputs: it may go to an executor."""
    (state.async_ready if attempt.body.asynchronous else state.ready).append(attempt)


def new_executor(state: State, asynchronous: bool, now: float, out: list[Command]) -> Executor | None:
    """Starts an executor, unless executors die at birth just now."""
    if state.start_blocked:
        return None
    executor = Executor(state.next_executor, asynchronous)
    state.next_executor += 1
    state.executors[executor.id] = executor
    if asynchronous:
        state.async_executor = executor
    else:
        state.sync_count += 1
    state.set_timer(now + state.limits.birth, Timer.BIRTH, executor.id)
    out.append(StartExecutor(executor.id, asynchronous))
    return executor


def _idle_executor(state: State, now: float, out: list[Command]) -> Executor | None:
    if state.idle:
        return state.idle.pop()
    if state.sync_count < state.limits.executors_max:
        return new_executor(state, False, now, out)
    return None


def _start(state: State, executor: Executor, attempt: Attempt, now: float) -> None:
    attempt.executor = executor
    attempt.phase = _RUNNING
    if executor.asynchronous:
        executor.running[attempt.id] = attempt
    else:
        executor.pipe.append(attempt)
    if executor.started:
        has_started(state, attempt, now)


def has_started(state: State, attempt: Attempt, now: float) -> None:
    """User code runs: the scheduler is to know, and the timeout begins."""
    attempt.started_at = now
    if attempt.begun:  # else it says so itself, when all is there and no cache has its value
        state.started.append(attempt)
        if state.tell_started_at is None:
            state.tell_started_at = now + state.limits.started_delay
    if attempt.body.timeout is not None:
        state.set_timer(now + attempt.body.timeout, Timer.DEADLINE, attempt.id)


def _place_async(state: State, now: float, sends: Sends, out: list[Command]) -> None:
    executor = state.async_executor or new_executor(state, True, now, out)
    if executor is None or executor.victim is not None or executor.closing:
        return  # its successor is started when it is gone
    while state.async_ready and len(executor.running) < state.limits.async_max:
        attempt = state.async_ready.popleft()
        _start(state, executor, attempt, now)
        sends.setdefault(executor.id, []).append(attempt.id)


def _write_ahead(state: State, sends: Sends) -> None:
    """Writes very short attempts behind running ones, spread evenly, without changing their order."""
    limits, ready, queue = state.limits, state.ready, state.queue
    hosts = [executor for executor in state.executors.values() if _takes_more(executor, limits.ahead_seconds)]
    if not hosts:
        return
    waiting = len(ready) + len(queue) + sum(len(host.pipe) - 1 for host in hosts)
    share = min(-(-waiting // len(hosts)), limits.ahead_max)
    for host in hosts:
        more = _fill(state, host, share, sends)
        if len(host.pipe) > 1:
            due = host.pipe[0].started_at + limits.overrun
            if state.watch_at is None or due < state.watch_at:
                state.watch_at = due
        if not more:
            return


def _fill(state: State, host: Executor, share: int, sends: Sends) -> bool:
    """Writes up to `share` attempts behind the one that an executor runs; whether others may get some too."""
    limit = state.limits.ahead_seconds
    head = host.pipe[0]
    running = head.body
    known = running.profile.expected or 0.0
    while len(host.pipe) <= share:
        source = state.ready or state.queue
        if not source:
            return False
        attempt = source[0]
        body = attempt.body
        expected = body.profile.expected
        if not attempt.ready or body.timeout is not None or body.asynchronous or expected is None:
            return False  # nobody overtakes it
        if len(host.pipe) * max(expected, known) > limit:
            return True
        if not attempt.charged and attempt.amounts != head.amounts:
            return True  # it lives on what the one before it gives back
        source.popleft()
        attempt.executor = host
        attempt.phase = _SENT
        host.pipe.append(attempt)
        sends.setdefault(host.id, []).append(attempt.id)
    return True


def _takes_more(executor: Executor, ahead_seconds: float) -> bool:
    if executor.asynchronous or not executor.started or not executor.pipe:
        return False
    if executor.reclaiming or executor.overrun or executor.closing or executor.victim is not None:
        return False
    if executor.to_close:
        return False
    head = executor.pipe[0]
    expected = head.body.profile.expected
    short = expected is not None and expected <= ahead_seconds
    return short and head.wanted == _NOTHING and not head.leased


def promote(state: State, executor: Executor, now: float, out: list[Command]) -> None:
    """The attempt before it has ended, so an executor's next one runs now."""
    head = executor.pipe[0]
    head.phase = _RUNNING
    if not head.charged:
        state.charge(head)
    has_started(state, head, now)
    executor.overrun = False
    if head.wanted == Wanted.RETRACT:
        head.wanted = _NOTHING
    elif head.wanted != _NOTHING:
        out.append(StopAttempt(executor.id, head.id, False))
        state.set_timer(now + state.cancel_grace, Timer.KILL, head.id)
    if len(executor.pipe) > 1 and state.watch_at is None:
        state.watch_at = now + state.limits.overrun


def became_idle(state: State, executor: Executor, now: float) -> None:
    """An executor has nothing to do."""
    executor.overrun = False
    executor.idle_since = now
    state.idle.append(executor)
    if state.sync_count > state.limits.slots:
        state.set_timer(now + state.limits.idle, Timer.IDLE, executor.id)


def close_idle(state: State, executor_id: int, now: float, out: list[Command]) -> None:
    """Ends an executor beyond the number kept warm, if it was idle all the time since its timer was set."""
    executor = state.executors.get(executor_id)
    if executor is None or executor not in state.idle or state.sync_count <= state.limits.slots:
        return
    if now - executor.idle_since >= state.limits.idle - 0.001:
        close_executor(state, executor, now, out)


def close_executor(state: State, executor: Executor, now: float, out: list[Command]) -> None:
    """Ends an executor that has no work. It tears down what it holds; when that takes long, it is killed."""
    executor.closing = True
    if executor in state.idle:
        state.idle.remove(executor)
    if not executor.asynchronous:
        state.sync_count -= 1
    executor.close_by = now + state.cancel_grace
    state.set_timer(executor.close_by, Timer.CLOSE, executor.id)
    out.append(CloseExecutor(executor.id, state.cancel_grace))


def reclaim(executor: Executor, out: list[Command]) -> None:
    """Asks once for what an executor has not taken."""
    if not executor.reclaiming:
        executor.reclaiming = True
        out.append(Reclaim(executor.id))


def unqueue(state: State, gone: Iterable[Attempt]) -> None:
    """Takes waiting attempts out of every line that they may stand in."""
    ids = {attempt.id for attempt in gone}
    if ids:
        for line in (state.queue, state.ready, state.async_ready):
            kept = [attempt for attempt in line if attempt.id not in ids]
            if len(kept) != len(line):
                line.clear()
                line.extend(kept)
