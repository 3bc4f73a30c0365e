"""Routers: what goes, what waits, what nobody needs any more."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import commands as c
from cascade_scheduler.core import views
from cascade_scheduler.core.graph import EdgeKind, GraphInvalid, NodeKind, Spec
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import ErrorInfo

from .harness import GraphMaker, Sim, observe, skips


@pytest.fixture
def sim() -> Sim:
    sim = Sim()
    sim.worker("w1", cpu=8)
    return sim


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


def test_a_router_without_a_route_fails_who_wants_what_a_skipped_stage_lets_pass(sim: Sim) -> None:
    make = GraphMaker()
    selector, a, never = make.call("selector"), make.call("a"), make.call("never")
    stage = make.call("stage", make.router(selector, a), run_if=never, passthrough=True)
    make.call("consumer", make.call("second", stage, run_if=never, passthrough=True))
    sim.submit(make.graph())
    sim.done("selector", routes=(-1,), route_text="no")
    sim.done("never", truth=False)
    assert skips(sim) == [("a", "Pruned"), ("stage", "ConditionFalse"), ("second", "ConditionFalse")]
    assert (sim.ended.failed_task, sim.ended.error) == ("consumer", ErrorInfo("RouteNotFoundError", "no"))


def test_a_container_with_such_a_router_fails_who_wants_it_and_nobody_else() -> None:
    for condition in (True, False):
        sim = Sim()
        sim.worker("w1")
        make = GraphMaker()
        selector, a, maybe = make.call("selector"), make.call("a"), make.call("maybe")
        make.call("consumer", make.gather(make.router(selector, a)), run_if=maybe)
        sim.submit(make.graph())
        sim.done("selector", routes=(-1,), route_text="no")
        sim.done("maybe", truth=condition)
        assert sim.ended.failed_task == ("consumer" if condition else "")
        assert skips(sim) == [("a", "Pruned")] + ([] if condition else [("consumer", "ConditionFalse")])


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
