"""Resources of runs: their events, and the phase in which they go."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import EdgeKind, NodeKind, ResourceRef, Spec
from tests.scheduler.core.harness import CPU, GraphMaker, Sim

TASK, RUN, WORKER = 1, 2, 3


def maker(*names: str, scope: int = RUN) -> GraphMaker:
    """A chain of calls, each with a resource."""
    made = GraphMaker()
    before: list[tuple[int, EdgeKind]] = []
    for name in names:
        resources = (ResourceRef("db", scope, b"db"),)
        spec = Spec(NodeKind.CALL, name, made.function(name), amounts=CPU, resources=resources)
        before = [(made.node(spec, before), EdgeKind.DATA)]
    return made


@pytest.fixture
def sim() -> Sim:
    made = Sim()
    made.worker("w", cpu=2)
    made.worker("v")
    return made


def closed(sim: Sim, worker: str, run_id: str = "r") -> list[c.Command]:
    return sim.turn(e.WorkerReported(worker, closed_runs=(run_id,)))


def ended(sim: Sim) -> list[str]:
    return [end.state for end in sim.of(c.RunEnded)]


def test_a_run_ends_when_its_workers_have_torn_down(sim: Sim) -> None:
    sim.submit(maker("a", "b").graph())
    sim.done("a")
    sim.done("b")
    assert sim.of(c.CloseRun) == [c.CloseRun("w", "r")]
    assert ended(sim) == []
    assert sim.core.runs["r"].live
    assert closed(sim, "v") == []
    out = closed(sim, "w")
    assert [type(command).__name__ for command in out if isinstance(command, c.EventRecord | c.RunEnded)] == [
        "EventRecord",
        "RunEnded",
    ]
    assert ended(sim) == ["succeeded"]
    assert sim.core.closing == {}
    assert sim.core.resourceful == {}


@pytest.mark.parametrize("scope", [TASK, WORKER])
def test_other_scopes_have_no_such_phase(sim: Sim, scope: int) -> None:
    sim.submit(maker("a", scope=scope).graph())
    sim.done("a")
    assert sim.of(c.CloseRun) == []
    assert ended(sim) == ["succeeded"]


def test_a_failed_and_a_cancelled_run_too(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.failed("a", retryable=False)
    assert ended(sim) == []
    closed(sim, "w")
    assert ended(sim) == ["failed"]
    sim.submit(maker("b").graph(), "s")
    sim.turn(e.RunCancelRequested("s"))
    [attempt] = sim.open
    assert ended(sim) == ["failed"]
    sim.report(e.AttemptCancelled(attempt))
    assert ended(sim) == ["failed"]
    closed(sim, "w", "s")
    assert ended(sim) == ["failed", "cancelled"]


def test_a_cancel_in_that_phase_changes_nothing(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.done("a")
    sim.turn(e.RunCancelRequested("r"))
    closed(sim, "w")
    assert ended(sim) == ["succeeded"]


def test_a_worker_that_does_not_answer_is_waited_for_no_longer_than_the_grace(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.done("a")
    assert sim.core.next_wakeup == sim.now + 6.0
    sim.after(5.9)
    assert ended(sim) == []
    sim.after(0.1)
    assert ended(sim) == ["succeeded"]
    assert closed(sim, "w") == []


def test_a_worker_that_is_lost_has_nothing_more(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.done("a")
    sim.lose_worker("w")
    assert ended(sim) == ["succeeded"]


def test_a_worker_that_was_lost_before_is_not_asked(sim: Sim) -> None:
    sim.submit(maker("a", "b").graph())
    first = sim.one("a").worker
    sim.done("a")
    assert sim.one("b").worker == first
    sim.lose_worker(first)
    sim.done("b")
    other = "v" if first == "w" else "w"
    assert sim.of(c.CloseRun) == [c.CloseRun(other, "r")]


def test_a_worker_that_comes_back_is_asked_again(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.done("a")
    sim.turn(e.WorkerDisconnected("w", "cut"))
    assert ended(sim) == []
    sim.worker("w", cpu=2)
    assert sim.of(c.CloseRun) == [c.CloseRun("w", "r")] * 2
    closed(sim, "w")
    assert ended(sim) == ["succeeded"]


def test_events_come_in_order(sim: Sim) -> None:
    sim.submit(maker("a", scope=TASK).graph())
    attempt = sim.one("a").attempt
    up = e.ResourceReported("r", "db", attempt=attempt, duration=0.5)
    down = e.ResourceReported("r", "db", True, "OSError: no", attempt)
    del sim.open[attempt]
    sim.turn(e.WorkerReported("w", (e.AttemptDone(attempt, b"v"),), resources=(up, down)))
    kinds = [record.kind for record in sim.events()]
    assert kinds == [
        "RunStarted",
        "ResourceAcquired",
        "TaskExecutionStarted",
        "ResourceReleased",
        "TaskExecutionFinished",
        "RunFinished",
    ]
    [acquired] = sim.events("ResourceAcquired")
    assert (acquired.resource, acquired.task, acquired.worker, acquired.duration) == ("db", "a", "w", 0.5)
    [released] = sim.events("ResourceReleased")
    assert (released.resource, released.task, released.reason) == ("db", "a", "OSError: no")


def test_what_belongs_to_no_attempt_is_told_by_the_run(sim: Sim) -> None:
    sim.submit(maker("a").graph())
    sim.done("a")
    change = e.ResourceReported("r", "db", True)
    sim.turn(e.WorkerReported("w", resources=(change,), closed_runs=("r",)))
    assert [record.kind for record in sim.events()][-2:] == ["ResourceReleased", "RunFinished"]
    sim.turn(e.WorkerReported("w", resources=(change, change._replace(run_id=""))))
    assert sim.events()[-1].kind == "RunFinished", "nothing comes after the end"


def test_what_a_lost_worker_held_was_killed(sim: Sim) -> None:
    sim.submit(maker("a", "b").graph())
    attempt = sim.one("a").attempt
    acquired = e.ResourceReported("r", "db", False, "", attempt, 0.0)
    sim.turn(e.WorkerReported("w", resources=(acquired,)))
    sim.turn(e.WorkerDisconnected("w", "its stream ended", gone=True))
    told = [(x.kind, x.resource, x.reason) for x in sim.of(c.EventRecord) if x.kind.startswith("Resource")]
    assert told == [("ResourceAcquired", "db", ""), ("ResourceReleased", "db", "killed")]


def test_what_was_released_is_not_released_again(sim: Sim) -> None:
    sim.submit(maker("a", "b").graph())
    attempt = sim.one("a").attempt
    for released in (False, True):
        report = e.ResourceReported("r", "db", released, "", attempt, 0.0)
        sim.turn(e.WorkerReported("w", resources=(report,)))
    sim.turn(e.WorkerDisconnected("w", "its stream ended", gone=True))
    assert sum(x.kind == "ResourceReleased" for x in sim.of(c.EventRecord)) == 1
