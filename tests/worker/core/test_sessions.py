"""What is said to the scheduler, over sessions, and at the end."""

from __future__ import annotations

import pytest

from cascade_worker.core import commands, events
from cascade_worker.core.commands import EndingKind
from tests.worker.core.bench import Bench, every, one


def test_started_is_told_of_what_has_not_ended(two: Bench) -> None:
    (first, second), _ = two.assign(two.body(), 2)
    two.end(first)
    sent = two.flush()
    assert sent is not None
    assert (sent.sequence, sent.started) == (2, (second,))
    assert [attempt for attempt, _ in sent.endings] == [first]
    assert two.flush() is None, "nothing new"


def test_a_start_is_told_only_when_its_report_does_not_come_soon() -> None:
    bench = Bench(started_delay=0.005)
    bench.connect()
    body = bench.body()
    (short,), _ = bench.assign(body)
    assert bench.flush() is None
    bench.end(short)
    sent = bench.flush()
    assert sent is not None
    assert sent.started == ()
    (long,), _ = bench.assign(body)
    assert bench.core.wakeup == 0.005
    bench.turn(events.Ticked(), at=0.005)
    sent = bench.flush()
    assert sent is not None
    assert sent.started == (long,)
    assert bench.flush() is None


def test_a_report_is_kept_until_it_is_acknowledged(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.end(attempt)
    sent = bench.flush()
    assert sent is not None
    assert bench.ack(sent.sequence - 1) == []
    assert bench.phase(attempt) == "FINISHED"
    assert one(bench.ack(sent.sequence), commands.Forget).attempts == (attempt,)
    assert bench.phase(attempt) == "gone"


def test_a_heartbeat_carries_the_mark(bench: Bench) -> None:
    bench.body()
    assert bench.flush() is None
    sent = bench.core.flush(force=True)
    assert sent is not None
    assert (sent.sequence, sent.acked_through, sent.endings) == (2, bench.sequence, ())


def test_reports_above_the_bound_go_in_several_messages() -> None:
    bench = Bench(slots=3, report_bytes_max=100)
    bench.connect()
    attempts, _ = bench.assign(bench.body(), 3)
    for attempt in attempts:
        bench.end(attempt, size=60)
    messages = []
    while (sent := bench.flush()) is not None:
        messages.append([attempt for attempt, _ in sent.endings])
    assert messages == [[attempts[0]], [attempts[1]], [attempts[2]]]


def test_a_gap_in_the_numbers_ends_the_session(bench: Bench) -> None:
    out = bench.turn(events.MarkMoved(bench.sequence + 2, 0))
    assert "is missing" in one(out, commands.EndSession).reason


def test_a_mark_beyond_what_was_sent_ends_the_session(bench: Bench) -> None:
    out = bench.turn(events.MarkMoved(bench.sequence + 1, 99))
    assert "never sent" in one(out, commands.EndSession).reason


def test_a_body_that_was_never_sent_ends_the_session(bench: Bench) -> None:
    out = bench.work(assigned=(events.Assigned(1, 77, False, True),))
    assert "names body 77" in one(out, commands.EndSession).reason
    assert bench.phase(1) == "gone"


def test_an_attempt_that_is_held_already_is_not_started_twice(bench: Bench) -> None:
    body = bench.body()
    (attempt,), _ = bench.assign(body)
    out = bench.work(assigned=(events.Assigned(attempt, body, False, True),))
    assert every(out, commands.SendTasks) == []


def test_a_reconnect_keeps_drops_and_forgets_as_the_scheduler_says() -> None:
    bench = Bench(slots=4)
    bench.connect()
    body = bench.body()
    (runs, dropped, done, known), _ = bench.assign(body, 4)
    (waits,), _ = bench.assign(body, ahead=True)
    (unwanted,), _ = bench.assign(body, ahead=True)
    bench.flush()
    bench.end(done)
    bench.end(known)
    bench.turn(events.Disconnected())
    assert bench.flush() is None
    names = {attempt: phase.name for attempt, phase in bench.core.held()}
    assert names == {
        runs: "RUNNING",
        dropped: "RUNNING",
        done: "FINISHED",
        known: "FINISHED",
        waits: "RUNNING",
        unwanted: "RUNNING",
    }
    out = bench.connect(keep=(runs, done, waits), drop=(dropped, unwanted), known=(known,))
    assert {command.attempt for command in every(out, commands.StopAttempt)} == {dropped, unwanted}
    assert one(out, commands.Forget).attempts == (known,)
    sent = bench.flush()
    assert sent is not None
    assert sent.sequence == 2
    assert sent.started == (runs, waits)
    assert [attempt for attempt, _ in sent.endings] == [done]
    out = bench.end(dropped, ok=False, stopped=True)
    assert dropped in one(out, commands.Forget).attempts
    assert bench.flush() is None, "nobody wants to hear of it"


def test_reports_of_an_older_session_are_sent_again_until_known(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.end(attempt)
    for _ in range(3):
        sent = bench.flush()
        assert sent is not None
        assert [held for held, _ in sent.endings] == [attempt]
        bench.turn(events.Disconnected())
        bench.connect(keep=(attempt,))
    bench.turn(events.Disconnected())
    assert one(bench.connect(known=(attempt,)), commands.Forget).attempts == (attempt,)


def test_what_nobody_names_is_dropped(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.turn(events.Disconnected())
    out = bench.connect()
    assert one(out, commands.StopAttempt).attempt == attempt


def test_work_goes_on_while_disconnected(bench: Bench) -> None:
    body = bench.body()
    (first,), _ = bench.assign(body)
    (second,), _ = bench.assign(body, ahead=True)
    bench.turn(events.Disconnected())
    assert one(bench.end(first, duration=1), commands.SendTasks).attempts == (second,)


def test_bodies_of_ended_runs_are_forgotten(bench: Bench) -> None:
    bench.body(run=1)
    kept = bench.body(run=2)
    shared = bench.body(run=0)
    bench.work(ended_runs=(1,))
    assert list(bench.state.bodies) == [kept, shared]
    bench.work(ended_runs=(2,), forget_bodies=(shared,))
    assert not bench.state.bodies


# --- draining ---------------------------------------------------------------------------------------


def test_a_drain_gives_back_what_has_not_started_and_ends_when_all_is_told(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (runs,), _ = bench.assign(body)
    (piped,), _ = bench.assign(body, ahead=True)
    (fetching,), _ = bench.assign(body, ready=False)
    executor = bench.state.attempts[runs].executor.id
    one(bench.turn(events.DrainRequested(60)), commands.Reclaim)
    bench.turn(events.ExecutorReclaimed(executor, (piped,)))
    sent = bench.flush()
    assert sent is not None
    assert sent.draining
    assert {a: e.kind for a, e in sent.endings} == {piped: EndingKind.RETURNED, fetching: EndingKind.RETURNED}
    (late,), _ = bench.assign(body)
    assert bench.endings()[late].kind == EndingKind.RETURNED
    bench.end(runs)
    sent = bench.flush()
    assert sent is not None
    assert every(bench.log, commands.Exit) == []
    assert one(bench.ack(sent.sequence), commands.Exit) == commands.Exit()


def test_a_drain_is_bounded(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.turn(events.DrainRequested(60))
    killed = one(bench.turn(events.Ticked(), at=60), commands.KillExecutor)
    bench.turn(events.ExecutorDied(killed.executor, "killed by signal 9 (SIGKILL)"))
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.flag) == (EndingKind.LOST, True)
    assert one(bench.turn(events.Ticked(), at=65), commands.Exit) == commands.Exit(), (
        "nobody acknowledged, and time is up"
    )


def test_a_drain_does_not_wait_long_for_acknowledgements(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.end(attempt)
    bench.flush()
    bench.turn(events.DrainRequested(60), at=10)
    assert every(bench.turn(events.Ticked(), at=14), commands.Exit) == []
    assert one(bench.turn(events.Ticked(), at=15), commands.Exit) == commands.Exit()


def test_a_drain_waits_for_a_scheduler_that_may_come_back(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    bench.end(attempt)
    bench.flush()
    bench.turn(events.Disconnected())
    assert every(bench.turn(events.DrainRequested(60)), commands.Exit) == []
    bench.connect(keep=(attempt,))
    sent = bench.flush()
    assert sent is not None
    assert one(bench.ack(sent.sequence), commands.Exit) == commands.Exit()


@pytest.mark.parametrize("drains_first", [False, True])
def test_a_drain_keeps_no_reports_for_a_scheduler_that_does_not_come_back(drains_first: bool) -> None:
    bench = Bench(slots=2, scheduler_returns=False)
    bench.connect()
    (ended, runs), _ = bench.assign(bench.body(), 2)
    bench.end(ended)
    bench.flush()
    last: list[events.Event] = [events.DrainRequested(60), events.Disconnected()]
    for event in last if drains_first else reversed(last):
        assert every(bench.turn(event), commands.Exit) == [], "what runs may end"
    assert one(bench.end(runs), commands.Exit) == commands.Exit()


def test_an_idle_worker_drains_at_once(bench: Bench) -> None:
    assert one(bench.turn(events.DrainRequested(60)), commands.Exit) == commands.Exit()
