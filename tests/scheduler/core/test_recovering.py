"""Resumed runs in the core: what has a result is done, what only that needed does not run, all else does."""

from __future__ import annotations

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import events as e
from cascade_scheduler.core import explain
from cascade_scheduler.core.cached import Facts, Recovered, StoredValue
from cascade_scheduler.core.candidates import OBSERVE_ROUTE, OBSERVE_SPLIT, OBSERVE_TRUTH
from cascade_scheduler.core.graph import Graph, NodeKind
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import BlobValue, ObjectValue
from tests.scheduler.core.harness import GraphMaker, Sim, observe, skips


def resume(
    graph: Graph,
    stored: dict[int, bytes | BlobValue | StoredValue],
    children: dict[int, dict[int, StoredValue]] | None = None,
) -> Sim:
    """A core with a worker and a run that an earlier life has left with these results."""
    nodes = {
        node: value if isinstance(value, StoredValue) else StoredValue(value)
        for node, value in stored.items()
    }
    sim = Sim(saves=True)
    sim.worker("w", cpu=4)
    sim.turn(e.RunSubmitted("r", graph, solve(graph), recovered=Recovered(nodes, children or {})))
    return sim


def test_what_is_stored_does_not_run_again() -> None:
    make = GraphMaker()
    a = make.call("a")
    b = make.call("b", a)
    make.call("c", a, b)
    sim = resume(make.graph(), {a: b"A", b: b"B"})
    assert sim.assigned == ["c"]
    assert sim.one("c").inputs == (b"A", b"B")
    sim.done("c")
    assert sim.ended.state == "succeeded"
    assert [record.kind for record in sim.events()] == [
        "RunStarted", "TaskExecutionStarted", "TaskExecutionFinished", "RunFinished",
    ]  # fmt: skip
    assert [save.key[-1] for save in sim.of(c.SaveResult)] == ["2"], "stored results stay as they are"


def test_a_target_that_is_stored_ends_the_run() -> None:
    make = GraphMaker()
    a = make.call("a")
    b = make.call("b", a)
    sim = resume(make.graph(), {b: BlobValue(b"cid", 9)})
    assert sim.assigned == []
    assert sim.ended.state == "succeeded"
    assert [(told.node, told.value) for told in sim.of(c.TargetValue)] == [(b, BlobValue(b"cid", 9))]
    assert skips(sim) == [], "nobody is told of what was over before"
    assert not sim.of(c.SaveSkip)


def test_an_input_whose_value_is_gone_runs_again_when_somebody_needs_it() -> None:
    make = GraphMaker()
    a = make.call("a")
    b = make.call("b", a)
    make.call("c", a, b)
    sim = resume(make.graph(), {b: b"B"})
    assert sim.assigned == ["a"]
    sim.done("a", b"A again")
    assert sim.one("c").inputs == (b"A again", b"B")


def test_a_stored_truth_decides_a_condition() -> None:
    make = GraphMaker()
    a = make.call("a")
    make.call("b", run_if=a)
    sim = resume(make.graph(), {a: StoredValue(b"A", False)})
    assert sim.assigned == []
    assert skips(sim) == [("b", "ConditionFalse")]


def test_a_condition_whose_truth_was_not_stored_is_observed() -> None:
    make = GraphMaker()
    a = make.call("a")
    make.call("b", run_if=a)
    sim = resume(make.graph(), {a: b"A"})
    [assign] = sim.open.values()
    assert (assign.observe_only, assign.observe & OBSERVE_TRUTH) == (True, OBSERVE_TRUTH)
    observe(sim, truth=True)
    assert sim.assigned == ["b"]


def test_what_is_done_is_not_decided_again() -> None:
    make = GraphMaker()
    condition = make.call("condition")
    before = make.call("before")
    b = make.call("b", run_if=condition, after=[before])
    make.call("c", b)
    sim = resume(make.graph(), {b: b"B"})
    assert sim.assigned == ["c"], "neither its condition nor what it came after is needed any more"


def test_a_router_asks_a_stored_selector() -> None:
    make = GraphMaker()
    selector = make.call("selector")
    left, right = make.call("left"), make.call("right")
    router = make.router(selector, left, right)
    make.call("use", router)
    sim = resume(make.graph(), {selector: b"S", right: b"R"})
    [assign] = sim.open.values()
    assert assign.observe_only
    assert assign.observe & OBSERVE_ROUTE
    observe(sim, routes=(1,))
    assert sim.assigned == ["use"]
    assert sim.one("use").inputs == (b"R",)
    assert skips(sim) == [("left", "Pruned")]


def test_children_of_a_map_that_are_stored_do_not_run_again() -> None:
    make = GraphMaker()
    items = make.call("items")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    make.call("sum", mapped)
    done = {mapped: {0: StoredValue(b"0"), 2: StoredValue(b"4"), 7: StoredValue(b"of a longer list")}}
    sim = resume(make.graph(), {items: b"[0, 1, 2]"}, done)
    [assign] = sim.open.values()
    assert assign.observe & OBSERVE_SPLIT
    observe(sim, length=3, items=(b"0", b"1", b"2"))
    assert sim.assigned == ["double[1]"]
    sim.done("double[1]", b"2")
    assert sim.one("sum").inputs[0].items == (b"0", b"2", b"4")  # type: ignore[union-attr]


def test_a_map_whose_children_are_all_stored_is_done() -> None:
    make = GraphMaker()
    items = make.call("items")
    mapped = make.call("double", items=[items], kind=NodeKind.MAP)
    make.call("sum", mapped)
    sim = resume(make.graph(), {items: b"[0]"}, {mapped: {0: StoredValue(b"0")}})
    observe(sim, length=1, items=(b"0",))
    assert sim.assigned == ["sum"]


def test_a_message_that_was_received_is_not_waited_for() -> None:
    make = GraphMaker()
    message = make.wait(topic="go")
    make.call("use", message)
    sim = resume(make.graph(), {message: b"payload"})
    assert sim.one("use").inputs == (b"payload",)


def test_failed_and_unknown_nodes_run() -> None:
    make = GraphMaker()
    a = make.call("a")
    make.call("b", a)
    sim = resume(make.graph(), {})
    assert sim.assigned == ["a"]


def test_a_stored_value_is_handed_out_again_after_a_loss() -> None:
    make = GraphMaker()
    a = make.call("a")
    b = make.call("b", a)
    make.call("c", b)
    sim = resume(make.graph(), {a: b"A"})
    made = sim.one("b").attempt
    sim.done("b", ObjectValue(made, 1 << 20, "w", "w:1"))
    assert a not in sim.core.runs["r"].values, "nobody needed it any more"
    sim.failed("c", kind="input_lost", lost_inputs=(made,))
    assert sim.assigned == ["b"]
    assert sim.one("b").inputs == (b"A",)


def test_a_list_that_was_split_is_not_held_when_its_map_is_not_needed_any_more() -> None:
    make = GraphMaker()
    items = make.literal()
    total = make.call("sum", make.call("double", items=[items], kind=NodeKind.MAP))
    make.gather(total, make.call("other"))
    facts = {items: Facts(length=2, observed=OBSERVE_SPLIT, split=BlobValue(b"split", 1 << 20))}
    graph = make.graph()
    sim = Sim(saves=True)
    sim.worker("w", cpu=4)
    known = Recovered({total: StoredValue(b"6")}, facts=facts)
    sim.turn(e.RunSubmitted("r", graph, solve(graph), recovered=known))
    assert sim.assigned == ["other"]
    assert items not in sim.core.runs["r"].values


def test_explain_says_that_a_node_was_done_before() -> None:
    make = GraphMaker()
    a = make.call("a")
    make.call("b", a)
    sim = resume(make.graph(), {a: b"A"})
    run = sim.core.runs["r"]
    assert "before the run was resumed" in " ".join(explain.explain(sim.core, run, a).reasons)


def test_an_ended_run_holds_on_to_no_stored_values() -> None:
    make = GraphMaker()
    a = make.call("a")
    make.call("b", a)
    sim = resume(make.graph(), {a: b"A"})
    sim.done("b")
    cached = sim.core.runs["r"].cached
    assert cached is not None
    assert not any(cached.hits.values())
