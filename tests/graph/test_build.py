"""From targets to nodes and edges."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import OrderedDict, namedtuple
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.graph.build import Compilation, build
from cascade_dist.graph.model import Edge, EdgeKind, Mode, Node, NodeKind

from .cast import Pair, a, b, f, names, p, shape


class Point(NamedTuple):
    x: Any
    y: Any


Plain = namedtuple("Plain", "one")


DATA, CONDITION, SEQUENCE = EdgeKind.DATA, EdgeKind.CONDITION, EdgeKind.SEQUENCE

# --- S2 to S13 --------------------------------------------------------------------------------------


def test_s2_node_name_and_mode_are_the_tasks() -> None:
    numbers = cs.task(lambda: 1, name="numbers", mode="compute")
    graph = build([numbers(), a()])
    assert names(graph) == ["numbers", "a", "gather"]
    assert [node.spec.mode for node in graph.nodes[:2]] == [Mode.COMPUTE, Mode.BLOCKING]


def test_s3_a_call_of_a_call_is_two_nodes_and_one_edge() -> None:
    graph = build(f(a()))
    assert names(graph) == ["a", "f"]
    assert graph.edges == [Edge(0, 1, DATA, "0")]
    assert graph.target == 1


def test_s4_lazies_in_an_argument_a_list_and_a_dict_are_one_edge_each() -> None:
    first, second, third, fourth = a(), a(), a(), a()
    graph = build(f(first, [second, 1], more={"k": third, "other": [{"deep": (fourth,)}]}))
    assert names(graph) == ["a", "a", "a", "a", "f"]
    assert shape(graph) == [(0, 4, DATA, "0"), (1, 4, DATA, "1"), (2, 4, DATA, "more"), (3, 4, DATA, "more")]
    assert graph.nodes[4].inputs == (first, second, third, fourth)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda lazy: [lazy],
        lambda lazy: (1, lazy),
        lambda lazy: {"k": lazy},
        lambda lazy: {lazy: "k"},
        lambda lazy: {lazy, 1},
        lambda lazy: frozenset({lazy}),
        lambda lazy: Pair(1, lazy),
        lambda lazy: Point(lazy, 2),
        lambda lazy: Plain(lazy),
        lambda lazy: OrderedDict(k=lazy),
        lambda lazy: [[{"k": (Pair(frozenset({(lazy,)}), 0),)}]],
    ],
)
def test_s4_lazies_are_found_at_any_depth(wrap: Any) -> None:
    lazy = a()
    for target in (f(wrap(lazy)), f(y=wrap(lazy), x=0)):
        graph = build(target)
        assert names(graph) == ["a", "f"]
        assert graph.nodes[1].inputs == (lazy,)


def test_a_lazy_in_an_object_of_another_class_is_no_input() -> None:
    class Box:
        def __init__(self, value: Any) -> None:
            self.value = value

    assert names(build(f(Box(a())))) == ["f"]


def test_s6_equal_calls_of_an_impure_task_are_two_nodes() -> None:
    graph = build([f(1), f(1), f(1)])
    assert len({node.structural_id for node in graph.nodes[:3]}) == 3
    assert names(graph) == ["f", "f", "f", "gather"]


def test_s7_equal_calls_of_a_pure_task_are_one_node() -> None:
    graph = build([f(p(1)), f(p(1), p(1))])
    assert names(graph) == ["p", "f", "f", "gather"]
    assert shape(graph)[:3] == [(0, 1, DATA, "0"), (0, 2, DATA, "0"), (0, 2, DATA, "1")]


def test_s7_a_pure_target_may_be_equal_to_an_earlier_node() -> None:
    graph = build(p(1).after(f(p(2))).run_if(p(1)))
    assert names(graph) == ["p", "p", "f", "p"]
    same = p(1)
    graph = build([same, p(1)])
    assert names(graph) == ["p", "gather"]
    assert graph.nodes[1].sources == (0, 0)
    assert len(graph.nodes[1].inputs) == 2


def test_s8_one_lazy_result_in_two_places_is_one_node() -> None:
    lazy = a()
    graph = build(f(lazy, [lazy, {"k": lazy}], more=lazy))
    assert names(graph) == ["a", "f"]
    assert shape(graph) == [(0, 1, DATA, "0")]


def test_s9_different_inputs_make_different_roots() -> None:
    assert build(f(a())).structural_id != build(f(b())).structural_id
    assert build(f(a())).structural_id == build(f(a())).structural_id


def test_s10_after_accumulates_in_the_graph() -> None:
    first, second = a(), b()
    graph = build(f(0).after(first).after(second, first))
    assert shape(graph) == [(0, 2, SEQUENCE, ""), (1, 2, SEQUENCE, "")]
    assert graph.nodes[2].inputs == ()


def test_s12_a_cycle_of_after_is_named_node_by_node() -> None:
    x, y, z = a(), b(), f(1)
    x.after(y)
    y.after(z)
    z.after(x)
    with pytest.raises(cs.CycleError, match="'a' → 'b' → 'f' → 'a'"):
        build([x])
    with pytest.raises(cs.CycleError, match="'b' → 'f' → 'a' → 'b'"):
        build(f(y))


def test_s12_a_cycle_may_go_through_anything() -> None:
    x, y = a(), b()
    x.run_if(y)
    y.run_if(x)
    with pytest.raises(cs.CycleError, match="'a' → 'b' → 'a'"):
        build(x)
    loop = a()
    with pytest.raises(cs.CycleError, match="'a' → 'a'"):
        build(loop.after(loop))
    items: list[Any] = []
    data = f(items)
    items.append(f.map(x=[1, data]))
    with pytest.raises(cs.CycleError, match="'f' → 'f' → 'f'"):
        build(data)


def test_s12_a_long_cycle_is_shortened() -> None:
    first = last = f(0)
    for _ in range(10_000):
        last = f(last)
    first.after(last)
    with pytest.raises(cs.CycleError, match=r"\(9982 more\)") as caught:
        build(last)
    assert len(str(caught.value)) < 1000


def test_s13_every_node_comes_after_what_it_needs() -> None:
    top = a()
    left, right = f(top), f(top, 2)
    graph = build(f(left, right))
    assert names(graph) == ["a", "f", "f", "f"]
    assert all(edge.source < edge.target for edge in graph.edges)


# --- the walk ---------------------------------------------------------------------------------------


def test_the_walk_is_arguments_then_condition_then_predecessors() -> None:
    def named(name: str) -> Any:
        return cs.task(lambda: 1, name=name)()

    made_first, made_second = named("set 1"), named("set 2")
    target = f(named("arg 0"), {"z": named("z"), "a": named("a")}, k={made_second, made_first})
    target.after(named("after 1"), named("after 2")).run_if(named("if"))
    assert names(build(target)) == ["arg 0", "z", "a", "set 1", "set 2", "if", "after 1", "after 2", "f"]


def test_sets_of_containers_are_walked_by_creation() -> None:
    made = [cs.task(lambda: 1, name=str(n))() for n in range(30)]
    assert names(build(f({(lazy, 1) for lazy in reversed(made)})))[:30] == [str(n) for n in range(30)]


def test_condition_and_data_may_be_the_same_node() -> None:
    lazy = a()
    assert shape(build(f(lazy).run_if(lazy).after(lazy))) == [
        (0, 1, DATA, "0"),
        (0, 1, CONDITION, ""),
        (0, 1, SEQUENCE, ""),
    ]


def test_a_condition_known_to_be_true_is_nothing() -> None:
    assert names(build(f(1).run_if(a()).run_if(True))) == ["f"]
    assert build(f(1).run_if(True)).structural_id == build(f(1)).structural_id


def test_a_condition_known_to_be_false_is_a_node_like_others() -> None:
    graph = build([f(1).run_if(False), f(2).run_if(False)])
    assert names(graph) == ["never", "f", "f", "gather"]
    never = graph.nodes[0].spec
    assert never.func is not None
    assert never.func() is False
    assert never.amounts == ()
    assert graph.nodes[2].kinds == (CONDITION,)


# --- targets ----------------------------------------------------------------------------------------


def test_s20_a_list_target_is_gathered_with_its_literals() -> None:
    first, second = a(), b()
    for target in ([first, "lit", second], (first, "lit", second)):
        graph = build(target)
        gather = graph.nodes[graph.target]
        assert gather.spec.kind is NodeKind.GATHER
        assert gather.value == [first, "lit", second]
        assert gather.inputs == (first, second)
        assert shape(graph) == [(0, 2, DATA, "0"), (1, 2, DATA, "2")]


@pytest.mark.parametrize("target", [[], (), {}, [1], {"k": [2]}])
def test_s20_a_container_without_lazies_is_a_gather_alone(target: Any) -> None:
    graph = build(target)
    assert names(graph) == ["gather"]
    assert graph.nodes[0].value == (list(target) if isinstance(target, tuple) else target)
    assert graph.nodes[0].inputs == ()


def test_containers_nest_in_a_target() -> None:
    graph = build({"k": a(), b(): [f(1), (f.map(x=[1]), {f(2)})]})
    assert names(graph) == ["a", "b", "f", "f[0]", "f.map", "f", "gather"]
    assert graph.nodes[-1].edge_args[0] == "k"


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (5, "nothing to run in 5, a int: a target is a lazy result, a map, or a list, tuple or dict"),
        (None, "nothing to run in None"),
        ("text", "nothing to run in 'text'"),
        (a, r"is a task, not a call of it: write a\(…\)"),
        (lambda: 1, "nothing to run"),
        ({1, 2}, "nothing to run"),
        (cs.Param("n"), r"Param\('n'\) has nothing to run"),
        (cs.Env("N"), r"Env\('N'\) has nothing to run"),
    ],
)
def test_what_is_no_target_is_refused(target: Any, word: str) -> None:
    with pytest.raises(cs.GraphError, match=word):
        Compilation(target)


# --- policies ---------------------------------------------------------------------------------------


def spec_of(lazy: Any) -> Any:
    return build(lazy).nodes[-1].spec


def test_a_sync_call_holds_a_cpu_unless_it_says_otherwise() -> None:
    async def coroutine() -> None: ...

    assert spec_of(a()).amounts == (("cpu", 1_000_000),)
    assert spec_of(a().with_constraints(cpu=0.1, gpu=2)).amounts == (("cpu", 100_000), ("gpu", 2_000_000))
    assert spec_of(a().with_constraints(cpu=0)).amounts == ()
    assert spec_of(cs.task(coroutine)()).amounts == ()
    assert spec_of(cs.task(coroutine, resources={"cpu": 1})()).amounts == (("cpu", 1_000_000),)


def test_chained_policies_go_over_the_tasks() -> None:
    own = cs.task(a.func, resources={"gpu": 1, "disk": 2}, timeout=5, retry=4)
    spec = spec_of(own().with_constraints(gpu=3).with_timeout(None).with_retry(2).with_priority(7))
    assert spec.amounts == (("cpu", 1_000_000), ("disk", 2_000_000), ("gpu", 3_000_000))
    assert (spec.timeout, spec.retry, spec.priority) == (None, cs.RetryPolicy(2), 7)
    assert (spec_of(own()).timeout, spec_of(own()).retry) == (5.0, cs.RetryPolicy(4))


def test_equal_specs_are_one_object() -> None:
    graph = build(
        [a(), a(), a().with_constraints(cpu=1), a().with_retry(2), a().with_retry(2), a().after(b())]
    )
    specs = [node.spec for node in graph.nodes if node.name == "a"]
    assert specs[0] is specs[1] is specs[2] is specs[5]
    assert specs[3] is specs[4]
    assert specs[3] is not specs[0]
    assert specs[3].digest != specs[0].digest


# --- size -------------------------------------------------------------------------------------------


def test_s11_a_chain_of_100_000_builds_without_recursion() -> None:
    lazy = f(0)
    for _ in range(100_000):
        lazy = f(lazy)
    compilation = Compilation(lazy)
    last = -1
    for node in compilation.nodes():
        assert node.index == last + 1
        assert node.sources == ((last,) if last >= 0 else ())
        last = node.index
    assert compilation.node_count == 100_001
    assert compilation.edge_count == 100_000
    assert compilation.target_index == 100_000


def test_containers_deeper_than_the_recursion_limit_are_refused() -> None:
    deep: Any = [a()]
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    for target in (f(deep), f.map(x=[deep]), [deep]):
        with pytest.raises(cs.GraphError, match="nested too deeply"):
            build(target)


def peak_bytes_per_node(target: Any, count: int) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        for _ in Compilation(target).nodes():
            pass
        return tracemalloc.get_traced_memory()[1] / count
    finally:
        tracemalloc.stop()


def test_nodes_are_not_kept() -> None:
    count = 20_000
    assert peak_bytes_per_node([a() for _ in range(count)], count) < 500
    assert peak_bytes_per_node(f.map(x=range(count)), count) < 200


def test_a_compilation_is_walked_once() -> None:
    compilation = Compilation(a())
    assert len(list(compilation.nodes())) == 1
    with pytest.raises(RuntimeError, match="walked once"):
        next(compilation.nodes())


@pytest.mark.long
def test_a_million_nodes() -> None:
    compilation = Compilation([f(i) for i in range(1_000_000)])
    assert sum(1 for _ in compilation.nodes()) == 1_000_001


# --- random graphs ----------------------------------------------------------------------------------


@st.composite
def targets(draw: st.DrawFn) -> tuple[Any, int]:
    """A target, and how many calls it reaches at most."""
    made: list[Any] = [a()]
    for _ in range(draw(st.integers(0, 12))):
        picked = draw(st.lists(st.sampled_from(made), max_size=3))
        lazy = (
            f(picked, draw(st.integers(0, 2)))
            if draw(st.booleans())
            else f(*picked, k=1, x=2)
            if not picked
            else f(*picked)
        )
        if draw(st.booleans()):
            lazy.after(*draw(st.lists(st.sampled_from(made), max_size=2)))
        if draw(st.booleans()):
            lazy.run_if(draw(st.sampled_from(made)))
        made.append(lazy)
    return draw(st.lists(st.sampled_from(made), min_size=1, max_size=3)), len(made)


@settings(max_examples=60, deadline=None)
@given(targets())
def test_graphs_are_topological_and_complete(drawn: tuple[Any, int]) -> None:
    target, most = drawn
    graph = build(target)
    assert [node.index for node in graph.nodes] == list(range(len(graph.nodes)))
    assert len(graph.nodes) <= most + 1
    assert graph.target == len(graph.nodes) - 1
    needed = {graph.target}
    for edge in sorted(graph.edges, key=lambda edge: -edge.target):
        assert edge.source < edge.target
        assert edge.target in needed
        needed.add(edge.source)
    assert needed == set(range(len(graph.nodes)))
    for node in graph.nodes:
        check_columns(node)
    again = build(target)
    assert [node.structural_id for node in again.nodes] == [node.structural_id for node in graph.nodes]
    assert again.template_id == graph.template_id
    assert len({node.structural_id for node in graph.nodes}) == len(graph.nodes)


def check_columns(node: Node) -> None:
    assert len(node.sources) == len(node.kinds) == len(node.edge_args)
    assert len(node.inputs) == sum(kind in (DATA, EdgeKind.ITEMS) for kind in node.kinds)
    assert len(set(zip(node.sources, node.kinds, strict=True))) == len(node.sources)
