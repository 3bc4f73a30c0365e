"""Sequences, pipelines and stages, on clusters of real processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal
from .flows import SECONDS, add, double, ended, fails, node, noted, skips

pytestmark = pytest.mark.integration


# --- S22: pipelines -----------------------------------------------------------------------------------


def test_s22_a_pipeline_feeds_each_step(cluster: cs.Cluster) -> None:
    assert cluster.run(cs.pipeline(10, [add, double])) == 22
    assert cluster.run(cs.pipeline(add(9), [add, double])) == 22
    assert cluster.run(cs.pipeline(cs.Param("n", type=int), [add, double]), params={"n": "10"}) == 22
    assert cluster.run(cs.pipeline(cs.Router("a", {"a": add(9)}), [add, double])) == 22
    with pytest.raises(TypeError, match="give the task itself, add"):
        cs.pipeline(10, [double, add(1)])


@pytest.mark.parametrize(
    "step",
    [lambda v: add(1, v), lambda v: add(1, y=v), lambda v: node("held", v), lambda v: add(v, v)],
)
def test_what_a_step_is_given_passes_wherever_it_stands(
    cluster: cs.Cluster, step: Callable[..., Any]
) -> None:
    for initial in (10, node("initial", 10)):
        value, skipped = ended(cluster, cs.pipeline(initial, [lambda v: step(v).run_if(False), double]))
        assert value == 20
        assert list(skipped.values()) == ["ConditionFalse"]


def test_a_step_may_have_its_value_inside_an_argument(cluster: cs.Cluster) -> None:
    @cs.task
    def total(items: list[int]) -> int:
        return sum(items)

    assert cluster.run(cs.pipeline(10, [lambda v: total([v, 1]), double])) == 22
    assert cluster.run(cs.pipeline(10, [lambda v: total([v, 1]).run_if(False), double])) == 20
    assert cluster.run(cs.pipeline(add(9), [lambda v: total([v, 1]).run_if(False), double])) == 20


# --- S27, S28, S30: sequences -------------------------------------------------------------------------


def test_s27_a_sequence_goes_in_order(cluster: cs.Cluster, journal: Journal) -> None:
    assert cluster.run(cs.sequence([noted(journal, word) for word in "abcde"])) == "e"
    assert journal.lines() == list("abcde")


def test_s28_a_failure_stops_a_sequence(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(cs.sequence([noted(journal, "ok"), fails(), noted(journal, "never")]))
    with pytest.raises(KeyError, match="on purpose"):
        run.result(SECONDS)
    assert journal.lines() == ["ok"]
    assert skips(run) == {}


def test_s29_a_skip_skips_what_follows(cluster: cs.Cluster, journal: Journal) -> None:
    steps = [noted(journal, "a"), noted(journal, "b").run_if(node("flag", 0)), noted(journal, "c")]
    assert ended(cluster, cs.sequence(steps)) == (
        None,
        {"b": "ConditionFalse", "c": "UpstreamSkipped_Sequence"},
    )
    assert journal.lines() == ["a"]


def test_s30_a_sequence_whose_last_is_skipped_by_itself(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(cs.sequence([noted(journal, "a"), noted(journal, "b").run_if(node("flag", ""))]))
    with pytest.raises(cs.DependencyMissingError, match="ConditionFalse"):
        run.result(SECONDS)
    assert skips(run) == {"b": "ConditionFalse"}
    assert journal.lines() == ["a"]


# --- S31, S32: what is skipped and lets pass ----------------------------------------------------------


def test_s31_a_skipped_stage_lets_its_value_pass(cluster: cs.Cluster) -> None:
    steps = [add, lambda v: double(v).run_if(node("flag", False)), lambda v: add(v, 3)]
    run = cluster.submit(cs.pipeline(10, steps))
    assert run.result(SECONDS) == 14
    assert skips(run) == {"double": "ConditionFalse"}


@pytest.mark.parametrize("initial", [5, [1, 2], None, "lazy", "container"])
def test_many_skipped_stages_let_any_initial_pass(cluster: cs.Cluster, initial: Any) -> None:
    given = {"lazy": node("made", 7), "container": [node("made", 7), {"k": 1}]}.get(str(initial), initial)
    expected = {"lazy": 7, "container": [7, {"k": 1}]}.get(str(initial), initial)
    steps = [lambda v, i=i: node(f"s{i}", v).run_if(False) for i in range(4)]
    value, skipped = ended(cluster, cs.pipeline(given, [*steps, lambda v: node("last", v)]))
    assert value == expected
    assert skipped == dict.fromkeys(["s0", "s1", "s2", "s3"], "ConditionFalse")


def test_a_skipped_stage_lets_pass_whatever_skipped_it(cluster: cs.Cluster) -> None:
    off = node("off", 1).run_if(False)
    steps = [
        lambda v: node("by condition", v).run_if(off),
        lambda v: node("by order", v).after(off),
        lambda v: node("by data", v, off),
        lambda v: node("last", v),
    ]
    assert ended(cluster, cs.pipeline(3, steps)) == (
        3,
        {
            "off": "ConditionFalse",
            "by condition": "UpstreamSkipped_Condition",
            "by order": "UpstreamSkipped_Sequence",
            "by data": "UpstreamSkipped_Data",
        },
    )


def test_a_skipped_target_lets_nothing_pass(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.DependencyMissingError, match="ConditionFalse"):
        cluster.run(cs.pipeline(10, [add, lambda v: double(v).run_if(False)]))


def test_a_skipped_initial_skips_the_pipeline(cluster: cs.Cluster) -> None:
    run = cluster.submit(cs.pipeline(node("initial", 1).run_if(False), [add, lambda v: node("last", v)]))
    with pytest.raises(cs.DependencyMissingError, match="UpstreamSkipped_Data"):
        run.result(SECONDS)
    assert skips(run)["initial"] == "ConditionFalse"
    assert skips(run)["last"] == "UpstreamSkipped_Data"


def test_s32_only_stages_let_pass(cluster: cs.Cluster) -> None:
    run = cluster.submit(node("g", node("f", 1, 2).run_if(False)))
    with pytest.raises(cs.DependencyMissingError):
        run.result(SECONDS)
    assert skips(run) == {"f": "ConditionFalse", "g": "UpstreamSkipped_Data"}
    assert cluster.run(node("g", node("f", 1, 2).run_if(False).passthrough())) == 1


def test_conditions_and_order_see_the_skip_of_a_stage(cluster: cs.Cluster) -> None:
    stage = node("stage", 5).run_if(False).passthrough()
    after, only_if = node("after", 1).after(stage), node("only if", 1).run_if(stage)
    ends = cs.pipeline(0, [lambda v: node("x", v, after), lambda v: node("y", v, only_if), lambda v: add(v)])
    value, skipped = ended(cluster, add(ends, node("data", stage)))
    assert value == 1 + 5
    assert skipped == {
        "stage": "ConditionFalse",
        "after": "UpstreamSkipped_Sequence",
        "only if": "UpstreamSkipped_Condition",
        "x": "UpstreamSkipped_Data",
        "y": "UpstreamSkipped_Data",
    }


def test_a_map_gets_the_list_that_a_skipped_stage_lets_pass(cluster: cs.Cluster) -> None:
    stage = node("stage", [1, 2, 3]).run_if(False).passthrough()
    assert cluster.run(double.map(x=stage)) == [2, 4, 6]
    lazily = node("stage", node("list", [1, 2])).run_if(False).passthrough()
    assert cluster.run(double.map(x=lazily)) == [2, 4]
