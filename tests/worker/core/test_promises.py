"""Amounts that come with an assignment, and promises about what was to be given back."""

from __future__ import annotations

from cascade_worker.core import commands, events
from tests.worker.core.bench import CPU, Bench, one


def promised(bench: Bench) -> int:
    sent = bench.flush()
    return sent.promised if sent else 0


def given(
    bench: Bench, body: int, *amounts: tuple[tuple[str, int], ...] | None, ahead: bool = False
) -> list[int]:
    """Assigns an attempt for each of the amounts."""
    first = bench.attempts + 1
    bench.attempts += len(amounts)
    assigned = [
        events.Assigned(attempt, body, ahead, True, some) for attempt, some in enumerate(amounts, first)
    ]
    bench.work(assigned=tuple(assigned))
    return [attempt.attempt for attempt in assigned]


# --- amounts -----------------------------------------------------------------------------------------


def test_an_attempt_holds_what_its_assignment_says() -> None:
    bench = Bench(slots=4)
    bench.connect()
    body = bench.body()
    large, plain, nothing = given(bench, body, (("cpu", 2 * CPU),), None, (("cpu", 0),))
    assert bench.state.free["cpu"] == CPU
    assert {bench.phase(attempt) for attempt in (large, plain, nothing)} == {"RUNNING"}
    bench.end(large)
    assert bench.state.free["cpu"] == 3 * CPU


def test_what_waits_ahead_waits_for_what_its_assignment_says(two: Bench) -> None:
    body = two.body()
    (first,) = given(two, body, None)
    large, small = given(two, body, (("cpu", 2 * CPU),), None, ahead=True)
    assert (two.phase(large), two.phase(small)) == ("WAITING", "WAITING")
    two.end(first, duration=1)
    assert (two.phase(large), two.phase(small)) == ("RUNNING", "WAITING")


def test_nothing_that_needs_another_amount_is_written_behind_a_short_one(bench: Bench) -> None:
    body = bench.body(expected=0.0001)
    given(bench, body, None)
    like, unlike = given(bench, body, None, (("cpu", CPU // 2),), ahead=True)
    assert (bench.phase(like), bench.phase(unlike)) == ("SENT", "WAITING")


# --- promises ----------------------------------------------------------------------------------------


def test_what_waits_is_given_back_and_promised_at_once(bench: Bench) -> None:
    body = bench.body()
    bench.assign(body)
    waiting, _ = bench.assign(body, 2, ahead=True)
    bench.work(retract=tuple(waiting), promise=5)
    assert bench.core.has_reports
    sent = bench.flush()
    assert sent is not None
    assert sent.promised == 5
    assert [(attempt, ending.kind) for attempt, ending in sent.endings] == [
        (attempt, commands.EndingKind.RETURNED) for attempt in waiting
    ]
    assert promised(bench) == 0, "it is said once"


def test_a_promise_about_nothing_is_kept_at_once(bench: Bench) -> None:
    bench.work(promise=1)
    assert promised(bench) == 1


def test_what_runs_goes_on_and_does_not_hold_up_the_promise(bench: Bench) -> None:
    (running,), _ = bench.assign(bench.body())
    bench.work(retract=(running,), promise=2)
    assert promised(bench) == 2
    assert bench.phase(running) == "RUNNING"


def test_nothing_is_promised_before_the_executor_has_given_back(bench: Bench) -> None:
    body = bench.body(expected=0.0001)
    bench.assign(body)
    written, out = bench.assign(body, 2, ahead=True)
    assert {bench.phase(attempt) for attempt in written} == {"SENT"}
    out = bench.work(retract=tuple(written), promise=3)
    executor = one(out, commands.Reclaim).executor
    assert promised(bench) == 0
    bench.turn(events.ExecutorReclaimed(executor, tuple(written)))
    sent = bench.flush()
    assert sent is not None
    assert sent.promised == 3
    assert len(sent.endings) == 2


def test_what_the_executor_has_taken_counts_as_started(bench: Bench) -> None:
    body = bench.body(expected=0.0001)
    bench.assign(body)
    (written,), _ = bench.assign(body, ahead=True)
    executor = one(bench.work(retract=(written,), promise=4), commands.Reclaim).executor
    bench.turn(events.ExecutorReclaimed(executor, ()))
    assert promised(bench) == 4
    assert bench.phase(written) == "SENT"


def test_a_promise_survives_the_death_of_the_executor(bench: Bench) -> None:
    body = bench.body(expected=0.0001)
    (running,), _ = bench.assign(body)
    (written,), _ = bench.assign(body, ahead=True)
    executor = one(bench.work(retract=(written,), promise=4), commands.Reclaim).executor
    bench.turn(events.ExecutorDied(executor, "killed", (written,)))
    assert promised(bench) == 4
    assert bench.phase(written) == "FINISHED"
    assert bench.phase(running) == "FINISHED"


def test_a_promise_waits_for_an_executor_that_will_start_what_it_was_given() -> None:
    bench = Bench()
    executor = one(bench.turn(events.Connected()), commands.StartExecutor).executor
    bench.assign(bench.body())
    bench.work(promise=6)
    assert promised(bench) == 0, "it is being forked, and starts its task when it is there"
    bench.turn(events.ExecutorStarted(executor))
    assert promised(bench) == 6


def test_promises_are_kept_in_order(bench: Bench) -> None:
    body = bench.body(expected=0.0001)
    bench.assign(body)
    (written,), _ = bench.assign(body, ahead=True)
    executor = one(bench.work(retract=(written,), promise=6), commands.Reclaim).executor
    bench.work(promise=7)
    assert promised(bench) == 0
    bench.turn(events.ExecutorReclaimed(executor, (written,)))
    assert promised(bench) == 7


def test_numbers_mean_nothing_in_another_session(bench: Bench) -> None:
    bench.work(promise=9)
    bench.turn(events.Disconnected())
    bench.connect()
    assert promised(bench) == 0
    bench.work(promise=9)
    assert promised(bench) == 9


def test_a_promise_alone_is_worth_a_message(bench: Bench) -> None:
    bench.flush()
    assert not bench.core.has_reports
    bench.work(promise=1)
    assert bench.core.has_reports
