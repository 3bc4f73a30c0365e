"""Routers, stages that let values pass, literals: what goes, what waits, what nobody needs any more."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import flow, views
from cascade_scheduler.core.graph import EdgeKind, GraphInvalid, NodeKind, Spec
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.run import SKIPPED, WAITING
from cascade_scheduler.core.values import ErrorInfo, ObjectValue

from .harness import GraphMaker, Sim


@pytest.fixture
def sim() -> Sim:
    sim = Sim()
    sim.worker("w1", cpu=8)
    return sim


def skips(sim: Sim) -> list[tuple[str, str]]:
    return [(s.task, s.reason) for s in sim.events("TaskSkipped")]


def observe(sim: Sim, **facts: object) -> None:
    """Answers the one attempt that only observes."""
    [assign] = [a for a in sim.open.values() if a.observe_only]
    sim.report(e.AttemptDone(assign.attempt, b"", **facts))  # type: ignore[arg-type]


# --- routers -------------------------------------------------------------------------------------


def test_s33_the_consumer_gets_the_value_of_the_chosen_route(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b = make.call("selector"), make.call("a"), make.call("b")
    make.call("consumer", make.router(selector, a, b))
    sim.submit(make.graph())
    assert sim.assigned == ["selector"], "no branch starts before it is chosen"
    assert (sim.one("selector").observe, sim.one("selector").route_keys) == (4, (b"keys of 3",))
    sim.done("selector", routes=(0,))
    assert sim.assigned == ["a"]
    assert skips(sim) == [("b", "Pruned")]
    sim.done("a", b"of a")
    assert sim.one("consumer").inputs == (b"of a",)
    sim.done("consumer")
    assert sim.ended.state == "succeeded"
    assert [skip.reason for skip in sim.of(c.SaveSkip)] == ["Pruned"]


def test_s34_no_such_route_fails_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    make.call("consumer", make.router(selector, a))
    sim.submit(make.graph())
    sim.done("selector", routes=(-1,), route_text="no route for 'c': its keys are 'a'")
    assert sim.ended.failed_task == "consumer"
    assert sim.ended.error == ErrorInfo("RouteNotFoundError", "no route for 'c': its keys are 'a'")
    assert sim.executed == ["selector"]


def test_a_router_without_a_route_is_nobodys_business_when_the_consumer_is_skipped(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, never = make.call("selector"), make.call("a"), make.call("never")
    make.call("consumer", make.router(selector, a), run_if=never)
    sim.submit(make.graph())
    sim.done("selector", routes=(-1,), route_text="no")
    sim.done("never", truth=False)
    assert skips(sim) == [("a", "Pruned"), ("consumer", "ConditionFalse")]
    assert sim.ended.skip_reason == "ConditionFalse"


def test_s35_a_branch_deeper_than_the_selector_is_pruned(sim: Sim) -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    top = make.call("top")
    b = make.call("b", make.call("middle", top))
    make.call("consumer", make.router(selector, a, b))
    sim.submit(make.graph())
    assert sim.assigned == ["selector"]
    sim.done("selector", routes=(0,))
    assert skips(sim) == [("b", "Pruned"), ("middle", "Pruned"), ("top", "Pruned")]
    sim.done("a")
    sim.done("consumer")
    assert sim.ended.state == "succeeded"
    assert sim.executed == ["selector", "a", "consumer"]


def test_s36_what_both_branches_need_runs(sim: Sim) -> None:
    make = GraphMaker()
    selector, shared = make.call("selector"), make.call("shared")
    a, b = make.call("a", shared), make.call("b", shared)
    make.call("consumer", make.router(selector, a, b))
    sim.submit(make.graph())
    assert sim.assigned == ["selector"], "gating reaches back to all that only branches need"
    sim.done("selector", routes=(1,))
    assert skips(sim) == [("a", "Pruned")]
    sim.done("shared")
    sim.done("b")
    sim.done("consumer")
    assert sim.ended.state == "succeeded"


def test_what_others_need_too_does_not_wait_for_the_choice(sim: Sim) -> None:
    make = GraphMaker()
    selector, shared = make.call("selector"), make.call("shared")
    a, b = make.call("a", shared), make.call("b", shared)
    make.call("consumer", make.router(selector, a, b), shared)
    sim.submit(make.graph())
    assert sorted(sim.assigned) == ["selector", "shared"]
    sim.done("shared", b"s")
    assert sim.assigned == ["selector"]
    sim.done("selector", routes=(0,))
    assert sim.one("a").inputs == (b"s",)
    assert skips(sim) == [("b", "Pruned")]


def test_s38_two_routers_on_one_consumer_choose_by_themselves(sim: Sim) -> None:
    make = GraphMaker()
    first, second = make.call("first"), make.call("second")
    a, b, x, y = make.call("a"), make.call("b"), make.call("x"), make.call("y")
    make.call("consumer", make.router(first, a, b), make.router(second, x, y))
    sim.submit(make.graph())
    sim.done("first", routes=(0,))
    sim.done("second", routes=(1,))
    assert skips(sim) == [("b", "Pruned"), ("x", "Pruned")]
    sim.done("y", b"of y")
    sim.done("a", b"of a")
    assert sim.one("consumer").inputs == (b"of a", b"of y")


def test_two_routers_share_selector_and_routes(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b = make.call("selector"), make.call("a"), make.call("b")
    one, other = make.router(selector, a, b), make.router(selector, b, a)
    make.call("consumer", one, other)
    sim.submit(make.graph())
    routers = solve(make.graph()).wanted[selector]
    sim.done("selector", routes=tuple(0 for _ in routers))
    assert sorted(sim.assigned) == ["a", "b"]
    sim.done("b", b"of b")
    sim.done("a", b"of a")
    assert sim.one("consumer").inputs == (b"of a", b"of b")
    assert not skips(sim)


def test_one_node_behind_two_keys_is_one_branch(sim: Sim) -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    make.call("consumer", make.router(selector, a, a))
    sim.submit(make.graph())
    sim.done("selector", routes=(1,))
    sim.done("a", b"of a")
    assert sim.one("consumer").inputs == (b"of a",)
    sim.done("consumer")
    assert not skips(sim)


def test_a_selector_can_be_a_route(sim: Sim) -> None:
    make = GraphMaker()
    selector, b = make.call("selector"), make.call("b")
    make.call("consumer", make.router(selector, selector, b))
    sim.submit(make.graph())
    sim.done("selector", b"itself", routes=(0,))
    assert skips(sim) == [("b", "Pruned")]
    assert sim.one("consumer").inputs == (b"itself",)


def test_nested_routers_choose_one_after_the_other(sim: Sim) -> None:
    make = GraphMaker()
    outer, inner = make.call("outer"), make.call("inner")
    a, b, x = make.call("a"), make.call("b"), make.call("x")
    nested = make.router(inner, a, b)
    make.call("consumer", make.router(outer, nested, x))
    sim.submit(make.graph())
    assert sim.assigned == ["outer"], "the inner selector belongs to a branch"
    sim.done("outer", routes=(0,))
    assert sim.assigned == ["inner"]
    sim.done("inner", routes=(1,))
    sim.done("b", b"of b")
    assert sim.one("consumer").inputs == (b"of b",)
    assert skips(sim) == [("x", "Pruned"), ("a", "Pruned")]


def test_a_pruned_router_prunes_all_its_branches(sim: Sim) -> None:
    make = GraphMaker()
    outer, inner = make.call("outer"), make.call("inner")
    a, b, x = make.call("a"), make.call("b"), make.call("x")
    make.call("consumer", make.router(outer, make.router(inner, a, b), x))
    sim.submit(make.graph())
    sim.done("outer", routes=(1,))
    assert sorted(skips(sim)) == [("a", "Pruned"), ("b", "Pruned"), ("inner", "Pruned")]
    assert sim.assigned == ["x"]


def test_a_router_can_be_the_selector_of_another(sim: Sim) -> None:
    make = GraphMaker()
    first, p, q = make.call("first"), make.call("p"), make.call("q")
    selector = make.router(first, p, q)
    a, b = make.call("a"), make.call("b")
    router = make.router(selector, a, b)
    make.call("consumer", router)
    sim.submit(make.graph())
    assert sim.assigned == ["first"]
    sim.done("first", routes=(1,))
    assert sim.one("q").route_keys == (b"keys of %d" % router,)
    sim.done("q", routes=(0,))
    sim.done("a", b"of a")
    assert sim.one("consumer").inputs == (b"of a",)


def test_a_router_as_the_target(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b = make.call("selector"), make.call("a"), make.call("b")
    make.router(selector, a, make.gather(b))
    sim.submit(make.graph())
    sim.done("selector", routes=(1,))
    assert (sim.one("b").publish, sim.one("b").tail) == (True, False)
    sim.done("b", b"of b")
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == views.TreeCompound(b"template", (b,))
    plan = solve(make.graph())
    assert sorted(plan.tails) == [a, 3, 4]


def test_a_router_as_the_target_without_a_route(sim: Sim) -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    make.router(selector, a)
    sim.submit(make.graph())
    sim.done("selector", routes=(-1,), route_text="none")
    assert sim.ended.error == ErrorInfo("RouteNotFoundError", "none")
    assert not skips(sim)


@pytest.mark.parametrize("truth", [True, False])
def test_a_router_as_a_condition(sim: Sim, truth: bool) -> None:
    make = GraphMaker()
    selector, a, b = make.call("selector"), make.call("a"), make.call("b")
    make.call("action", run_if=make.router(selector, a, b))
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    assert sim.one("a").observe == 1
    sim.done("a", truth=truth)
    assert ("action" in sim.assigned) is truth
    assert skips(sim)[1:] == ([] if truth else [("action", "ConditionFalse")])


def test_a_chosen_route_that_is_skipped_skips_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    selector, never = make.call("selector"), make.call("never")
    a, b = make.call("a", run_if=never), make.call("b")
    make.call("consumer", make.router(selector, a, b))
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    sim.done("never", truth=False)
    expected = [("b", "Pruned"), ("a", "ConditionFalse"), ("consumer", "UpstreamSkipped_Route")]
    assert skips(sim) == expected


def test_a_skipped_selector_skips_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    never = make.call("never")
    selector, a = make.call("selector", run_if=never), make.call("a")
    make.call("consumer", make.router(selector, a))
    sim.submit(make.graph())
    sim.done("never", truth=False)
    expected = [("selector", "ConditionFalse"), ("a", "Pruned"), ("consumer", "UpstreamSkipped_Data")]
    assert skips(sim) == expected


def test_the_consumer_of_a_skipped_router_hears_the_route_before_other_data(sim: Sim) -> None:
    make = GraphMaker()
    selector, never = make.call("selector"), make.call("never")
    x = make.call("x", run_if=never)
    a = make.call("a", run_if=never)
    make.call("consumer", x, make.router(selector, a))
    sim.submit(make.graph())
    sim.done("never", truth=False)
    sim.done("selector", routes=(0,))
    assert skips(sim)[-1] == ("consumer", "UpstreamSkipped_Route")


def test_what_cannot_be_a_key_fails_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    make.call("consumer", make.router(selector, a))
    sim.submit(make.graph())
    error = ErrorInfo("TypeError", "unhashable type: 'list'")
    sim.done("selector", observe_error=error)
    assert (sim.ended.failed_task, sim.ended.error) == ("consumer", error)


def test_when_all_is_finished_first_gated_branches_hold_nothing_up(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b, other = make.call("selector"), make.call("a"), make.call("b"), make.call("other")
    make.gather(make.router(selector, a, b), other)
    sim.submit(make.graph(), on_failure="finish")
    sim.failed("selector")
    assert sim.assigned == ["other"]
    sim.done("other")
    assert sim.ended.failed_task == "selector"
    assert not skips(sim)


def test_a_map_over_the_choice_of_a_router(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, b = make.call("selector"), make.call("a"), make.literal(b"list")
    make.call("child", items=[make.router(selector, a, b)], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("selector", routes=(1,))
    observe(sim, length=2, items=(b"i", b"j"))
    assert [assign.inputs for assign in sim.open.values()] == [(b"i",), (b"j",)]


def test_ten_thousand_nodes_are_pruned_without_recursion() -> None:
    make = GraphMaker()
    selector, a = make.call("selector"), make.call("a")
    last = make.call("first of many")
    for _ in range(10_000):
        last = make.call("many", last)
    make.call("consumer", make.router(selector, a, last))
    sim = Sim()
    sim.worker("w1")
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    assert len(skips(sim)) == 10_001
    sim.done("a")
    sim.done("consumer")
    assert sim.ended.state == "succeeded"


def test_thousands_of_nested_routers_choose_without_recursion() -> None:
    make = GraphMaker()
    selector, router = make.call("selector"), make.call("base")
    for _ in range(5_000):
        router = make.router(selector, router)
    make.call("consumer", router)
    sim = Sim()
    sim.worker("w1")
    sim.submit(make.graph())
    sim.done("selector", routes=(0,) * 5_000)
    sim.done("base", b"of base")
    assert sim.one("consumer").inputs == (b"of base",)


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
    assert sim.turn(e.RunCancelRequested("r")) == [c.CancelAttempt("w1", assign.attempt)]
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


# --- lazy amounts, waits, recvs ------------------------------------------------------------------


def test_a_lazy_amount_is_observed_and_overlays_the_spec(sim: Sim) -> None:
    make = GraphMaker()
    size, quick = make.call("size"), make.call("quick")
    task = make.call("task", quick, lazy={"memory_gb": size}, amounts=(("cpu", 1_000_000), ("memory_gb", 1)))
    sim.submit(make.graph())
    assert sim.one("size").observe == 8
    run = sim.core.runs["r"]
    sim.done("size", amount=0)
    sim.done("quick")
    assert flow.amounts(run, task) == (("cpu", 1_000_000), ("memory_gb", 0))
    assert flow.amounts(run, size) == (("cpu", 1_000_000),)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"amount": -500_000}, "is -0.5; it must not be negative"),
        ({"observe_error": ErrorInfo("TypeError", "'x' is no number")}, "is no number"),
    ],
)
def test_an_amount_that_is_none_fails_the_consumer(sim: Sim, facts: dict[str, object], told: str) -> None:
    make = GraphMaker()
    make.call("task", lazy={"cpu": make.call("size")})
    sim.submit(make.graph())
    sim.done("size", **facts)  # type: ignore[arg-type]
    assert sim.ended.failed_task == "task"
    assert sim.ended.error is not None
    assert sim.ended.error.type == "ValueError"
    assert "the amount 'cpu' of 'task' is the value of 'size'" in sim.ended.error.message
    assert told in sim.ended.error.message


def test_s97_a_wait_passes_by_itself(sim: Sim) -> None:
    make = GraphMaker()
    wait, quick = make.wait(10.0), make.call("quick")
    make.call("consumer", wait, quick)
    sim.submit(make.graph())
    assert sim.core.next_wakeup == sim.now + 10.0
    sim.done("quick")
    sim.after(9.9)
    assert not sim.open
    sim.after(0.2)
    assert sim.one("consumer").inputs == (b"\x80\x05N.", b"v")


def test_a_lazy_wait_begins_when_its_delay_is_known(sim: Sim) -> None:
    make = GraphMaker()
    make.wait(lazy=make.call("delay"))
    sim.submit(make.graph())
    sim.after(100.0)
    sim.done("delay", amount=2_500_000)
    assert sim.core.next_wakeup == sim.now + 2.5
    sim.after(2.5)
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == views.TreeCompound(b"\x80\x05N.", ())


def test_s83_a_recv_waits_for_a_message(sim: Sim) -> None:
    make = GraphMaker()
    make.call("consumer", make.wait(topic="a/b"))
    sim.submit(make.graph())
    assert sim.core.next_wakeup is None
    sim.turn(e.MessageArrived("a/c", b"no"))
    assert not sim.open
    sim.turn(e.MessageArrived("a/b", b"yes"))
    assert sim.one("consumer").inputs == (b"yes",), "passed on unread"
    assert sim.of(c.SaveResult)[0].node == 0


def test_s83_a_recv_fails_when_no_message_comes_in_time(sim: Sim) -> None:
    make = GraphMaker()
    make.wait(1.5, topic="a/b")
    sim.submit(make.graph())
    sim.after(1.6)
    error = ErrorInfo("TimeoutError", "'recv' got no message on topic 'a/b' within 1.5 s")
    assert sim.ended.error == error


def test_a_retained_message_waits_for_those_who_come_later(sim: Sim) -> None:
    sim.turn(e.MessageArrived("t", b"old", retained=True))
    sim.turn(e.MessageArrived("t", b"new", retained=True))
    make = GraphMaker()
    make.wait(topic="t")
    sim.submit(make.graph(), "first")
    [end] = sim.of(c.RunEnded)
    assert end.state == "succeeded"
    assert views.target_tree(sim.core.runs["first"]) == views.TreeCompound(b"new", ())
    sim.turn(e.MessageArrived("t", b"", retained=True))
    sim.submit(make.graph(), "second")
    assert sim.core.runs["second"].state == "running"
    sim.turn(e.RunCancelRequested("second"))
    assert not sim.core.listening
    assert not sim.core.retained_bytes


def test_retained_messages_are_bounded(sim: Sim) -> None:
    for number in range(40):
        sim.turn(e.MessageArrived(f"t{number}", bytes(1 << 20), retained=True))
    assert sim.core.retained_bytes <= 16 << 20
    assert list(sim.core.retained)[-1] == "t39"


# --- columns that make no graph ------------------------------------------------------------------


def bad(kind: NodeKind, *edges: tuple[int, EdgeKind], args: bytes = b"x", passthrough: bool = False) -> str:
    make = GraphMaker()
    make.call("a")
    make.call("b")
    make.node(Spec(kind, "it", passthrough=passthrough), edges, args)
    with pytest.raises(GraphInvalid) as caught:
        make.graph()
    return str(caught.value)


def test_nodes_whose_edges_do_not_go_with_their_kind_are_refused() -> None:
    selector, route = (0, EdgeKind.SELECTOR), (1, EdgeKind.ROUTE)
    data, amount = (0, EdgeKind.DATA), (0, EdgeKind.AMOUNT)
    for edges in [
        (),
        (selector,),
        (route,),
        (route, selector),
        (selector, selector, route),
        (selector, data),
    ]:
        assert "is a router and has other edges" in bad(NodeKind.ROUTER, *edges)
    assert "without keys" in bad(NodeKind.ROUTER, selector, route, args=b"")
    assert "is no router" in bad(NodeKind.GATHER, selector)
    assert "is a literal" in bad(NodeKind.LITERAL, data)
    assert "is a literal" in bad(NodeKind.LITERAL, args=b"")
    assert "holds no amounts" in bad(NodeKind.GATHER, amount)
    assert "first input pass" in bad(NodeKind.CALL, passthrough=True)
    assert "first input pass" in bad(NodeKind.GATHER, data, passthrough=True)
    assert "is a wait without a delay" in bad(NodeKind.WAIT)
    assert "is a recv without a topic" in bad(NodeKind.RECV)
    assert "other edges than conditions" in bad(NodeKind.WAIT, data)


def test_values_are_found_behind_routers_for_whoever_fetches_them(sim: Sim) -> None:
    make = GraphMaker()
    selector, literal = make.call("selector"), make.literal(b"plain")
    router = make.router(selector, literal)
    make.call("consumer", make.gather(router))
    sim.submit(make.graph())
    sim.done("selector", routes=(0,))
    run = sim.core.runs["r"]
    assert views.single_value(run, run.resolve(router)) == b"plain"
    assert views.single_value(run, 3) is None, "a list is made of others' values"
    assert views.fetch_value(sim.core, "r", literal) is None, "it is no list"
    template, values = views.fetch_value(sim.core, "r", 3) or (b"", iter(()))
    assert (template, list(values)) == (b"template", [b"plain"])
