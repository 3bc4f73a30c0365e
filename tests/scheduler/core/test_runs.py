"""Runs from submit to end: order, flow, failure, retry, cancel."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import views
from cascade_scheduler.core.graph import NodeKind, Retry
from cascade_scheduler.core.run import ACTIVE
from cascade_scheduler.core.values import CompoundValue, DeferredValue, ListValue

from .harness import GraphMaker, Sim


@pytest.fixture
def sim() -> Sim:
    sim = Sim()
    sim.worker("w1")
    return sim


def test_one_task_is_assigned_and_its_value_told(sim: Sim) -> None:
    make = GraphMaker()
    make.call("one")
    sim.submit(make.graph())
    [assign] = sim.of(c.Assign)
    assert (assign.worker, assign.try_, assign.ahead, assign.publish) == ("w1", 1, False, True)
    sim.done("one", b"42")
    assert sim.of(c.TargetValue) == [c.TargetValue("r", 0, b"42")]
    assert sim.ended.state == "succeeded"
    kinds = [record.kind for record in sim.events()]
    assert kinds == ["RunStarted", "TaskExecutionStarted", "TaskExecutionFinished", "RunFinished"]


def test_s13_a_diamond_goes_in_order(sim: Sim) -> None:
    make = GraphMaker()
    a = make.call("a")
    b, d = make.call("b", a), make.call("c", a)
    make.call("d", b, d)
    sim.submit(make.graph())
    assert sim.assigned == ["a"]
    sim.done("a")
    assert set(sim.assigned) == {"b", "c"}
    sim.done("b")
    assert sim.assigned == ["c"]
    sim.done("c")
    assert sim.one("d").inputs == (b"v", b"v")
    sim.done("d")
    assert sim.ended.state == "succeeded"


def test_s59_a_fast_chain_does_not_wait_for_a_slow_task() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2)
    make = GraphMaker()
    slow, fast = make.call("slow"), make.call("fast")
    next_ = make.call("next", fast)
    make.gather(slow, next_)
    sim.submit(make.graph())
    sim.done("fast")
    assert "next" in sim.assigned
    assert "slow" in sim.assigned


@pytest.mark.parametrize(("truth", "state"), [(True, "succeeded"), (False, "failed")])
def test_s23_s24_a_condition_decides(sim: Sim, truth: bool, state: str) -> None:
    make = GraphMaker()
    cond = make.call("cond")
    make.call("action", run_if=cond)
    sim.submit(make.graph())
    assert sim.one("cond").observe == 1
    sim.done("cond", truth=truth)
    if truth:
        sim.done("action")
        assert not sim.events("TaskSkipped")
    else:
        assert [(s.task, s.reason) for s in sim.events("TaskSkipped")] == [("action", "ConditionFalse")]
        assert sim.ended.skip_reason == "ConditionFalse"
        assert sim.of(c.SaveSkip)[0].reason == "ConditionFalse"
    assert sim.ended.state == state


def test_s25_a_consumer_of_a_skipped_node_is_skipped(sim: Sim) -> None:
    make = GraphMaker()
    cond = make.call("cond")
    a = make.call("a", run_if=cond)
    make.call("b", a)
    sim.submit(make.graph())
    sim.done("cond", truth=False)
    reasons = [(s.task, s.reason) for s in sim.events("TaskSkipped")]
    assert reasons == [("a", "ConditionFalse"), ("b", "UpstreamSkipped_Data")]
    assert (sim.ended.state, sim.ended.skipped_dependency) == ("failed", "a")


def test_s26_a_skipped_condition_skips(sim: Sim) -> None:
    make = GraphMaker()
    never = make.call("never")
    cond = make.call("cond", run_if=never)
    make.call("action", run_if=cond)
    sim.submit(make.graph())
    sim.done("never", truth=False)
    assert sim.events("TaskSkipped")[-1].reason == "UpstreamSkipped_Condition"


def test_s29_a_skipped_predecessor_ends_the_run_without_a_value(sim: Sim) -> None:
    make = GraphMaker()
    cond = make.call("cond")
    a = make.call("a", run_if=cond)
    make.call("b", after=[a])
    sim.submit(make.graph())
    sim.done("cond", truth=False)
    assert (sim.ended.state, sim.ended.skip_reason) == ("succeeded", "UpstreamSkipped_Sequence")
    assert len(sim.events("TaskSkipped")) == 2


def test_a_condition_whose_truth_raises_fails_the_consumer(sim: Sim) -> None:
    make = GraphMaker()
    cond = make.call("cond")
    make.call("action", run_if=cond)
    sim.submit(make.graph())
    sim.done("cond", observe_error=c.ErrorInfo("ValueError", "ambiguous"))
    assert sim.ended.state == "failed"
    assert sim.ended.failed_task == "action"


def test_s48_two_failures_then_success(sim: Sim) -> None:
    make = GraphMaker()
    make.call("flaky", retry=Retry(3, delay=1.0, backoff=2.0))
    sim.submit(make.graph())
    sim.failed("flaky")
    assert not sim.assigned
    assert sim.core.workers["w1"].free["cpu"] == 1_000_000, "a delay holds nothing"
    assert sim.core.next_wakeup == sim.now + 1.0
    sim.after(1.0)
    assert sim.one("flaky").try_ == 2
    sim.failed("flaky")
    sim.after(1.9)
    assert not sim.assigned
    sim.after(0.2)
    assert sim.one("flaky").try_ == 3
    sim.done("flaky")
    assert [(r.attempt, r.max_attempts, r.delay) for r in sim.events("TaskRetrying")] == [
        (1, 3, 1.0),
        (2, 3, 2.0),
    ]
    assert len(sim.events("TaskExecutionFinished")) == 1
    assert sim.ended.state == "succeeded"


def test_s49_always_failing(sim: Sim) -> None:
    make = GraphMaker()
    make.call("bad", retry=Retry(2))
    sim.submit(make.graph())
    sim.failed("bad")
    sim.failed("bad")
    [finished] = sim.events("TaskExecutionFinished")
    assert (finished.status, finished.error) == ("Failed", "ValueError: no")
    assert len(sim.events("TaskRetrying")) == 1
    assert sim.ended.error is not None
    assert sim.ended.error.message == "no"


@pytest.mark.parametrize("delay", [0.0, 1e-4, 1e300])
def test_a_backoff_beyond_all_numbers_is_a_bounded_wait(sim: Sim, delay: float) -> None:
    make = GraphMaker()
    make.call("bad", retry=Retry(1200, delay=delay, backoff=1e6, jitter=1.0, max_delay=2.0))
    sim.submit(make.graph())
    for _ in range(1100):
        sim.failed("bad")
        sim.after(2.0)
    assert all(0.0 <= r.delay <= 2.0 for r in sim.events("TaskRetrying"))


def test_a_map_over_too_many_items_is_refused() -> None:
    sim = Sim(graph_nodes_max=100)
    sim.worker("w1")
    make = GraphMaker()
    make.call("double", items=[make.call("xs")], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("xs", b"", length=99, items=tuple(b"1" for _ in range(99)))
    assert sim.ended.error is not None
    assert sim.ended.error.type == "GraphTooLargeError"


def test_a_map_over_what_is_no_list_names_both_tasks(sim: Sim) -> None:
    make = GraphMaker()
    make.call("double", items=[make.call("xs")], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("xs", b"5", observe_error=c.ErrorInfo("TypeError", "object of type 'int' has no len()"))
    assert sim.ended.error is not None
    for word in ("'double'", "'xs'", "not a list"):
        assert word in sim.ended.error.message


def test_an_input_that_was_skipped_comes_before_a_list_that_is_none(sim: Sim) -> None:
    make = GraphMaker()
    flag = make.call("flag")
    never = make.call("never", run_if=flag)
    make.call("double", items=[make.call("xs"), never], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("xs", b"5", observe_error=c.ErrorInfo("TypeError", "object of type 'int' has no len()"))
    sim.done("flag", truth=False)
    assert sim.ended.error is not None
    assert sim.ended.error.type == "DependencyMissingError"
    assert sim.ended.skip_reason == "UpstreamSkipped_Data"


def test_what_the_policy_does_not_name_is_not_retried(sim: Sim) -> None:
    make = GraphMaker()
    make.call("bad", retry=Retry(5))
    sim.submit(make.graph())
    sim.failed("bad", retryable=False)
    assert sim.ended.state == "failed"


def test_a_failure_cancels_what_runs_and_the_run_ends_when_it_has_stopped() -> None:
    sim = Sim()
    sim.worker("w1", cpu=2)
    make = GraphMaker()
    a, b = make.call("a"), make.call("b")
    make.gather(a, b, make.call("never", a))
    sim.submit(make.graph())
    b_attempt = sim.one("b").attempt
    sim.failed("a")
    assert c.CancelAttempt("w1", b_attempt) in sim.last
    assert not sim.of(c.RunEnded)
    sim.report(e.AttemptCancelled(b_attempt))
    assert (sim.ended.state, sim.ended.failed_task) == ("failed", "a")
    assert sim.log[-1] == sim.ended, "nothing comes after the end"


def test_on_failure_finish_does_what_does_not_need_the_failed_node(sim: Sim) -> None:
    make = GraphMaker()
    a, b = make.call("a"), make.call("b")
    after_a, after_b = make.call("after_a", a), make.call("after_b", b)
    make.gather(after_a, after_b)
    sim.submit(make.graph(), on_failure="finish")
    sim.failed("a")
    sim.done("b")
    assert sim.assigned == ["after_b"]
    sim.done("after_b")
    assert sim.ended.state == "failed"


def test_cancel_stops_ready_delayed_and_running(sim: Sim) -> None:
    make = GraphMaker()
    calls = [make.call(f"t{i}") for i in range(10)]
    make.gather(*calls)
    sim.submit(make.graph())
    running = list(sim.open)
    sim.turn(e.RunCancelRequested("r"))
    assert {x.attempt for x in sim.of(c.CancelAttempt)} == set(running)
    sim.report(*[e.AttemptCancelled(a) for a in running])
    assert sim.ended.state == "cancelled"
    assert not sim.assigned


def test_what_was_stopped_runs_no_more(sim: Sim) -> None:
    sim.worker("w2")
    make = GraphMaker()
    make.gather(make.call("a"), make.call("b"))
    sim.submit(make.graph())
    sim.turn(e.RunCancelRequested("r"))
    sim.report(e.AttemptCancelled(sim.one("a").attempt))
    assert sim.core.runs["r"].status[0] != ACTIVE
    sim.lose_worker(sim.one("b").worker)
    assert ACTIVE not in sim.core.runs["r"].status
    assert sim.ended.state == "cancelled"


def test_a_gather_is_a_container_of_references(sim: Sim) -> None:
    make = GraphMaker()
    a, b = make.call("a"), make.call("b")
    both = make.gather(a, b)
    make.call("sum", both)
    sim.submit(make.graph())
    sim.done("a", b"1")
    sim.done("b", b"2")
    assert sim.one("sum").inputs == (CompoundValue(b"template", (b"1", b"2")),)
    sim.done("sum")
    assert not sim.core.runs["r"].built


def test_a_large_gather_is_fetched_by_name(sim: Sim) -> None:
    make = GraphMaker()
    parts = [make.call(f"t{i}") for i in range(4)]
    make.call("sum", make.collect(*parts))
    sim.submit(make.graph())
    for i in range(4):
        sim.done(f"t{i}", bytes(30_000))
    assert sim.one("sum").inputs == (DeferredValue("r", 4),)
    found = views.fetch_value(sim.core, "r", 4)
    assert found is not None
    assert [len(v) for v in found[1]] == [30_000] * 4


def test_values_go_when_the_last_consumer_is_done(sim: Sim) -> None:
    make = GraphMaker()
    a = make.call("a")
    b, d = make.call("b", a), make.call("c", a)
    make.gather(b, d)
    sim.submit(make.graph())
    run = sim.core.runs["r"]
    sim.done("a")
    sim.done("b")
    assert 0 in run.values
    sim.done("c")
    assert set(run.values) == {1, 2}, "the target's own values stay for its clients"
    assert views.target_tree(run) == views.TreeCompound(b"template", (1, 2))


@pytest.mark.parametrize("truth", [True, False])
def test_a_condition_on_a_map_decides_once(sim: Sim, truth: bool) -> None:
    make = GraphMaker()
    cond = make.call("cond")
    gate = make.gate(cond)
    children = [make.call("child", gate=gate) for _ in range(3)]
    make.maps.append((children[0], 3))
    make.collect(*children, gate=gate)
    sim.submit(make.graph())
    sim.done("cond", truth=truth)
    if truth:
        for i in range(3):
            sim.done(f"child[{i}]")
        assert sim.ended.state == "succeeded"
    else:
        assert [(s.task, s.reason) for s in sim.events("TaskSkipped")] == [("map", "ConditionFalse")]
        assert sim.ended.skip_reason == "ConditionFalse"


def test_a_map_over_a_lazy_list_becomes_children(sim: Sim) -> None:
    make = GraphMaker()
    xs = make.call("xs")
    k = make.call("k")
    mapped = make.call("double", k, items=[xs], kind=NodeKind.MAP)
    make.call("sum", mapped)
    sim.submit(make.graph())
    assert sim.one("xs").observe == 2
    sim.done("xs", b"list", length=3, items=(b"1", b"2", b"3"))
    sim.done("k", b"k")
    assert sim.one("double[1]").inputs == (b"k", b"2")
    assert sim.one("double[1]").map_index == 1
    for i in range(3):
        sim.done(f"double[{i}]", b"%d" % i)
    assert sim.one("sum").inputs == (ListValue((b"0", b"1", b"2")),)
    sim.done("sum")
    assert sim.ended.state == "succeeded"
    keys = [s.key for s in sim.of(c.SaveResult)]
    assert keys[2].endswith("[0]")
    assert len(keys) == 6


def test_s55_an_empty_lazy_list_and_lists_of_unequal_length(sim: Sim) -> None:
    make = GraphMaker()
    xs = make.call("xs")
    make.call("double", items=[xs], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("xs", b"[]", length=0)
    assert sim.ended.state == "succeeded"
    assert views.target_tree(sim.core.runs["r"]) == views.TreeList(())
    other = Sim()
    other.worker("w1", cpu=2)
    make = GraphMaker()
    xs, ys = make.call("xs"), make.call("ys")
    make.call("add", items=[xs, ys], kind=NodeKind.MAP)
    other.submit(make.graph())
    other.done("xs", b"", length=1, items=(b"1",))
    other.done("ys", b"", length=2, items=(b"1", b"2"))
    error = other.ended.error
    assert error is not None
    assert error.type == "ValueError"
    assert "xs has 1, ys has 2" in error.message


def test_a_failing_child_is_named_with_its_index(sim: Sim) -> None:
    make = GraphMaker()
    xs = make.call("xs")
    make.call("double", items=[xs], kind=NodeKind.MAP)
    sim.submit(make.graph())
    sim.done("xs", b"", length=2, items=(b"1", b"2"))
    sim.failed("double[1]")
    assert sim.core.runs["r"].failed_task == "double[1]"


def test_late_and_repeated_reports_are_dropped(sim: Sim) -> None:
    make = GraphMaker()
    make.call("b", make.call("a"))
    sim.submit(make.graph())
    attempt = sim.one("a").attempt
    sim.done("a")
    before = len(sim.log)
    sim.turn(e.WorkerReported("w1", (e.AttemptDone(attempt, b"again"), e.AttemptDone(99, b"never"))))
    assert len(sim.log) == before


def test_finished_runs_are_kept_to_a_bound() -> None:
    sim = Sim(runs_kept=3)
    sim.worker("w1")
    for i in range(6):
        make = GraphMaker()
        make.call(f"t{i}")
        sim.submit(make.graph(), run_id=f"r{i}")
        sim.done(f"t{i}")
    assert list(sim.core.runs) == ["r3", "r4", "r5"]
