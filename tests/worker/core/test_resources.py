"""The books of resources."""

from __future__ import annotations

from typing import Any

import pytest

from cascade_worker.core import commands, events
from tests.worker.core.bench import Bench, every, one

TASK, RUN, WORKER = 1, 2, 3


class Resourceful(Bench):
    """A bench whose bodies have resources."""

    def __init__(self, slots: int = 1, **limits: Any) -> None:
        super().__init__(slots, started_delay=0.005, **limits)
        self.numbers = 0

    def body_of(self, run_id: str, asynchronous: bool = False) -> int:
        """A body of a run."""
        self.bodies += 1
        amounts = () if asynchronous else (("cpu", 1_000_000),)
        known = events.BodyKnown(self.bodies, 1, "f", b"f", asynchronous, None, amounts, run_id, True)
        self.work(bodies=(known,))
        return self.bodies

    def set_up(self, attempt: int, name: str, scope: int, run_id: str = "a") -> int:
        """The executor of an attempt has set up a resource; its number."""
        self.numbers += 1
        executor = self.state.attempts[attempt].executor.id
        self.change(executor, attempt, self.numbers, name, scope, run_id)
        return self.numbers

    def change(
        self,
        executor: int,
        attempt: int,
        number: int,
        name: str,
        scope: int,
        run_id: str,
        reason: str | None = None,
    ) -> list[commands.Command]:
        """An executor says what became of a resource."""
        released = reason is not None
        return self.turn(
            events.ResourceChanged(executor, attempt, number, run_id, name, scope, released, reason or "", 5)
        )

    def executor_of(self, attempt: int) -> int:
        """The executor that runs an attempt."""
        return int(self.state.attempts[attempt].executor.id)

    def news(self) -> list[tuple[str, str]]:
        """(name, "+", or "-" and the reason) of the next message."""
        self.turn(events.Ticked(), at=self.now + 0.005)
        sent = self.flush()
        return [(n.name, f"-{n.reason}" if n.released else "+") for n in sent.resources] if sent else []


@pytest.fixture
def bench() -> Resourceful:
    made = Resourceful()
    made.connect()
    return made


def test_a_start_is_told_when_the_function_is_called(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    bench.turn(events.Ticked(), at=1.0)
    assert bench.flush() is None
    bench.set_up(attempt, "db", TASK)
    executor = bench.executor_of(attempt)
    bench.turn(events.AttemptBegun(executor + 1, attempt))
    bench.turn(events.AttemptBegun(executor, attempt))
    bench.turn(events.Ticked(), at=1.005)
    sent = bench.flush()
    assert sent is not None
    assert sent.started == (attempt,)
    assert sent.resources == (commands.ResourceNews("a", "db", False, "", attempt, 5),)


def test_news_go_before_or_with_the_report(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    number = bench.set_up(attempt, "db", TASK)
    bench.change(executor, attempt, number, "db", TASK, "a", "")
    bench.end(attempt)
    sent = bench.flush()
    assert sent is not None
    assert [n.released for n in sent.resources] == [False, True]
    assert [ended for ended, _ in sent.endings] == [attempt]
    assert bench.state.executors[executor].holds == {}


def test_reports_wait_for_all_news(bench: Resourceful, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_worker.core.resources.NEWS_MAX", 2)
    (attempt,), _ = bench.assign(bench.body_of("a"))
    for name in ("x", "y", "z"):
        bench.set_up(attempt, name, RUN)
    bench.end(attempt)
    first, second = bench.flush(), bench.flush()
    assert first is not None
    assert second is not None
    assert [len(first.resources), len(first.endings)] == [2, 0]
    assert [len(second.resources), len(second.endings)] == [1, 1]


def test_what_a_dead_executor_held_was_killed(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    for name, scope in (("model", WORKER), ("db", RUN), ("tmp", TASK)):
        bench.set_up(attempt, name, scope)
    bench.news()
    bench.turn(events.ExecutorDied(executor, "killed by signal 9"))
    assert bench.news() == [("model", "-killed"), ("db", "-killed"), ("tmp", "-killed")]


def test_a_run_without_resources_is_closed_at_once(bench: Resourceful) -> None:
    assert every(bench.work(close_runs=("a",)), commands.CloseRun) == []
    sent = bench.flush()
    assert sent is not None
    assert sent.closed_runs == ("a",)


def test_a_run_is_closed_in_every_executor_that_holds_something_of_it() -> None:
    bench = Resourceful(2)
    bench.connect()
    first, second = bench.assign(bench.body_of("a"), 2)[0]
    (third,), _ = bench.assign(bench.body_of("a", True))
    bench.turn(events.ExecutorStarted(bench.executor_of(third)))
    executors = [bench.executor_of(attempt) for attempt in (first, second, third)]
    numbers = [bench.set_up(attempt, "db", RUN) for attempt in (first, second, third)]
    for attempt in (first, second, third):
        bench.end(attempt)
    out = bench.work(close_runs=("a",))
    assert sorted((c.executor, c.run_id) for c in every(out, commands.CloseRun)) == [
        (executor, "a") for executor in sorted(executors)
    ]
    for executor, number in zip(executors, numbers, strict=True):
        sent = bench.flush()
        assert sent is None or not sent.closed_runs
        bench.change(executor, 0, number, "db", RUN, "a", "")
        bench.turn(events.RunClosed(executor, "a"))
    sent = bench.flush()
    assert sent is not None
    assert sent.closed_runs == ("a",)
    assert [n.released for n in sent.resources][-1]


def test_an_executor_that_tears_down_gets_no_work(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    bench.set_up(attempt, "db", RUN)
    bench.end(attempt)
    bench.work(close_runs=("a",))
    (other,), out = bench.assign(bench.body_of("b"))
    assert one(out, commands.StartExecutor).executor != executor
    assert bench.executor_of(other) != executor
    out = bench.turn(events.RunClosed(executor, "a"))
    assert bench.state.executors[executor] in bench.state.idle


def test_a_busy_executor_closes_a_run_when_it_is_free(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    bench.set_up(attempt, "db", RUN)
    bench.end(attempt)
    (other,), _ = bench.assign(bench.body_of("b"))
    assert every(bench.work(close_runs=("a",)), commands.CloseRun) == []
    assert one(bench.end(other), commands.CloseRun).executor == executor


def test_a_teardown_that_hangs_ends_with_its_executor(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    bench.set_up(attempt, "db", RUN)
    bench.end(attempt)
    bench.news()
    bench.work(close_runs=("a",))
    assert every(bench.turn(events.Ticked(), at=bench.now + 4.9), commands.KillExecutor) == []
    assert one(bench.turn(events.Ticked(), at=bench.now + 0.2), commands.KillExecutor).executor == executor
    bench.turn(events.ExecutorDied(executor, "killed by signal 9"))
    sent = bench.flush()
    assert sent is not None
    assert sent.closed_runs == ("a",)
    assert [n.reason for n in sent.resources] == ["killed"]


def test_what_is_left_of_a_run_goes_when_the_run_is_over(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    bench.set_up(attempt, "db", RUN)
    bench.end(attempt)
    assert one(bench.work(over=("a", "b")), commands.CloseRun).run_id == "a"


def test_a_new_scheduler_that_knows_nothing_of_a_run_ends_it(bench: Resourceful) -> None:
    kept, gone = (bench.assign(bench.body_of(run_id))[0][0] for run_id in ("kept", "gone"))
    bench.set_up(kept, "db", RUN, "kept")
    bench.end(kept)
    bench.set_up(gone, "db", RUN, "gone")
    bench.turn(events.Disconnected())
    out = bench.connect(epoch=0, keep=(kept, gone))
    assert every(out, commands.CloseRun) == []
    bench.turn(events.Disconnected())
    bench.connect(epoch=1, keep=(kept, gone))
    bench.turn(events.Disconnected())
    out = bench.connect(epoch=2, keep=(kept,))
    assert every(out, commands.CloseRun) == [], "what runs is dropped first"
    assert one(bench.end(gone, ok=False, stopped=True), commands.CloseRun).run_id == "gone"
    bench.turn(events.Disconnected())
    out = bench.connect(epoch=3, known=(kept,))
    assert one(out, commands.CloseRun).run_id == "kept"


def test_an_attempt_without_resources_keeps_those_of_its_run(bench: Resourceful) -> None:
    (first,), _ = bench.assign(bench.body_of("a"))
    bench.set_up(first, "db", RUN, "a")
    bench.end(first)
    body, other = bench.body(run=0), 1_000
    bench.work(assigned=(events.Assigned(other, body, False, True, run_id="a"),))
    bench.turn(events.Disconnected())
    bench.connect(epoch=1, keep=(other,), known=(first,))
    bench.turn(events.Disconnected())
    assert every(bench.connect(epoch=2, keep=(other,)), commands.CloseRun) == []
    bench.end(other)
    bench.turn(events.Disconnected())
    assert one(bench.connect(epoch=3, known=(other,)), commands.CloseRun).run_id == "a"


def test_a_draining_worker_lets_its_executors_tear_down(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    number = bench.set_up(attempt, "model", WORKER)
    bench.turn(events.DrainRequested(60.0))
    out = bench.end(attempt)
    assert one(out, commands.CloseExecutor) == commands.CloseExecutor(executor, 5.0)
    sent = bench.flush()
    assert sent is not None
    assert every(bench.ack(sent.sequence), commands.Exit) == []
    bench.change(executor, 0, number, "model", WORKER, "a", "")
    out = bench.turn(events.ExecutorDied(executor, "exited with code 0"))
    assert every(out, commands.Exit) == []
    assert bench.news() == [("model", "-")]
    assert every(bench.ack(bench.state.next_sequence - 1), commands.Exit)


def test_a_draining_worker_waits_for_teardowns_no_longer_than_the_grace(bench: Resourceful) -> None:
    (attempt,), _ = bench.assign(bench.body_of("a"))
    executor = bench.executor_of(attempt)
    bench.set_up(attempt, "model", WORKER)
    bench.turn(events.DrainRequested(60.0))
    bench.end(attempt)
    out = bench.turn(events.Ticked(), at=5.1)
    assert one(out, commands.KillExecutor).executor == executor
    assert every(bench.turn(events.Ticked(), at=10.1), commands.Exit)


def test_an_executor_that_is_retired_has_the_grace_to_tear_down() -> None:
    bench = Resourceful(1, idle=1.0)
    bench.connect()
    body = bench.body_of("a")
    bench.state.total["cpu"] = bench.state.free["cpu"] = 2_000_000
    first, second = bench.assign(body, 2)[0]
    executor = bench.executor_of(first)
    bench.turn(events.ExecutorStarted(bench.executor_of(second)))
    bench.set_up(first, "model", WORKER)
    bench.end(first)
    bench.end(second)
    out = bench.turn(events.Ticked(), at=bench.now + 1.0)
    assert one(out, commands.CloseExecutor) == commands.CloseExecutor(executor, 5.0)
    assert one(bench.turn(events.Ticked(), at=bench.now + 5.0), commands.KillExecutor).executor == executor
