"""Which executor holds which resources, and how they go: with their run, with their executor, or killed.

Executors set resources up and tear them down by themselves, around attempts; here are the books. A sync
executor is told to tear down what belongs to a run only when it has nothing else to do, and gets no work
until it has answered. So a teardown that hangs can be ended without harm to anybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from cascade_worker.core.commands import CloseRun, Command, KillExecutor, ResourceNews
from cascade_worker.core.events import AttemptBegun, ResourceChanged, RunClosed
from cascade_worker.core.placing import became_idle, close_executor
from cascade_worker.core.state import Executor, Holding, Phase, State, Timer, Wanted

__all__ = [
    "close_executors",
    "close_lost_runs",
    "close_runs",
    "forgotten_runs",
    "gone",
    "on_begun",
    "on_changed",
    "on_closed",
    "overdue",
    "start_closings",
    "take_news",
]

RUN_SCOPE = 2
KILLED = "killed"
NEWS_MAX = 5_000
"""Set-ups and teardowns in one message."""
GRACE_SHARE = 0.8
"""Of the grace, after which an executor itself cancels what is async."""


def on_begun(state: State, event: AttemptBegun, now: float) -> None:
    """User code runs: what it needs is set up, and no cache has its value."""
    attempt = state.attempts.get(event.attempt)
    if attempt is None or attempt.executor is None or attempt.executor.id != event.executor:
        return
    attempt.begun = True
    if attempt.phase == Phase.RUNNING:  # else what was before it ends in the same breath
        state.started.append(attempt)
        _tell_soon(state, now)


def on_changed(state: State, event: ResourceChanged, now: float) -> None:
    """A resource was set up or torn down."""
    executor = state.executors.get(event.executor)
    if executor is None:
        return
    if event.released:
        executor.holds.pop(event.number, None)
    else:
        executor.holds[event.number] = Holding(event.run_id, event.name, event.scope, event.attempt)
    state.news.append(
        ResourceNews(event.run_id, event.name, event.released, event.reason, event.attempt, event.duration_ns)
    )
    _tell_soon(state, now)


def _tell_soon(state: State, now: float) -> None:
    if state.tell_started_at is None:
        state.tell_started_at = now + state.limits.started_delay


def close_runs(state: State, runs: Iterable[str]) -> None:
    """Runs of which nothing runs any more are to be torn down, and reported when they are."""
    for run_id in runs:
        if run_id in state.closings:
            continue
        holders = [executor for executor in state.executors.values() if _holds(executor, run_id)]
        if not holders:
            state.closed_runs.append(run_id)
            continue
        state.closings[run_id] = {executor.id: None for executor in holders}
        for executor in holders:
            executor.to_close[run_id] = None


def _holds(executor: Executor, run_id: str) -> bool:
    return any(held.scope == RUN_SCOPE and held.run_id == run_id for held in executor.holds.values())


def close_lost_runs(state: State, runs: Iterable[str]) -> None:
    """Runs are over, and nothing was said about their resources: what there is of these goes."""
    holders = [executor for executor in state.executors.values() if executor.holds]
    if holders:
        close_runs(state, [run for run in runs if any(_holds(executor, run) for executor in holders)])


def forgotten_runs(state: State) -> list[str]:
    """Runs that hold resources here and have no attempt that the scheduler wants."""
    held = (held for executor in state.executors.values() for held in executor.holds.values())
    runs = dict.fromkeys(each.run_id for each in held if each.scope == RUN_SCOPE)
    for attempt in state.attempts.values():
        if attempt.wanted != Wanted.DROP:
            runs.pop(attempt.run_id, None)
    return list(runs)


def start_closings(state: State, now: float, out: list[Command]) -> None:
    """Tells executors that can tear down to do so."""
    for executor in state.executors.values():
        if not executor.to_close or executor.closing or executor.victim is not None:
            continue
        grace = GRACE_SHARE * state.cancel_grace
        if executor.asynchronous:
            out.extend(CloseRun(executor.id, run_id, grace) for run_id in executor.to_close)
            executor.to_close.clear()
        elif executor in state.idle:
            state.idle.remove(executor)
            run_id = executor.closing_run = next(iter(executor.to_close))
            del executor.to_close[run_id]
            executor.close_by = now + state.cancel_grace
            state.set_timer(executor.close_by, Timer.CLOSE, executor.id)
            out.append(CloseRun(executor.id, run_id, grace))


def on_closed(state: State, event: RunClosed, now: float) -> None:
    """An executor has torn down what was set up for a run."""
    executor = state.executors.get(event.executor)
    if executor is None:
        return
    _closed(state, executor, event.run_id)
    if executor.closing_run == event.run_id:
        executor.closing_run = ""
        if not executor.closing and executor.victim is None:
            became_idle(state, executor, now)


def _closed(state: State, executor: Executor, run_id: str) -> None:
    waiting = state.closings.get(run_id)
    if waiting is None or executor.id not in waiting:
        return
    del waiting[executor.id]
    if not waiting:
        del state.closings[run_id]
        state.closed_runs.append(run_id)


def overdue(state: State, executor_id: int, now: float, out: list[Command]) -> None:
    """A teardown had its time; one that still goes on is ended with its executor."""
    executor = state.executors.get(executor_id)
    if executor is None or now < executor.close_by - 0.001:
        return
    if executor.closing or executor.closing_run:
        out.append(KillExecutor(executor_id))


def gone(state: State, executor: Executor, now: float) -> None:
    """An executor's process has ended: what it still held was never torn down."""
    for held in executor.holds.values():
        state.news.append(ResourceNews(held.run_id, held.name, True, KILLED, held.attempt, 0))
        _tell_soon(state, now)
    executor.holds.clear()
    for run_id in [run_id for run_id, waiting in state.closings.items() if executor.id in waiting]:
        _closed(state, executor, run_id)


def close_executors(state: State, now: float, out: list[Command]) -> bool:
    """Ends executors that hold resources, when nothing runs; whether there are any left."""
    holders = [executor for executor in state.executors.values() if executor.holds]
    for executor in holders:
        if not (executor.closing or executor.closing_run or executor.victim):
            close_executor(state, executor, now, out)
    return bool(holders)


def take_news(state: State) -> tuple[list[ResourceNews], bool]:
    """What the next message says of resources, and whether that is all, so that reports may follow."""
    news = state.news[:NEWS_MAX]
    del state.news[:NEWS_MAX]
    return news, not state.news
