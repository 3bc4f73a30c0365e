"""Leased loops in the worker's core: given back when told, and timed step by step."""

from __future__ import annotations

from cascade_dist.v1 import worker_pb2
from cascade_worker.core import commands, events
from cascade_worker.core.commands import EndingKind
from cascade_worker.leases import LeaseBook, LeaseNews
from tests.worker.core.bench import Bench, every, one


def lease(bench: Bench, timeout: float | None = None) -> int:
    """A leased attempt that runs."""
    bench.attempts += 1
    assigned = events.Assigned(bench.attempts, bench.body("loop", timeout=timeout), False, True, leased=True)
    bench.work(assigned=(assigned,))
    assert bench.phase(bench.attempts) == "RUNNING"
    return bench.attempts


def test_a_lease_is_recalled_once(bench: Bench) -> None:
    attempt = lease(bench)
    executor = bench.state.attempts[attempt].executor.id
    out = bench.work(recall=(attempt, 99))
    assert every(out, commands.RecallLease) == [commands.RecallLease(executor, attempt, False)]
    assert every(bench.work(recall=(attempt,)), commands.RecallLease) == []
    bench.end(attempt)
    assert bench.endings()[attempt].kind == EndingKind.DONE


def test_an_attempt_that_is_no_lease_is_not_recalled(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body())
    assert every(bench.work(recall=(attempt,)), commands.RecallLease) == []


def test_leases_come_back_when_the_scheduler_is_gone(two: Bench) -> None:
    attempts = [lease(two), lease(two)]
    out = two.turn(events.Disconnected())
    assert [command.attempt for command in every(out, commands.RecallLease)] == attempts


def test_leases_come_back_when_the_worker_drains(bench: Bench) -> None:
    attempt = lease(bench)
    out = bench.turn(events.DrainRequested(within=10.0))
    assert one(out, commands.RecallLease).attempt == attempt


def test_a_timeout_is_of_the_step_that_runs(bench: Bench) -> None:
    attempt = lease(bench, timeout=2.0)
    executor = bench.state.attempts[attempt].executor.id
    out = bench.turn(events.Ticked(), at=2.0)
    assert every(out, commands.StopAttempt) == []
    assert one(out, commands.LookAtLease) == commands.LookAtLease(executor, attempt)
    assert bench.turn(events.LeaseLooked(attempt, began=1.5)) == []
    assert bench.core.wakeup == 3.5
    one(bench.turn(events.Ticked(), at=3.5), commands.LookAtLease)
    out = bench.turn(events.LeaseLooked(attempt, began=1.5))
    assert one(out, commands.StopAttempt).attempt == attempt
    bench.end(attempt, ok=False, stopped=True)
    assert bench.endings()[attempt].kind == EndingKind.TIMED_OUT


def test_the_first_step_is_timed_like_any_attempt(bench: Bench) -> None:
    attempt = lease(bench, timeout=2.0)
    one(bench.turn(events.Ticked(), at=2.0), commands.LookAtLease)
    out = bench.turn(events.LeaseLooked(attempt, began=None))
    assert one(out, commands.StopAttempt).attempt == attempt


def test_a_look_at_what_has_ended_changes_nothing(bench: Bench) -> None:
    attempt = lease(bench, timeout=2.0)
    one(bench.turn(events.Ticked(), at=2.0), commands.LookAtLease)
    bench.end(attempt)
    assert bench.turn(events.LeaseLooked(attempt, began=0.0)) == []


def test_a_body_that_is_forgotten_leaves_nothing(bench: Bench) -> None:
    bodies = [bench.body(run=7) for _ in range(3)]
    (attempt,), _ = bench.assign(bodies[0])
    bench.work(forget_bodies=(bodies[0], bodies[1], 99))
    assert list(bench.state.bodies) == [bodies[2]]
    assert bench.state.run_bodies == {7: [bodies[2]]}
    bench.end(attempt)
    assert bench.endings()[attempt].kind == EndingKind.DONE
    bench.work(ended_runs=(7,))
    assert bench.state.bodies == {}


# --- what is told of them -----------------------------------------------------------------------------


def told(book: LeaseBook) -> list[tuple[int, int, bytes]]:
    reports = worker_pb2.Reports()
    book.write(reports)
    return [(said.attempt, said.iterations, said.args) for said in reports.leases]


def test_the_last_word_of_a_loop_is_told_once_a_session() -> None:
    book = LeaseBook()
    book.note(1, LeaseNews(5, b"at 5", b""))
    book.note(1, LeaseNews(9, b"at 9", b""))
    assert told(book) == [(1, 9, b"at 9")]
    assert not book.has_news
    book.tell_again()
    assert told(book) == [(1, 9, b"at 9")]
    book.forget([1, 2])
    book.tell_again()
    assert told(book) == []


def test_large_arguments_are_told_over_several_messages() -> None:
    book = LeaseBook()
    for attempt in range(5):
        book.note(attempt, LeaseNews(1, bytes(100 * 1024), b""))
    assert len(told(book)) == 3
    assert len(told(book)) == 2
    assert not book.has_news
