"""Stages that let values pass, values that nobody observed, and what becomes of both when values are lost."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.run import SKIPPED, WAITING
from cascade_scheduler.core.values import ErrorInfo, ObjectValue

from .harness import GraphMaker, Sim, observe, skips


@pytest.fixture
def sim() -> Sim:
    sim = Sim()
    sim.worker("w1", cpu=8)
    return sim


# --- stages that let values pass -----------------------------------------------------------------


def pipeline(make: GraphMaker, *conditions: int | None) -> list[int]:
    """Stages, each fed with the last; those with a condition."""
    last = make.literal(b"initial")
    stages = []
    for number, condition in enumerate(conditions):
        last = make.call(f"stage{number}", last, run_if=condition, passthrough=True)
        stages.append(last)
    return stages


def test_s31_a_skipped_stage_lets_its_input_pass(sim: Sim) -> None:
    make = GraphMaker()
    never = make.call("never")
    pipeline(make, None, never, None)
    sim.submit(make.graph())
    sim.done("never", truth=False)
    assert sim.one("stage0").inputs == (b"initial",)
    sim.done("stage0", b"of stage0")
    assert skips(sim) == [("stage1", "ConditionFalse")]
    assert sim.one("stage2").inputs == (b"of stage0",)
    sim.done("stage2")
    assert sim.ended.state == "succeeded"


def test_an_initial_literal_passes_through_any_number_of_skipped_stages() -> None:
    make = GraphMaker()
    never, last = make.call("never"), make.literal(b"initial")
    for _ in range(10_000):
        last = make.call("stage", last, run_if=never, passthrough=True)
    make.call("consumer", last)
    sim = Sim()
    sim.worker("w1")
    sim.submit(make.graph())
    sim.done("never", truth=False)
    assert len(skips(sim)) == 10_000
    assert sim.one("consumer").inputs == (b"initial",)


def test_s32_who_asked_for_a_skipped_node_gets_no_other_value(sim: Sim) -> None:
    make = GraphMaker()
    never, x, y = make.call("never"), make.call("x"), make.call("y")
    f = make.call("f", x, y, run_if=never)
    make.call("g", f)
    sim.submit(make.graph())
    sim.done("x")
    sim.done("y")
    sim.done("never", truth=False)
    assert skips(sim) == [("f", "ConditionFalse"), ("g", "UpstreamSkipped_Data")]


def test_conditions_and_order_see_the_skip_of_a_stage(sim: Sim) -> None:
    make = GraphMaker()
    never = make.call("never")
    [stage] = pipeline(make, never)
    make.gather(make.call("if", run_if=stage), make.call("after", after=[stage]), make.call("of", stage))
    sim.submit(make.graph())
    sim.done("never", truth=False)
    sim.done("of")
    reasons = dict(skips(sim))
    assert reasons.pop("gather") == "UpstreamSkipped_Data"
    assert reasons == {
        "stage0": "ConditionFalse",
        "if": "UpstreamSkipped_Condition",
        "after": "UpstreamSkipped_Sequence",
    }
    assert sim.ended.state == "failed"


def test_a_stage_lets_pass_only_its_first_input(sim: Sim) -> None:
    make = GraphMaker()
    never = make.call("never")
    x, y = make.call("x", run_if=never), make.call("y")
    stage = make.call("stage", x, y, passthrough=True)
    make.call("consumer", stage)
    sim.submit(make.graph())
    sim.done("y")
    sim.done("never", truth=False)
    assert skips(sim)[1:] == [("stage", "UpstreamSkipped_Data"), ("consumer", "UpstreamSkipped_Data")]


def test_a_skipped_target_lets_nothing_pass(sim: Sim) -> None:
    make = GraphMaker()
    pipeline(make, make.call("never"))
    sim.submit(make.graph())
    sim.done("never", truth=False)
    assert (sim.ended.state, sim.ended.skip_reason) == ("failed", "ConditionFalse")


def test_a_router_may_choose_a_stage_that_is_skipped(sim: Sim) -> None:
    make = GraphMaker()
    never, selector, source = make.call("never"), make.call("selector"), make.call("source")
    stage = make.call("stage", source, run_if=never, passthrough=True)
    make.router(selector, stage)
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    assert sim.one("source").publish
    assert sim.one("source").tail
    sim.done("never", truth=False)
    sim.done("source", b"passes")
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == source


# --- values that nobody observed -----------------------------------------------------------------


def test_a_literal_as_a_selector_is_observed_by_an_attempt_of_its_own(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b = make.literal(b"sel"), make.call("a"), make.call("b")
    make.call("consumer", make.router(selector, a, b))
    sim.submit(make.graph())
    [assign] = sim.open.values()
    assert (assign.observe_only, assign.observe, assign.inputs) == (True, 4, (b"sel",))
    assert (assign.function, assign.args, assign.spec.amounts) == (b"", b"", ())
    assert assign.route_keys == (b"keys of 3",)
    sim.turn(e.WorkerReported("w1", started=(assign.attempt,)))
    observe(sim, routes=(1,))
    sim.done("b")
    sim.done("consumer")
    assert [record.task for record in sim.events("TaskExecutionStarted")] == ["b", "consumer"]
    assert sim.ended.state == "succeeded"


def test_an_observation_survives_its_worker(sim: Sim) -> None:
    make = GraphMaker()
    make.call("action", run_if=make.literal())
    sim.submit(make.graph())
    [first] = sim.open.values()
    sim.lose_worker("w1")
    assert not sim.open
    sim.worker("w2")
    [second] = sim.open.values()
    assert second.attempt != first.attempt
    assert second.worker == "w2"
    observe(sim, truth=False)
    assert skips(sim) == [("action", "ConditionFalse")]


def test_an_observation_that_is_lost_again_and_again_fails_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    make.call("action", run_if=make.literal())
    sim.submit(make.graph())
    for _ in range(3):
        [assign] = sim.open.values()
        sim.report(e.AttemptLost(assign.attempt, "killed"))
    assert sim.ended.failed_task == "action"
    assert sim.ended.error is not None
    assert sim.ended.error.type == "TaskLostError"


def test_an_observation_that_raises_fails_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    make.call("action", run_if=make.literal())
    sim.submit(make.graph())
    error = ErrorInfo("ValueError", "ambiguous")
    observe(sim, observe_error=error)
    assert (sim.ended.failed_task, sim.ended.error) == ("action", error)


def test_an_observation_is_stopped_with_its_run(sim: Sim) -> None:
    make = GraphMaker()
    make.call("action", run_if=make.literal())
    sim.submit(make.graph())
    [assign] = sim.open.values()
    stopped = sim.turn(e.RunCancelRequested("r"))
    assert stopped == [c.SaveCancel("r"), c.CancelAttempt("w1", assign.attempt)]
    assert not sim.of(c.RunEnded)
    sim.report(e.AttemptCancelled(assign.attempt))
    assert sim.ended.state == "cancelled"


def test_a_literal_as_the_target(sim: Sim) -> None:
    make = GraphMaker()
    make.literal(b"42")
    sim.submit(make.graph())
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == views.TreeCompound(b"42", ())


def test_a_condition_that_could_not_be_observed_is_missing(sim: Sim) -> None:
    make = GraphMaker()
    make.call("action", run_if=make.call("cond"))
    sim.submit(make.graph())
    sim.done("cond")
    assert skips(sim) == [("action", "ConditionMissing")]


# --- values that are lost ------------------------------------------------------------------------


def large(sim: Sim, name: str) -> ObjectValue:
    assign = sim.one(name)
    return ObjectValue(assign.attempt, 1 << 20, assign.worker, f"{assign.worker}:1")


def test_a_chosen_value_that_is_lost_is_made_again_and_nothing_decided_anew(sim: Sim) -> None:
    sim.worker("w2")
    make = GraphMaker()
    selector, a, b, slow = make.call("selector"), make.call("a"), make.call("b"), make.call("slow")
    make.call("consumer", make.router(selector, a, b), slow)
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    made = large(sim, "a")
    sim.done("a", made)
    sim.lose_worker(made.worker)
    assert sorted(sim.assigned) == ["a", "slow"]
    sim.done("slow")
    assert sim.assigned == ["a"]
    sim.done("a", b"again")
    assert sim.one("consumer").inputs == (b"again", b"v")
    sim.done("consumer")
    assert sim.executed == ["selector", "a", "slow", "a", "consumer"]
    assert skips(sim) == [("b", "Pruned")]


def test_what_passed_a_skipped_stage_and_is_lost_is_made_again(sim: Sim) -> None:
    sim.worker("w2")
    make = GraphMaker()
    never, source, slow = make.call("never"), make.call("source"), make.call("slow")
    stage = make.call("stage", source, run_if=never, passthrough=True)
    make.call("consumer", stage, slow)
    sim.submit(make.graph())
    sim.done("never", truth=False)
    made = large(sim, "source")
    sim.done("source", made)
    assert sim.core.runs["r"].status[stage] == SKIPPED
    sim.lose_worker(made.worker)
    assert sim.core.runs["r"].status[stage] == WAITING
    sim.done("slow")
    sim.done("source", b"again")
    assert sim.one("consumer").inputs == (b"again", b"v")
    assert len(skips(sim)) == len(sim.of(c.SaveSkip)) == 1


def test_values_that_only_unchosen_routes_needed_are_let_go(sim: Sim) -> None:
    make = GraphMaker()
    selector, shared, a = make.call("selector"), make.call("shared"), make.call("a")
    b = make.call("b", shared)
    make.call("consumer", make.router(selector, a, b), make.call("other", shared))
    sim.submit(make.graph())
    made = large(sim, "shared")
    sim.done("shared", made)
    sim.done("other")
    assert not sim.of(c.ReleaseObject), "a branch may still need it"
    sim.done("selector", routes=(0,))
    assert sim.of(c.ReleaseObject) == [c.ReleaseObject("w1", made.attempt)]
