"""Which attempt starts, where and when."""

from __future__ import annotations

from cascade_worker.core import commands, events
from tests.worker.core.bench import CPU, Bench, every, one


def test_an_executor_per_slot_is_there_before_the_first_task() -> None:
    bench = Bench(slots=3)
    started = every(bench.connect(), commands.StartExecutor)
    assert [command.asynchronous for command in started] == [False] * 3


def test_a_charged_attempt_starts_at_once(bench: Bench) -> None:
    (attempt,), out = bench.assign(bench.body())
    assert one(out, commands.SendTasks).attempts == (attempt,)
    assert bench.phase(attempt) == "RUNNING"
    assert bench.state.free == {"cpu": 0}


def test_attempts_ahead_start_in_order_as_amounts_come_free(bench: Bench) -> None:
    body = bench.body()
    (first,), _ = bench.assign(body)
    (second, third), out = bench.assign(body, 2, ahead=True)
    assert every(out, commands.SendTasks) == []
    out = bench.end(first, duration=1)
    assert one(out, commands.SendTasks).attempts == (second,)
    assert bench.phase(third) == "WAITING"
    out = bench.end(second, duration=1)
    assert one(out, commands.SendTasks).attempts == (third,)


def test_nobody_overtakes_the_first_of_the_queue(two: Bench) -> None:
    small, large = two.body("small"), two.body("large", (("cpu", 2 * CPU),))
    (first,), _ = two.assign(small)
    (big,), _ = two.assign(large, ahead=True)
    (last,), out = two.assign(small, ahead=True)
    assert every(out, commands.SendTasks) == [], "one cpu is free, but the first in line needs two"
    assert one(two.end(first, duration=1), commands.SendTasks).attempts == (big,)
    assert one(two.end(big, duration=1), commands.SendTasks).attempts == (last,)


def test_fractions_of_a_cpu_run_side_by_side_on_executors_made_on_demand() -> None:
    bench = Bench(executors_max=4)
    bench.connect()
    body = bench.body(amounts=(("cpu", CPU // 10),))
    attempts, out = bench.assign(body, 6, ahead=True)
    assert len(every(out, commands.StartExecutor)) == 3, "one was there, four is the most"
    assert [bench.phase(attempt) for attempt in attempts] == ["RUNNING"] * 4 + ["WAITING"] * 2
    assert bench.state.free["cpu"] == 4 * CPU // 10, "the last two are charged and wait for an executor"


def test_an_attempt_waits_for_its_inputs_with_its_amounts_charged(bench: Bench) -> None:
    body = bench.body()
    (attempt,), out = bench.assign(body, ready=False)
    assert one(out, commands.FetchInputs).attempt == attempt
    (behind,), _ = bench.assign(body, ahead=True)
    assert bench.phase(behind) == "WAITING"
    out = bench.turn(events.InputsReady(attempt))
    assert one(out, commands.SendTasks).attempts == (attempt,)


def test_inputs_that_cannot_be_had_end_the_attempt(bench: Bench) -> None:
    body = bench.body()
    (attempt,), _ = bench.assign(body, ready=False)
    (behind,), _ = bench.assign(body, ahead=True)
    out = bench.turn(events.InputsFailed(attempt, "lost"))
    assert one(out, commands.SendTasks).attempts == (behind,)
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.payload) == (commands.EndingKind.INPUT_LOST, "lost")


def test_async_attempts_share_one_executor_up_to_a_bound() -> None:
    bench = Bench(async_max=2)
    bench.connect()
    body = bench.body(asynchronous=True)
    attempts, out = bench.assign(body, 3)
    assert one(out, commands.StartExecutor).asynchronous
    assert one(out, commands.SendTasks).attempts == tuple(attempts[:2])
    assert one(bench.end(attempts[0]), commands.SendTasks).attempts == (attempts[2],)


def test_an_amount_above_what_there_is_goes_back_from_the_queue(bench: Bench) -> None:
    body = bench.body(amounts=(("gpu", CPU),))
    (attempt,), _ = bench.assign(body, ahead=True)
    assert bench.endings()[attempt].kind == commands.EndingKind.RETURNED


def test_executors_beyond_the_slots_end_after_idling() -> None:
    bench = Bench(executors_max=4, idle=30)
    bench.connect()
    body = bench.body(amounts=(("cpu", CPU // 10),))
    attempts, _ = bench.assign(body, 3)
    for attempt in attempts:
        bench.end(attempt, duration=1)
    assert bench.core.wakeup == 30
    closed = every(bench.turn(events.Ticked(), at=30), commands.CloseExecutor)
    assert len(closed) == 2, "one per slot stays"
    for command in closed:
        bench.turn(events.ExecutorDied(command.executor, "exited with code 0"))
    assert bench.state.sync_count == 1


# --- ahead in an executor ---------------------------------------------------------------------------


def test_tiny_attempts_are_written_behind_the_running_one(bench: Bench) -> None:
    body = bench.body(expected=20e-6)
    (first,), _ = bench.assign(body)
    rest, out = bench.assign(body, 5, ahead=True)
    assert one(out, commands.SendTasks).attempts == tuple(rest)
    assert {bench.phase(attempt) for attempt in rest} == {"SENT"}
    assert bench.state.free == {"cpu": 0}, "they live on what the one before them gives back"
    bench.end(first, duration=20e-6)
    assert bench.phase(rest[0]) == "RUNNING"
    assert bench.phase(rest[1]) == "SENT"


def test_an_unknown_duration_goes_one_by_one(bench: Bench) -> None:
    body = bench.body()
    bench.assign(body)
    _, out = bench.assign(body, 3, ahead=True)
    assert every(out, commands.SendTasks) == []


def test_no_more_is_written_ahead_than_is_expected_to_take_two_milliseconds(bench: Bench) -> None:
    body = bench.body(expected=500e-6)
    bench.assign(body)
    _, out = bench.assign(body, 30, ahead=True)
    assert len(one(out, commands.SendTasks).attempts) == 4


def test_a_timeout_keeps_an_attempt_out_of_the_pipe(bench: Bench) -> None:
    bench.assign(bench.body(expected=1e-5))
    _, out = bench.assign(bench.body("t", timeout=5, expected=1e-5), ahead=True)
    assert every(out, commands.SendTasks) == []


def test_other_amounts_keep_an_attempt_out_of_the_pipe(two: Bench) -> None:
    two.assign(two.body(amounts=(("cpu", 2 * CPU),), expected=1e-5))
    _, out = two.assign(two.body("g", expected=1e-5), ahead=True)
    assert every(out, commands.SendTasks) == []


def test_what_is_written_ahead_is_spread_evenly(two: Bench) -> None:
    body = two.body(expected=1e-5)
    two.assign(body, 2)
    _, out = two.assign(body, 10, ahead=True)
    assert [len(command.attempts) for command in every(out, commands.SendTasks)] == [5, 5]


def test_an_overrun_gets_the_others_back_and_they_go_to_another_executor(two: Bench) -> None:
    body = two.body(expected=1e-5)
    (slow, other), _ = two.assign(body, 2)
    rest, _ = two.assign(body, 6, ahead=True)
    home, away = two.state.attempts[slow].executor.id, two.state.attempts[other].executor.id
    behind = [attempt for attempt in rest if two.state.attempts[attempt].executor.id == home]
    assert two.core.wakeup == 0.02
    out = two.turn(events.Ticked(), at=0.021)
    assert {command.executor for command in every(out, commands.Reclaim)} == {home, away}
    out = two.turn(events.ExecutorReclaimed(away, ()), events.ExecutorReclaimed(home, tuple(behind)))
    assert {two.phase(attempt) for attempt in behind} == {"WAITING"}, "both overrun: nothing goes behind them"
    out = two.end(other, duration=1e-5)
    sent = one(out, commands.SendTasks)
    assert sent.executor == away
    assert set(behind) == set(sent.attempts)


def test_what_an_executor_has_taken_meanwhile_stays_with_it(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    (second, third), _ = bench.assign(body, 2, ahead=True)
    executor = bench.state.attempts[first].executor.id
    one(bench.turn(events.Ticked(), at=0.03), commands.Reclaim)
    bench.turn(events.ExecutorReclaimed(executor, (third,)))
    assert (bench.phase(second), bench.phase(third)) == ("SENT", "WAITING")
    bench.end(first, duration=0.03)
    assert bench.phase(second) == "RUNNING"


def test_a_slow_attempt_makes_its_code_slow(bench: Bench) -> None:
    body = bench.body(expected=1e-5)
    (first,), _ = bench.assign(body)
    bench.end(first, duration=1)
    bench.assign(body)
    _, out = bench.assign(body, 3, ahead=True)
    assert every(out, commands.SendTasks) == []


def test_what_is_known_of_a_code_outlives_the_session(bench: Bench) -> None:
    (first,), _ = bench.assign(bench.body("same"))
    bench.end(first, duration=1e-5)
    bench.flush()
    bench.connect()
    body = bench.body("same", run=7)
    bench.assign(body)
    _, out = bench.assign(body, 3, ahead=True)
    assert len(one(out, commands.SendTasks).attempts) == 3
