"""How attempts end."""

from __future__ import annotations

import math

import pytest

from cascade_worker.core import commands, events
from cascade_worker.core.commands import EndingKind
from tests.worker.core.bench import CPU, Bench, every, one


def test_what_an_executor_says_is_reported(bench: Bench) -> None:
    body = bench.body()
    (good, bad), _ = bench.assign(body, 2)
    bench.end(good)
    bench.end(bad, ok=False)
    endings = bench.endings()
    assert [endings[good].kind, endings[bad].kind] == [EndingKind.DONE, EndingKind.FAILED]
    assert endings[good].payload == ("payload", good)
    assert endings[good].duration_ns == 1_000_000


def test_a_timeout_stops_then_kills(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body("slow", timeout=2.0))
    assert bench.core.wakeup == 2.0
    assert one(bench.turn(events.Ticked(), at=2.0), commands.StopAttempt).attempt == attempt
    assert bench.core.wakeup == 7.0
    killed = one(bench.turn(events.Ticked(), at=7.0), commands.KillExecutor)
    bench.turn(events.ExecutorDied(killed.executor, "killed by signal 9 (SIGKILL)"))
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.flag) == (EndingKind.TIMED_OUT, True)
    assert ending.reason == "task 'slow' took longer than its timeout of 2 s and had to be killed"


def test_user_code_that_stops_in_time_is_not_killed(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body("slow", timeout=2.0))
    bench.turn(events.Ticked(), at=2.0)
    bench.end(attempt, ok=False, stopped=True)
    assert every(bench.turn(events.Ticked(), at=7.0), commands.KillExecutor) == []
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.flag) == (EndingKind.TIMED_OUT, False)
    assert ending.reason == "task 'slow' took longer than its timeout of 2 s"
    assert ending.payload == ("payload", attempt), "it says where the task was"


def test_a_value_made_just_before_the_stop_counts(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body(timeout=2.0))
    bench.turn(events.Ticked(), at=2.0)
    bench.end(attempt)
    assert bench.endings()[attempt].kind == EndingKind.DONE


def test_a_timeout_runs_from_the_start_of_the_executor() -> None:
    bench = Bench()
    out = bench.turn(events.Connected())
    bench.assign(bench.body(timeout=1.0))
    assert bench.core.wakeup == math.inf, "the executor is still being forked"
    executor = one(out, commands.StartExecutor).executor
    bench.turn(events.ExecutorStarted(executor), at=5.0)
    assert bench.core.wakeup == 6.0


def test_cancel_of_a_running_attempt(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    assert one(bench.work(cancel=(attempt,)), commands.StopAttempt).attempt == attempt
    assert every(bench.work(cancel=(attempt,)), commands.StopAttempt) == [], "it was told"
    bench.end(attempt, ok=False, stopped=True)
    assert bench.endings()[attempt] == commands.Ending(EndingKind.CANCELLED, duration_ns=1_000_000)


def test_cancel_wins_over_whatever_user_code_did_with_it(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.work(cancel=(attempt,))
    out = bench.end(attempt)
    assert one(out, commands.Discard).attempt == attempt
    assert bench.endings()[attempt].kind == EndingKind.CANCELLED


def test_cancel_of_waiting_attempts(bench: Bench) -> None:
    body = bench.body()
    bench.assign(body)
    (queued,), _ = bench.assign(body, ahead=True)
    (fetching,), _ = bench.assign(body, ready=False)
    bench.work(cancel=(queued, fetching))
    assert {a: e.kind for a, e in bench.endings().items()} == {
        queued: EndingKind.CANCELLED,
        fetching: EndingKind.CANCELLED,
    }


@pytest.mark.parametrize(
    ("wish", "kind"), [("cancel", EndingKind.CANCELLED), ("retract", EndingKind.RETURNED)]
)
def test_what_was_written_ahead_is_got_back_to_end_it(bench: Bench, wish: str, kind: EndingKind) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    (second, third), _ = bench.assign(body, 2, ahead=True)
    executor = bench.state.attempts[first].executor.id
    assert one(bench.work(**{wish: (second,)}), commands.Reclaim).executor == executor
    out = bench.turn(events.ExecutorReclaimed(executor, (second, third)))
    assert bench.endings()[second].kind == kind
    assert one(out, commands.SendTasks).attempts == (third,), "the other one goes back"


def test_a_retract_that_comes_too_late_changes_nothing(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    (second,), _ = bench.assign(body, ahead=True)
    executor = bench.state.attempts[first].executor.id
    bench.work(retract=(first, second))
    bench.turn(events.ExecutorReclaimed(executor, ()))
    bench.end(first)
    bench.end(second)
    assert {ending.kind for ending in bench.endings().values()} == {EndingKind.DONE}


def test_a_cancel_that_comes_too_late_for_the_pipe_stops_it_when_it_runs(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    (second,), _ = bench.assign(body, ahead=True)
    executor = bench.state.attempts[first].executor.id
    bench.work(cancel=(second,))
    bench.turn(events.ExecutorReclaimed(executor, ()))
    assert one(bench.end(first), commands.StopAttempt).attempt == second


def test_the_death_of_an_executor_loses_what_it_ran_and_nothing_else(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    (second, third), _ = bench.assign(body, 2, ahead=True)
    executor = bench.state.attempts[first].executor.id
    out = bench.turn(events.ExecutorDied(executor, "killed by signal 11 (SIGSEGV)", (second, third)))
    ending = bench.endings()[first]
    assert (ending.kind, ending.reason) == (EndingKind.LOST, "killed by signal 11 (SIGSEGV)")
    assert not ending.flag
    assert one(out, commands.StartExecutor)
    assert one(out, commands.SendTasks).attempts == (second,), "the executor is not up: one by one"


def test_neighbours_of_a_killed_coroutine_are_innocent(bench: Bench) -> None:
    blocker, bystander = (
        bench.body("blocker", asynchronous=True, timeout=1.0),
        bench.body("b", asynchronous=True),
    )
    (guilty,), out = bench.assign(blocker)
    executor = one(out, commands.StartExecutor).executor
    (innocent, unread), _ = bench.assign(bystander, 2)
    bench.turn(events.ExecutorStarted(executor))
    bench.turn(events.Ticked(), at=1.0)
    assert one(bench.turn(events.Ticked(), at=6.0), commands.KillExecutor).executor == executor
    (late,), out = bench.assign(bystander)
    assert every(out, commands.SendTasks) == [], "nothing goes to an executor that is being killed"
    out = bench.turn(events.ExecutorDied(executor, "killed by signal 9 (SIGKILL)", (unread,)))
    endings = bench.endings()
    assert endings[guilty].kind == EndingKind.TIMED_OUT
    assert endings[innocent].kind == EndingKind.LOST
    assert endings[innocent].flag
    assert endings[innocent].reason == "its executor was killed to stop task 'blocker'"
    assert one(out, commands.SendTasks).attempts == (unread, late), "these never started"


def test_executors_that_die_before_they_come_up_are_tried_again_but_not_for_ever() -> None:
    bench = Bench(start_failures_max=2, start_delay=0.5)
    bench.turn(events.Connected())
    (attempt,), _ = bench.assign(bench.body())
    bench.turn(events.ExecutorDied(1, "exited with code 70", (attempt,)))
    assert bench.phase(attempt) == "WAITING"
    assert one(bench.turn(events.Ticked(), at=0.5), commands.StartExecutor).executor == 2
    bench.turn(events.ExecutorDied(2, "exited with code 70", (attempt,)))
    ending = bench.endings()[attempt]
    assert ending.kind == EndingKind.LOST
    assert ending.reason == "no executor could be started: exited with code 70"


def test_an_executor_that_does_not_come_up_is_killed() -> None:
    bench = Bench(birth=60)
    executor = one(bench.turn(events.Connected()), commands.StartExecutor).executor
    assert one(bench.turn(events.Ticked(), at=60), commands.KillExecutor).executor == executor


def test_timers_of_what_has_ended_do_not_pile_up(bench: Bench) -> None:
    body = bench.body(timeout=3600.0)
    for _ in range(3000):
        (attempt,), _ = bench.assign(body)
        bench.end(attempt)
        bench.flush()
        bench.ack(bench.state.next_sequence - 1)
    assert len(bench.state.timers) <= 1025


def test_a_value_is_stored_before_it_is_reported(bench: Bench) -> None:
    body = bench.body()
    (attempt,), _ = bench.assign(body)
    (behind,), _ = bench.assign(body, ahead=True)
    out = bench.end(attempt, publish=True)
    assert one(out, commands.Publish).payload == ("payload", attempt)
    assert bench.endings() == {}
    assert bench.phase(behind) == "WAITING", "the scheduler's books still charge the first one"
    out = bench.turn(events.Published(attempt, "blob"))
    assert one(out, commands.SendTasks).attempts == (behind,)
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.payload, ending.duration_ns) == (EndingKind.DONE, "blob", 1_000_000)


def test_an_executor_that_speaks_out_of_turn_is_killed(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    executor = bench.state.attempts[attempt].executor.id
    out = bench.turn(events.ExecutorReported(executor, [events.Result(99, True, None, 0)]))
    assert one(out, commands.KillExecutor).executor == executor
    assert bench.phase(attempt) == "RUNNING"


def test_amounts_below_zero_recover(bench: Bench) -> None:
    """The scheduler starts what fits by its books, which are late by what is on the way."""
    body = bench.body()
    (first,), _ = bench.assign(body)
    (queued,), _ = bench.assign(body, ahead=True)
    (second,), _ = bench.assign(body)
    assert bench.state.free == {"cpu": -CPU}
    bench.end(first, duration=1)
    assert bench.phase(queued) == "WAITING"
    bench.end(second, duration=1)
    assert bench.phase(queued) == "RUNNING"
