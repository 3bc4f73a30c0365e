"""Followers: attempts that wait for the value of another one on this worker, and then go on by themselves.

The scheduler sends a chain's next nodes while their input is being made. A follower stands in no line. When
the attempt that it follows has returned a value, that is its input, and it goes into the queue, behind all
that was sent ahead before: it overtakes nobody. When that attempt ends in any other way the follower is
forgotten, with all that follows it, and nothing is said of it: by the report of that end the scheduler knows.
"""

from __future__ import annotations

from cascade_worker.core import endings
from cascade_worker.core.commands import Command, EndingKind, FetchInputs
from cascade_worker.core.state import Attempt, Phase, State, Wanted

__all__ = ["ended", "fetch", "follow"]


def follow(state: State, attempt: Attempt, behind: int, out: list[Command]) -> None:
    """A follower has come. What it follows may have ended meanwhile."""
    first = state.attempts.get(behind)
    if first is None or first.follower is not None:  # that was a follower too, and is forgotten
        endings.end_waiting(state, attempt, Wanted.RETRACT, out)
    elif first.phase != Phase.FINISHED:
        attempt.follows, first.follower = first, attempt
    elif _has_value(first):
        _go(state, first, attempt)
    else:
        _forget(state, attempt)


def ended(state: State, attempt: Attempt) -> None:
    """An attempt has ended that follows another, or is followed."""
    if attempt.follows is not None:
        attempt.follows.follower = None
        attempt.follows = None
    follower, attempt.follower = attempt.follower, None
    if follower is None:
        return
    if _has_value(attempt):
        _go(state, attempt, follower)
        return
    while follower is not None:
        gone, follower = follower, follower.follower
        gone.follows = gone.follower = None
        _forget(state, gone)


def fetch(state: State, out: list[Command]) -> None:
    """Gets the inputs of the followers that go on, unless they have ended in the same turn."""
    for attempt, made in state.following:
        if attempt.phase == Phase.WAITING:
            out.append(FetchInputs(attempt.id, made))
    state.following.clear()


def _has_value(attempt: Attempt) -> bool:
    ending = attempt.ending
    return ending is not None and ending.kind == EndingKind.DONE and not attempt.tail


def _go(state: State, first: Attempt, follower: Attempt) -> None:
    assert first.ending is not None
    follower.follows = None
    state.queue.append(follower)
    state.following.append((follower, first.ending.payload))


def _forget(state: State, attempt: Attempt) -> None:
    attempt.phase = Phase.FINISHED
    del state.attempts[attempt.id]
    state.forgotten.append(attempt.id)
