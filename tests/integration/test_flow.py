"""Routers and lazy amounts, on clusters of real processes."""

from __future__ import annotations

import enum
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal
from .flows import SECONDS, add, append_line, double, ended, fails, node, noted, skips, started

pytestmark = pytest.mark.integration


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Box:
    item: Any
    more: Any = None


Pair = namedtuple("Pair", "left right")


# --- S33, S34: choosing -------------------------------------------------------------------------------


def test_s33_the_consumer_gets_the_chosen_route(cluster: cs.Cluster) -> None:
    for key, expected in (("a", 1), ("b", 2)):
        routes = {"a": node("on a", 1), "b": node("on b", 2)}
        value, skipped = ended(cluster, node("end", cs.Router(node("selector", key), routes)))
        assert value == expected
        assert skipped == {"on b" if key == "a" else "on a": "Pruned"}


def test_s33_params_env_and_literals_select(cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def routed(selector: Any) -> cs.LazyResult[Any]:
        return node("end", cs.Router(selector, {"a": node("on a", 1), "b": node("on b", 2)}))

    monkeypatch.setenv("ROUTE", "b")
    assert ended(cluster, routed(cs.Param("mode")), params={"mode": "a"}) == (1, {"on b": "Pruned"})
    assert ended(cluster, routed(cs.Param("mode")), params={"mode": "b"}) == (2, {"on a": "Pruned"})
    assert ended(cluster, routed(cs.Param("mode", default="a"))) == (1, {"on b": "Pruned"})
    assert ended(cluster, routed(cs.Env("ROUTE"))) == (2, {"on a": "Pruned"})
    assert ended(cluster, routed("a")) == (1, {"on b": "Pruned"})


@pytest.mark.parametrize(
    "key", ["a", 1, 2.5, None, True, (1, ("x", None)), frozenset({1, 2}), b"bytes", Color.RED, int]
)
def test_keys_are_anything_that_can_be_hashed(cluster: cs.Cluster, key: Any) -> None:
    routes: dict[Any, Any] = {"a": 0, 2: 0, 2.5: 0, None: 0, True: 0, (1, ("x", None)): 0, b"bytes": 0}
    routes |= {frozenset({1, 2}): 0, Color.RED: 0, Color.BLUE: 0, int: 0}
    routes = {name: f"route {name!r}" for name in routes}
    assert cluster.run(cs.Router(node("selector", key), routes)) == routes[key]
    assert cluster.run(cs.Router(key, routes)) == routes[key]


def test_s34_no_such_route(cluster: cs.Cluster) -> None:
    routes = {"a": node("on a", 1), 2: node("on b", 2)}
    run = cluster.submit(node("end", cs.Router(node("selector", "z"), routes)))
    with pytest.raises(cs.RouteNotFoundError, match=r"'z'.*'a', 2") as caught:
        run.result(SECONDS)
    assert isinstance(caught.value, ValueError)
    assert any("'end'" in note for note in caught.value.__notes__)
    assert "end" not in started(run)
    assert {"on a", "on b"}.isdisjoint(started(run))


@pytest.mark.parametrize("target", [True, False])
def test_no_such_route_for_a_target_or_a_literal(cluster: cs.Cluster, target: bool) -> None:
    router = cs.Router("z" if target else node("selector", "z"), {"a": 1})
    with pytest.raises(cs.RouteNotFoundError, match="'z'"):
        cluster.run(router if target else [router])


def test_a_value_and_keys_that_are_huge_are_named_within_bounds(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", "z" * 10_000), dict.fromkeys(range(1_000), 1))
    with pytest.raises(cs.RouteNotFoundError) as caught:
        cluster.run(router)
    assert len(str(caught.value)) < 2_000


class Rude:
    def __hash__(self) -> int:
        raise OSError("no hash today")


@pytest.mark.parametrize(
    ("value", "error", "word"),
    [([1], TypeError, "unhashable type: 'list'"), (Rude(), OSError, "no hash today")],
)
def test_a_selector_that_cannot_be_hashed_fails_the_consumer(
    cluster: cs.Cluster, value: Any, error: type[Exception], word: str
) -> None:
    run = cluster.submit(node("end", cs.Router(node("selector", value), {"a": node("on a")})))
    with pytest.raises(error, match=word):
        run.result(SECONDS)
    assert "selector" in started(run)
    assert "on a" not in started(run)


# --- S35 to S38: what is gated, pruned and shared ----------------------------------------------------


def test_s35_a_deep_branch_that_is_not_chosen_is_pruned(cluster: cs.Cluster, journal: Journal) -> None:
    deep = noted(journal, "deep 0")
    for level in range(1, 5):
        deep = noted(journal, f"deep-{level}", deep)
    router = cs.Router(node("selector", "shallow"), {"deep": deep, "shallow": noted(journal, "shallow")})
    value, skipped = ended(cluster, node("end", router))
    assert value == "shallow"
    assert skipped == dict.fromkeys(["deep 0", *(f"deep-{level}" for level in range(1, 5))], "Pruned")
    assert journal.lines() == ["shallow"]


def test_s35_a_branch_does_not_start_before_it_is_chosen(cluster: cs.Cluster, journal: Journal) -> None:
    selector = noted(journal, "selector", node("slow", 0))
    routes = {"selector": noted(journal, "chosen", noted(journal, "below")), "x": noted(journal, "never")}
    cluster.run(noted(journal, "end", cs.Router(selector, routes)))
    assert journal.lines() == ["selector", "below", "chosen", "end"]


def test_s36_what_both_branches_need_runs(cluster: cs.Cluster) -> None:
    shared = node("shared", 5)
    routes = {"a": node("on a", shared), "b": node("on b", shared)}
    assert ended(cluster, node("end", cs.Router(node("selector", "a"), routes))) == (5, {"on b": "Pruned"})


def test_s36_what_others_need_too_is_not_pruned(cluster: cs.Cluster) -> None:
    shared, guarded = node("shared", 5), node("guarded", 1)
    routes = {"a": node("on a", 1), "b": node("on b", shared).run_if(guarded)}
    routed = cs.Router(node("selector", "a"), routes)
    value, skipped = ended(cluster, [routed, node("other", shared), node("third", 3).after(guarded)])
    assert value == [1, 5, 3]
    assert skipped == {"on b": "Pruned"}


def test_s37_a_branch_without_inputs_never_runs(cluster: cs.Cluster, journal: Journal) -> None:
    for _ in range(5):
        routes = {"a": noted(journal, "a"), "b": noted(journal, "b"), "c": noted(journal, "c")}
        assert ended(cluster, cs.Router(node("selector", "b"), routes)) == (
            "b",
            {"a": "Pruned", "c": "Pruned"},
        )
    assert journal.lines() == ["b"] * 5


def test_s38_two_routers_on_one_consumer_choose_by_themselves(cluster: cs.Cluster) -> None:
    first = cs.Router(node("s1", "a"), {"a": node("a1", 1), "b": node("b1", 2)})
    second = cs.Router(node("s2", "b"), {"a": node("a2", 10), "b": node("b2", 20)})
    assert ended(cluster, add(first, second)) == (21, {"b1": "Pruned", "a2": "Pruned"})


def test_two_routers_over_the_same_routes(cluster: cs.Cluster) -> None:
    routes = {"a": node("on a", 1), "b": node("on b", 2), "c": node("on c", 3)}
    pair = [cs.Router(node("s1", "a"), routes), cs.Router(node("s2", "b"), routes)]
    assert ended(cluster, node("end", pair)) == ([1, 2], {"on c": "Pruned"})


def test_one_router_in_two_places_chooses_once(cluster: cs.Cluster, journal: Journal) -> None:
    router = cs.Router(noted(journal, "a"), {"a": noted(journal, "on")})
    assert cluster.run(node("end", router, [router], node("two", router))) == "on"
    assert sorted(journal.lines()) == ["a", "on"]


def test_nested_branches_are_pruned_as_a_whole(cluster: cs.Cluster) -> None:
    inner = cs.Router(node("inner selector", 1), {1: node("in 1", 1), 2: node("in 2", 2)})
    outer = cs.Router(node("selector", "out"), {"in": inner, "out": node("on out", 3)})
    assert ended(cluster, node("end", outer)) == (
        3,
        dict.fromkeys(["inner selector", "in 1", "in 2"], "Pruned"),
    )


def test_routers_nest_as_routes_and_selectors(cluster: cs.Cluster) -> None:
    chooser = cs.Router(node("first", 2), {1: node("key 1", "x"), 2: node("key 2", "y")})
    inner = cs.Router(node("second", "k"), {"k": [node("leaf", 7), "lit"]})
    assert ended(cluster, cs.Router(chooser, {"x": node("on x", 0), "y": inner})) == (
        [7, "lit"],
        {"key 1": "Pruned", "on x": "Pruned"},
    )


# --- routers wherever a value may stand ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda r: [r, 1], [5, 1]),
        (lambda r: (1, (r,)), (1, (5,))),
        (lambda r: {"k": [r]}, {"k": [5]}),
        (lambda r: {r}, {5}),
        (lambda r: Box(r, [r]), Box(5, [5])),
        (lambda r: Pair(r, 2), Pair(5, 2)),
        (lambda r: {"deep": [Box({"k": (r,)})]}, {"deep": [Box({"k": (5,)})]}),
    ],
)
def test_routers_are_found_at_any_depth(cluster: cs.Cluster, wrap: Callable[..., Any], expected: Any) -> None:
    router = cs.Router(node("selector", "a"), {"a": node("on a", 5), "b": node("on b", 6)})
    assert ended(cluster, node("end", wrap(router))) == (expected, {"on b": "Pruned"})


def test_a_router_as_target(cluster: cs.Cluster) -> None:
    routes = {"a": node("on a", 1), "b": [node("on b", 2), {"k": 3}], "c": double.map(x=[1, 2]), "d": "plain"}
    for key, expected in (("a", 1), ("b", [2, {"k": 3}]), ("c", [2, 4]), ("d", "plain")):
        assert cluster.run(cs.Router(node("selector", key), routes)) == expected
    assert cluster.run([cs.Router("a", routes), {"k": cs.Router("d", routes)}]) == [1, {"k": "plain"}]


@pytest.mark.parametrize(("key", "runs"), [("yes", True), ("no", False)])
def test_a_router_as_condition(cluster: cs.Cluster, key: str, runs: bool) -> None:
    router = cs.Router(node("selector", key), {"yes": node("on yes", [1]), "no": node("on no", [])})
    run = cluster.submit(node("end", "ran").run_if(router))
    if runs:
        assert run.result(SECONDS) == "ran"
        assert skips(run) == {"on no": "Pruned"}
    else:
        with pytest.raises(cs.DependencyMissingError, match="ConditionFalse"):
            run.result(SECONDS)
        assert skips(run) == {"on yes": "Pruned", "end": "ConditionFalse"}


def test_a_literal_route_as_condition(cluster: cs.Cluster) -> None:
    router = cs.Router(cs.Param("on", type=bool), {True: 1, False: 0})
    assert cluster.run(node("end", "ran").run_if(router), params={"on": True}) == "ran"
    with pytest.raises(cs.DependencyMissingError):
        cluster.run(node("end", "ran").run_if(router), params={"on": False})


def test_a_router_as_predecessor(cluster: cs.Cluster, journal: Journal) -> None:
    router = cs.Router(node("selector", "a"), {"a": noted(journal, "a"), "b": noted(journal, "b")})
    assert cluster.run(cs.sequence([router, noted(journal, "after")])) == "after"
    assert journal.lines() == ["a", "after"]


def test_a_map_over_a_router(cluster: cs.Cluster) -> None:
    routes = {"made": node("list", [1, 2, 3]), "plain": [4, 5], "mapped": double.map(x=[3, 4]), "none": []}
    for key, expected in (("made", [2, 4, 6]), ("plain", [8, 10]), ("mapped", [12, 16]), ("none", [])):
        assert cluster.run(double.map(x=cs.Router(node("selector", key), routes))) == expected


def test_items_of_a_map_may_be_routers(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", 1), {1: node("one", 10), 2: node("two", 20)})
    assert cluster.run(add.map(x=[router, 2], y=cs.unmapped(router))) == [20, 12]


def test_a_router_as_amount(cluster: cs.Cluster) -> None:
    amount = cs.Router(node("size", "small"), {"small": 0.5, "large": node("large", 64)})
    assert ended(cluster, node("end", 1).with_constraints(cpu=amount)) == (1, {"large": "Pruned"})


def test_a_pure_consumer_of_equal_routers_runs_once(cluster: cs.Cluster, journal: Journal) -> None:
    pure = cs.task(append_line, name="pure", pure=True)
    calls = [pure(journal.path, "ran", cs.Router("a", {"a": [1, 2]})) for _ in range(2)]
    assert cluster.run(calls) == ["ran", "ran"]
    assert journal.lines() == ["ran"]


def test_large_values_go_through_routers_and_literals(cluster: cs.Cluster) -> None:
    big = b"x" * 300_000
    routes = {"made": node("made", big), "plain": big, "both": [node("part", big), big]}
    for key, expected in (("made", big), ("plain", big), ("both", [big, big])):
        assert cluster.run(node("end", cs.Router(node("selector", key), routes))) == expected
        assert cluster.run(cs.Router(node("selector", key), routes)) == expected


def test_a_route_given_to_stages(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", "a"), {"a": 10, "b": node("on b", 1)})
    stage = cs.pipeline(router, [lambda v: add(v).run_if(False), double])
    assert ended(cluster, stage) == (20, {"add": "ConditionFalse", "on b": "Pruned"})


# --- skips through routers ----------------------------------------------------------------------------


def test_a_chosen_route_that_is_skipped(cluster: cs.Cluster) -> None:
    routes = {"a": node("on a", 1).run_if(False), "b": node("on b", 2)}
    run = cluster.submit(node("end", cs.Router(node("selector", "a"), routes)))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Route"):
        run.result(SECONDS)
    assert skips(run) == {"on a": "ConditionFalse", "on b": "Pruned", "end": "UpstreamSkipped_Route"}


def test_a_selector_that_is_skipped(cluster: cs.Cluster) -> None:
    routes = {"a": node("on a", 1), "b": node("on b", 2)}
    run = cluster.submit(node("end", cs.Router(node("selector", "a").run_if(False), routes)))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Data"):
        run.result(SECONDS)
    assert skips(run) == {
        "selector": "ConditionFalse",
        "on a": "Pruned",
        "on b": "Pruned",
        "end": "UpstreamSkipped_Data",
    }


def test_a_chosen_route_that_is_a_skipped_stage_has_the_value_that_it_lets_pass(cluster: cs.Cluster) -> None:
    stage = node("stage", node("before", 5)).run_if(False).passthrough()
    router = cs.Router(node("choose", "a"), {"a": stage, "b": node("on b", 6)})
    run = cluster.submit(node("end", router))
    assert run.result(SECONDS) == 5
    assert skips(run) == {"stage": "ConditionFalse", "on b": "Pruned"}
    assert cluster.run(router) == 5


def test_a_skipped_stage_selects_by_the_value_that_it_lets_pass(cluster: cs.Cluster) -> None:
    selector = cs.pipeline("b", [lambda v: node("stage", v).run_if(False)])
    value, skipped = ended(
        cluster, node("end", cs.Router(selector, {"a": node("on a"), "b": node("on b", 2)}))
    )
    assert value == 2
    assert skipped == {"stage": "ConditionFalse", "on a": "Pruned"}


def test_what_a_skipped_consumer_needs_is_not_run_for_it(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", "a"), {"a": node("on a", 1), "b": node("on b", 2)})
    stages = cs.pipeline(5, [lambda v: node("consumer", v, router).run_if(False), lambda v: add(v)])
    value, skipped = ended(cluster, stages)
    assert value == 6
    assert skipped["consumer"] == "ConditionFalse"
    assert skipped["on b"] == "Pruned"


# --- failures -----------------------------------------------------------------------------------------


def test_a_branch_that_is_not_chosen_cannot_fail(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", "a"), {"a": node("on a", 1), "b": node("on b", fails())})
    assert ended(cluster, node("end", router)) == (1, {"on b": "Pruned", "fails": "Pruned"})


@pytest.mark.parametrize("on_failure", ["cancel", "finish"])
def test_a_chosen_branch_that_fails(cluster: cs.Cluster, journal: Journal, on_failure: str) -> None:
    router = cs.Router(node("selector", "a"), {"a": fails(), "b": noted(journal, "never")})
    other = cs.Router(node("selector too", "x"), {"x": noted(journal, "other")})
    run = cluster.submit([node("end", router), node("end too", other)], on_failure=on_failure)
    with pytest.raises(KeyError, match="on purpose"):
        run.result(SECONDS)
    assert "never" not in journal.lines()
    assert "end" not in started(run)
    if on_failure == "finish":
        assert journal.lines() == ["other"]
        assert "end too" in started(run)


@pytest.mark.parametrize("on_failure", ["cancel", "finish"])
def test_a_selector_that_fails(cluster: cs.Cluster, journal: Journal, on_failure: str) -> None:
    router = cs.Router(fails(), {"a": noted(journal, "never"), "b": noted(journal, "nor")})
    run = cluster.submit([node("end", router), noted(journal, "other")], on_failure=on_failure)
    with pytest.raises(KeyError, match="on purpose"):
        run.result(SECONDS)
    assert {"never", "nor"}.isdisjoint(journal.lines())
    if on_failure == "finish":
        assert journal.lines() == ["other"]


@pytest.mark.parametrize("on_failure", ["cancel", "finish"])
def test_a_route_that_is_not_there(cluster: cs.Cluster, journal: Journal, on_failure: str) -> None:
    router = cs.Router(node("selector", "z"), {"a": noted(journal, "never")})
    run = cluster.submit([node("end", router), noted(journal, "other")], on_failure=on_failure)
    with pytest.raises(cs.RouteNotFoundError):
        run.result(SECONDS)
    assert "never" not in journal.lines()
    if on_failure == "finish":
        assert journal.lines() == ["other"]


# --- lazy amounts -------------------------------------------------------------------------------------


def test_s68_an_amount_may_be_lazy(cluster: cs.Cluster) -> None:
    assert cluster.run(node("end", 1).with_constraints(cpu=node("size", 1))) == 1
    assert cluster.run(node("end", 1).with_constraints(cpu=cs.Param("n")), params={"n": 1}) == 1
    assert cluster.run(double.map(x=[1, 2, 3]).with_constraints(cpu=node("size", 0.5))) == [2, 4, 6]
    assert cluster.run(double.map(x=node("list", [1, 2])).with_constraints(cpu=node("size", 1))) == [2, 4]


@pytest.mark.parametrize("amount", [-1, "many", None, float("nan"), [1]])
def test_a_lazy_value_that_is_no_amount_fails_the_consumer(cluster: cs.Cluster, amount: Any) -> None:
    run = cluster.submit(node("end", 1).with_constraints(cpu=node("size", amount)))
    with pytest.raises((ValueError, TypeError), match="size"):
        run.result(SECONDS)
    assert started(run) == ["size"]


def test_a_skipped_amount_skips_the_consumer(cluster: cs.Cluster) -> None:
    run = cluster.submit(node("end", 1).with_constraints(cpu=node("size", 1).run_if(False)))
    with pytest.raises(cs.DependencyMissingError):
        run.result(SECONDS)
    assert skips(run) == {"size": "ConditionFalse", "end": "UpstreamSkipped_Data"}


# --- tools on runs ------------------------------------------------------------------------------------


def test_s15_a_target_that_came_through_json_runs(cluster: cs.Cluster) -> None:
    router = cs.Router(cs.Param("mode", default="a"), {"a": cs.pipeline(10, [add, double]), "b": [add(1), 2]})
    restored = cs.from_json(cs.to_json([router, double.map(x=[1, 2]).after(add(1))]))
    assert cluster.run(restored) == [22, [2, 4]]
    assert cluster.run(restored, params={"mode": "b"}) == [[2, 2], [2, 4]]


def test_a_run_is_drawn_as_it_stands(cluster: cs.Cluster) -> None:
    router = cs.Router(node("selector", "a"), {"a": node("on a", 1), "b": node("on b", 2)})
    run = cluster.submit(node("end", router))
    assert run.result(SECONDS) == 1
    states = {state.task: (state.state, state.reason) for state in run.node_states()}
    assert states["on a"] == states["selector"] == states["end"] == ("done", "")
    assert states["on b"] == ("skipped", "Pruned")
    picture = cs.visualize(run)
    assert "on b\\n(task, skipped: Pruned)" in picture
    assert picture.count("fillcolor=palegreen") >= 3
    assert len(run.node_states(limit=2)) == 2
    assert len(cluster.describe(run.id, nodes=100, finished=True).nodes) == len(run.graph().nodes)
