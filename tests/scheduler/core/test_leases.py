"""Leases, event by event: when a loop is left to its worker, what it says, and how it comes back."""

from __future__ import annotations

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.graph import Graph, Retry
from cascade_scheduler.core.values import ErrorInfo

from .harness import GraphMaker, Sim
from .test_constraints import clear, pause


def step(name: str = "loop", args: bytes = b"", retry: Retry | None = None) -> Graph:
    make = GraphMaker()
    make.call(name, args=args, retry=retry)
    return make.graph()


def leased(steps: int = 1, workers: int = 1, fast: bool = True, retry: Retry | None = None) -> Sim:
    """A loop that has taken so many steps; the last of them is out."""
    sim = Sim(fast_loops=fast)
    for number in range(workers):
        sim.worker(f"w{number}", ahead=0)
    sim.submit(step(retry=retry))
    for number in range(steps):
        sim.tail("loop", step(args=b"%d" % number, retry=retry))
    return sim


def say(sim: Sim, iterations: int, args: bytes) -> None:
    assign = sim.one("loop")
    said = e.LeaseProgress(assign.attempt, iterations, args, b"n" * 16)
    sim.turn(e.WorkerReported(assign.worker, leases=(said,)))


def test_a_loop_is_leased_when_a_step_has_returned_a_call_of_its_own_task() -> None:
    sim = leased(0)
    assert not sim.one("loop").lease
    sim.tail("loop", step())
    assert sim.one("loop").lease
    assert (sim.core.leased, sim.core.leases) == (1, 1)
    sim.tail("loop", step("other"), iterations=7)
    assert not sim.one("other").lease
    sim.done("other")
    assert sim.ended.state == "succeeded"
    assert sim.core.leased == 0
    assert sim.core.loop_steps == 9


def test_what_a_worker_cannot_do_alone_is_not_leased() -> None:
    assert not leased(fast=False).one("loop").lease
    make = GraphMaker()
    make.call("loop", make.call("input"))
    sim = leased(0)
    sim.tail("loop", make.graph())
    sim.done("input")
    assert not sim.one("loop").lease


def test_what_a_lease_has_done_is_counted_and_its_arguments_are_kept() -> None:
    sim = leased()
    sim.now += 2
    say(sim, 500, b"at 500")
    assert sim.core.loop_steps == 501
    run = sim.core.runs["r"]
    assert run.graph.node_args[0] == b"at 500"
    assert views.progress(run) == views.progress(run)._replace(total=502, done=501)
    assert [(s.number, s.args) for s in sim.of(c.SaveCheckpoint)] == [(1, b"at 500")]
    sim.now += 2
    say(sim, 900, b"at 900")
    assert [record.iterations for record in sim.events("LoopProgress")] == [501, 901]
    sim.report(e.AttemptDone(sim.one("loop").attempt, b"end", iterations=950))
    assert sim.ended.state == "succeeded"
    assert sim.core.loop_steps == 951
    assert sim.events("LoopProgress")[-1].iterations == 951


def test_a_lost_lease_goes_on_from_its_last_checkpoint() -> None:
    sim = leased(workers=2)
    say(sim, 500, b"at 500")
    holder = sim.one("loop").worker
    sim.lose_worker(holder)
    assign = sim.one("loop")
    assert assign.worker != holder
    assert assign.args == b"at 500"
    assert assign.try_ == 1
    assert assign.lease


def test_steps_between_count_for_a_task_that_kills_its_executor() -> None:
    sim = leased()
    for number in range(1, 10):
        say(sim, number, b"%d" % number)
        sim.report(e.AttemptLost(sim.one("loop").attempt, "killed"))
    while not sim.of(c.RunEnded):  # and now at one place, again and again
        sim.report(e.AttemptLost(sim.one("loop").attempt, "killed"))
    assert sim.ended.error is not None
    assert sim.ended.error.type == "TaskLostError"


def test_a_step_that_fails_is_tried_again_from_its_own_arguments() -> None:
    sim = leased(retry=Retry(2))
    say(sim, 40, b"at 40")
    sim.failed("loop")
    assign = sim.one("loop")
    assert (assign.args, assign.try_) == (b"at 40", 2)
    say(sim, 3, b"at 43")
    sim.failed("loop")
    assert sim.one("loop").try_ == 2, "the step that failed is another one"
    sim.failed("loop")
    assert sim.ended.state == "failed"


def test_a_lease_is_recalled_when_other_work_waits_for_its_place() -> None:
    sim = leased()
    sim.submit(step("other"), "q")
    sim.after(0.05)
    assert not sim.of(c.RecallLease)
    assert sim.core.next_wakeup is not None
    sim.after(0.06)
    assert sim.of(c.RecallLease) == [c.RecallLease("w0", sim.one("loop").attempt)]
    sim.after(1.0)
    assert len(sim.of(c.RecallLease)) == 1
    sim.tail("loop", step(args=b"back"), iterations=300)
    assert sim.assigned == ["other"]
    sim.done("other")
    assert sim.one("loop").args == b"back"
    sim.tail("loop", step())
    assert sim.one("loop").lease, "nobody waits any more"


def test_no_lease_is_given_while_others_wait() -> None:
    sim = leased(0)
    sim.submit(step("other"), "q")
    sim.submit(step("other"), "p")
    sim.after(0.2)
    sim.tail("loop", step())
    while "loop" not in sim.assigned:
        assert "loop" not in sim.assigned
        sim.done("other")
    assert sim.of(c.RecallLease) == []


def test_a_limit_recalls_the_leases_that_it_covers() -> None:
    sim = leased()
    sim.turn(pause("task:other"))
    assert sim.of(c.RecallLease) == []
    sim.turn(pause("task:loop", id="p"))
    assert sim.of(c.RecallLease) == [c.RecallLease("w0", sim.one("loop").attempt)]
    sim.tail("loop", step(), iterations=10)
    assert sim.assigned == []
    sim.turn(clear(id="p"))
    assert sim.assigned == ["loop"]


def test_a_cancel_stops_a_lease() -> None:
    sim = leased()
    attempt = sim.one("loop").attempt
    sim.turn(e.RunCancelRequested("r"))
    assert c.CancelAttempt("w0", attempt) in sim.log
    sim.report(e.AttemptCancelled(attempt))
    assert sim.ended.state == "cancelled"
    assert sim.core.leased == 0


def test_progress_of_an_attempt_that_is_not_on_the_books_changes_nothing() -> None:
    sim = leased()
    late = e.LeaseProgress(99, 5, b"late", b"n" * 16)
    sim.turn(e.WorkerReported("w0", leases=(late,)))
    assert sim.core.loop_steps == 1
    sim.report(e.AttemptFailed(sim.one("loop").attempt, ErrorInfo("ValueError", "no")))
    assert sim.ended.state == "failed"
