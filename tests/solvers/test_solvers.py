"""Orders of graphs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist import solvers
from cascade_dist.errors import ConfigError
from cascade_dist.solvers import (
    CspSolver,
    NativeSolver,
    SolverGraph,
    SolverNode,
    UnsolvableError,
    describe,
    load_solver,
)


@cs.task
def load(name: str) -> str:
    return name


@cs.task
def join(left: Any, right: Any) -> str:
    return f"{left}{right}"


def stage_of(plan: solvers.SolverPlan) -> dict[int, int]:
    return {node: number for number, stage in enumerate(plan.stages) for node in stage}


def two_of_four() -> Any:
    return [load("a").with_constraints(cpu=4), load("b").with_constraints(cpu=4)]


def test_s96_what_does_not_fit_together_is_in_different_stages() -> None:
    plan = CspSolver().resolve(describe(two_of_four(), capacity={"cpu": 6}))
    assert [len(stage) for stage in plan.stages] == [1, 1]


def test_s96_what_fits_together_is_in_one_stage() -> None:
    plan = CspSolver().resolve(describe(two_of_four(), capacity={"cpu": 10}))
    assert [len(stage) for stage in plan.stages] == [2]


def test_what_can_never_fit_is_unsolvable_and_the_amount_is_named() -> None:
    with pytest.raises(UnsolvableError, match=r"'load' needs cpu=4, and there is 3 in all"):
        CspSolver().resolve(describe(two_of_four(), capacity={"cpu": 3}))


def test_the_constraint_solver_beats_the_greedy_plan() -> None:
    # Greedy fills the first stage with the small ones, and then no two of the large ones fit together.
    sizes = [2, 2, 2, 4, 4, 4]
    nodes = [SolverNode(f"t{size}", amounts={"gpu": size}) for size in sizes]
    plan = CspSolver().resolve(SolverGraph(nodes, {"gpu": 6}))
    assert len(plan.stages) == 3


def test_an_order_keeps_to_the_edges() -> None:
    graph = describe(join(join(load("a"), load("b")), load("c")))
    for solver in (NativeSolver(), CspSolver()):
        stages = stage_of(solver.resolve(graph))
        for index, node in enumerate(graph.nodes):
            assert all(stages[source] < stages[index] for source in node.sources)


def test_the_native_order_has_the_critical_path_first() -> None:
    deep = join(join(load("a"), 1), 2)
    graph = describe([load("short"), deep])
    first = NativeSolver().resolve(graph).stages[0]
    names = [graph.nodes[node].name for node in first]
    assert names == ["load", "load"]
    consumers = [index for index, node in enumerate(graph.nodes) if first[0] in node.sources]
    assert graph.nodes[consumers[0]].name == "join"


def test_a_cycle_is_named_node_by_node() -> None:
    nodes = [SolverNode("a", sources=(2,)), SolverNode("b", sources=(0,)), SolverNode("c", sources=(1,))]
    with pytest.raises(cs.CycleError, match=r"'b' → 'c' → 'a' → 'b'|'a' → 'b' → 'c' → 'a'"):
        NativeSolver().resolve(SolverGraph(nodes))


def test_a_chain_of_a_hundred_thousand_has_an_order() -> None:
    nodes = [SolverNode("n", sources=(index - 1,) if index else ()) for index in range(100_000)]
    assert len(NativeSolver().resolve(SolverGraph(nodes)).stages) == 100_000


def test_a_graph_without_code_has_no_stages() -> None:
    graph = SolverGraph([SolverNode("gather", calls=False)])
    assert CspSolver().resolve(graph).stages == NativeSolver().resolve(graph).stages == ()


def test_solvers_have_names() -> None:
    assert isinstance(load_solver("native"), NativeSolver)
    assert isinstance(load_solver("csp"), CspSolver)
    with pytest.raises(ConfigError, match="no solver 'magic': there are native, csp"):
        load_solver("magic")


@st.composite
def graphs(draw: st.DrawFn) -> SolverGraph:
    size = draw(st.integers(1, 8))
    nodes = []
    for index in range(size):
        sources = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        amounts = draw(st.dictionaries(st.sampled_from(["cpu", "gpu"]), st.integers(0, 4), max_size=2))
        nodes.append(SolverNode(f"n{index}", draw(st.booleans()), amounts, tuple(sorted(sources))))
    return SolverGraph(nodes, {"cpu": 5, "gpu": 4})


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_plans_are_sound_and_never_longer_than_one_node_a_stage(graph: SolverGraph) -> None:
    plan = CspSolver(seconds=0.2).resolve(graph)
    stages = stage_of(plan)
    calls = {index for index, node in enumerate(graph.nodes) if node.calls}
    assert set(stages) == calls
    assert sum(map(len, plan.stages)) == len(calls)
    for index in calls:
        assert all(stages[s] < stages[index] for s in graph.nodes[index].sources if s in calls)
    for stage in plan.stages:
        for name, most in graph.capacity.items():
            assert sum(graph.nodes[node].amounts.get(name, 0) for node in stage) <= most
