"""What is always true of the state between two turns."""

from __future__ import annotations

from collections import Counter

from cascade_worker.core.state import Attempt, Phase, State, Wanted

__all__ = ["InvariantError", "check"]


class InvariantError(AssertionError):
    """The state contradicts itself; the text names what."""


def check(state: State) -> None:
    """Checks everything.

    Raises:
        InvariantError: names the first contradiction found.
    """
    _check_amounts(state)
    _check_lines(state)
    _check_executors(state)
    _check_followers(state)
    _check_reports(state)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise InvariantError(text)


def _check_amounts(state: State) -> None:
    charged: Counter[str] = Counter()
    for attempt in state.attempts.values():
        if attempt.charged:
            charged.update(dict(attempt.amounts))
        if attempt.phase in (Phase.RUNNING, Phase.STORING):
            _require(attempt.charged, f"{attempt.id} runs without holding its amounts")
        if attempt.phase == Phase.FINISHED:
            _require(not attempt.charged, f"{attempt.id} has ended and still holds amounts")
    for name in {*state.free, *charged}:
        free, total = state.free.get(name, 0), state.total.get(name, 0)
        _require(free == total - charged[name], f"{name}: {free} free of {total}, {charged[name]} charged")


def _check_lines(state: State) -> None:
    lines = (("queue", state.queue), ("ready", state.ready), ("async_ready", state.async_ready))
    seen: Counter[int] = Counter()
    for name, line in lines:
        for attempt in line:
            seen[attempt.id] += 1
            _require(state.attempts.get(attempt.id) is attempt, f"{attempt.id} in {name} is not on the books")
            _require(attempt.phase == Phase.WAITING, f"{attempt.id} in {name} is {attempt.phase.name}")
            _require(attempt.charged == (name != "queue"), f"{attempt.id} in {name}: charged is wrong")
            _require(name == "queue" or attempt.ready, f"{attempt.id} in {name} has no inputs")
            _require(
                name == "queue" or attempt.body.asynchronous == (name == "async_ready"),
                f"{attempt.id} is in the wrong line",
            )
    _require(all(count == 1 for count in seen.values()), f"an attempt waits twice: {seen}")
    for attempt in state.attempts.values():
        fetching = attempt.charged and not attempt.ready
        expected = attempt.phase == Phase.WAITING and not fetching and attempt.follows is None
        _require(
            (attempt.id in seen) == expected, f"{attempt.id} ({attempt.phase.name}) is in no line, or in one"
        )
    if state.queue:
        _require(not state.fits(state.queue[0].amounts), "the queue's first fits and was not charged")
    if state.ready and not state.start_blocked:
        full = state.sync_count >= state.limits.executors_max
        _require(not state.idle and full, "an attempt could start and does not")


def _check_executors(state: State) -> None:
    placed: Counter[int] = Counter()
    sync = [e for e in state.executors.values() if not e.asynchronous and not e.closing]
    _require(state.sync_count == len(sync), f"{len(sync)} executors, counted {state.sync_count}")
    _require(len(sync) <= state.limits.executors_max, "too many executors")
    _require(len(state.idle) == len(set(map(id, state.idle))), "an executor is idle twice")
    for executor in state.executors.values():
        idle = executor in state.idle
        _require(not idle or not executor.pipe, f"executor {executor.id} is idle and has work")
        _require(len(executor.running) <= state.limits.async_max, "too many async attempts")
        _require(len(executor.pipe) <= state.limits.ahead_max + 1, f"too much written to {executor.id}")
        if not executor.asynchronous and not executor.pipe and not executor.closing:
            busy = executor.reclaiming or executor.victim is not None or bool(executor.closing_run)
            _require(idle or busy, f"executor {executor.id} has no work and is not idle")
        for number, attempt in enumerate([*executor.pipe, *executor.running.values()]):
            placed[attempt.id] += 1
            _require(attempt.executor is executor, f"{attempt.id} thinks it is elsewhere")
            _require(state.attempts.get(attempt.id) is attempt, f"{attempt.id} runs and is not on the books")
            behind = number > 0 and not executor.asynchronous
            phase = Phase.SENT if behind else Phase.RUNNING
            _require(attempt.phase == phase, f"{attempt.id} is {attempt.phase.name} at place {number}")
            _require(attempt.ready, f"{attempt.id} was sent without inputs")
    for attempt in state.attempts.values():
        expected = attempt.phase in (Phase.SENT, Phase.RUNNING)
        _require(
            placed[attempt.id] == expected, f"{attempt.id} is {attempt.phase.name} in no executor, or in one"
        )
        if expected and attempt.phase == Phase.SENT:
            watched = attempt.executor is not None and (
                attempt.executor.reclaiming or attempt.executor.overrun
            )
            _require(watched or state.watch_at is not None, f"nobody watches over {attempt.id}")


def _check_followers(state: State) -> None:
    _require(not state.following, "followers whose input is there have not been told so")
    for attempt in state.attempts.values():
        first, follower = attempt.follows, attempt.follower
        if follower is not None:
            _require(follower.follows is attempt and _same(state, follower), f"{attempt.id} is not followed")
            _require(attempt.phase != Phase.FINISHED, f"{attempt.id} has ended and is still followed")
        if first is not None:
            _require(first.follower is attempt and _same(state, first), f"{attempt.id} follows nobody")
            waits = attempt.phase == Phase.WAITING and attempt.wanted == Wanted.NOTHING
            _require(waits and not (attempt.charged or attempt.ready), f"{attempt.id} does not wait")


def _check_reports(state: State) -> None:
    reported: Counter[int] = Counter(attempt.id for attempt in state.unreported)
    for sequence, attempts in state.unacknowledged:
        _require(sequence < state.next_sequence, f"message {sequence} was never sent")
        reported.update(a.id for a in attempts if _same(state, a) and a.sequence == sequence)
    for attempt in state.attempts.values():
        finished = attempt.phase == Phase.FINISHED
        _require((attempt.ending is not None) == finished, f"{attempt.id}: ending and phase differ")
        if state.connected:
            _require(reported[attempt.id] == finished, f"{attempt.id}: reported {reported[attempt.id]} times")


def _same(state: State, attempt: Attempt) -> bool:
    return state.attempts.get(attempt.id) is attempt
