"""Maps: over known lists, and over lists that become known at run time."""

from __future__ import annotations

import pytest

import cascade_dist as cs
from cascade_dist.graph.build import build
from cascade_dist.graph.model import EdgeKind, MapRange, NodeKind

from .cast import a, b, f, names, p, shape

DATA, CONDITION, SEQUENCE = EdgeKind.DATA, EdgeKind.CONDITION, EdgeKind.SEQUENCE


def test_s55_a_map_over_a_known_list_is_children_and_their_list() -> None:
    graph = build(f(f.map(x=[10, 20], y=[1, 2])))
    assert names(graph) == ["f[0]", "f[1]", "f.map", "f"]
    assert [dict(node.kwargs) for node in graph.nodes[:2]] == [{"x": 10, "y": 1}, {"x": 20, "y": 2}]
    assert [node.spec.kind for node in graph.nodes] == [
        NodeKind.CALL,
        NodeKind.CALL,
        NodeKind.COLLECT,
        NodeKind.CALL,
    ]
    assert shape(graph)[:2] == [(0, 2, DATA, ""), (1, 2, DATA, "")]
    assert graph.maps == [MapRange(0, 2)]
    assert [node.map_count for node in graph.nodes] == [2, -1, -1, -1]
    assert graph.nodes[0].spec is graph.nodes[1].spec


def test_s55_an_empty_map_is_an_empty_list() -> None:
    graph = build(f.map(x=[]))
    assert names(graph) == ["f.map"]
    assert graph.nodes[0].spec.kind is NodeKind.COLLECT
    assert graph.nodes[0].sources == ()


def test_s55_what_all_children_of_an_empty_map_get_is_needed_by_nobody() -> None:
    assert names(build(f.map(x=[], y=cs.unmapped([a()])).run_if(b()))) == ["b", "f.gate", "f.map"]


def test_s55_items_may_be_or_hold_lazies() -> None:
    first, second = a(), b()
    graph = build(f.map(x=[first, [second, first]], y=cs.unmapped({"k": second})))
    assert names(graph) == ["a", "b", "f[0]", "f[1]", "f.map"]
    assert shape(graph)[:4] == [(0, 2, DATA, "x"), (1, 2, DATA, "y"), (1, 3, DATA, "x"), (0, 3, DATA, "x")]


def test_what_is_shared_is_one_object_for_all_children() -> None:
    big = [1, 2, 3]
    nodes = build(f.map(x=range(3), y=cs.unmapped(big))).nodes[:3]
    assert nodes[0].shared == {"y": big}
    assert nodes[0].shared is nodes[1].shared is nodes[2].shared
    assert all(node.kwargs["y"] is big for node in nodes)


def test_a_map_over_a_lazy_list_is_one_node() -> None:
    xs, extra = a(), b()
    mapped = f.map(x=xs, y=["p", "q"], z=cs.unmapped([extra])).run_if(extra).after(f(1))
    graph = build(mapped)
    node = graph.nodes[graph.target]
    assert names(graph) == ["a", "b", "f", "f"]
    assert node.spec.kind is NodeKind.MAP
    assert shape(graph) == [
        (0, 3, EdgeKind.ITEMS, "x"),
        (1, 3, DATA, "z"),
        (1, 3, CONDITION, ""),
        (2, 3, SEQUENCE, ""),
    ]
    assert node.columns == {"y"}
    assert node.map_count == 2
    assert node.kwargs["x"] is node.inputs[0]
    assert node.inputs[1] is extra
    assert node.kwargs["z"] == [extra]


def test_one_lazy_list_may_be_mapped_and_given_whole() -> None:
    xs = a()
    node = build(f.map(x=xs, y=xs, z=cs.unmapped(xs), w=[1])).nodes[-1]
    assert node.kinds == (EdgeKind.ITEMS, DATA)
    assert node.sources == (0, 0)
    assert node.kwargs["x"] is node.kwargs["y"] is node.inputs[0]
    assert node.inputs[0] is not node.inputs[1]
    assert node.kwargs["z"] is node.inputs[1] is xs
    assert isinstance(node.inputs[0], cs.LazyResult)


def test_unmapped_is_for_maps() -> None:
    for target in (f(cs.unmapped(1)), f(0, [cs.unmapped(1)]), f.map(x=[1], y=cs.unmapped([cs.unmapped(2)]))):
        with pytest.raises(cs.GraphError, match=r"unmapped\(.\) in it: cs\.unmapped"):
            build(target)


def test_policies_go_to_the_children_and_conditions_to_the_map() -> None:
    when, before = a(), b()
    mapped = f.map(x=[1, 2]).with_retry(3).with_timeout(9).run_if(when).after(before)
    graph = build(mapped)
    assert names(graph) == ["a", "b", "f.gate", "f[0]", "f[1]", "f.map"]
    assert shape(graph) == [
        (0, 2, CONDITION, ""),
        (1, 2, SEQUENCE, ""),
        (2, 3, EdgeKind.GATE, ""),
        (2, 4, EdgeKind.GATE, ""),
        (3, 5, DATA, ""),
        (4, 5, DATA, ""),
        (2, 5, EdgeKind.GATE, ""),
    ]
    assert graph.nodes[2].spec.kind is NodeKind.GATE
    assert graph.nodes[3].spec.retry == cs.RetryPolicy(3)
    assert graph.nodes[5].spec.retry is None
    assert graph.maps == [MapRange(3, 2)]


def test_equal_maps_of_a_pure_task_are_one() -> None:
    xs = a()
    assert names(build([p.map(x=[1, 1]), p.map(x=[1, 1])])) == ["p[0]", "p[1]", "p.map", "gather"]
    assert names(build([p.map(x=xs), p.map(x=xs)])) == ["a", "p", "gather"]
    assert len(build([p.map(x=[1, 2]), p.map(x=[2, 1])]).nodes) == 7
    assert len(build([p.map(x=[1]), p([1])]).nodes) == 4


def test_every_node_of_a_graph_has_its_own_id() -> None:
    xs = a()
    target = [
        f.map(x=[1, 1]),
        f.map(x=[1, 1]),
        f.map(x=xs),
        f.map(x=xs),
        p.map(x=[1, 1]),
        p(1),
        p(x=[1, 1]),
        f(1).run_if(False),
        f.map(x=[1]).run_if(False),
        f.map(x=[1]).run_if(False),
        f(1),
        f(x=1),
    ]
    ids = [node.structural_id for node in build(target).nodes]
    assert len(set(ids)) == len(ids)
    assert {len(identity) for identity in ids} == {16}
