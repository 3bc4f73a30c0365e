"""Routers, stages and lazy amounts, compiled."""

from __future__ import annotations

import enum
import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.graph.build import Compilation, build
from cascade_dist.graph.model import EdgeKind, Graph, Node, NodeKind

DATA, CONDITION, SEQUENCE, ITEMS = EdgeKind.DATA, EdgeKind.CONDITION, EdgeKind.SEQUENCE, EdgeKind.ITEMS
GATE, SELECTOR, ROUTE, AMOUNT = EdgeKind.GATE, EdgeKind.SELECTOR, EdgeKind.ROUTE, EdgeKind.AMOUNT


class Color(enum.Enum):
    RED = 1


@dataclass
class Box:
    item: Any


Pair = namedtuple("Pair", "left right")


@cs.task
def a(n: int = 0) -> int:
    return n


@cs.task
def f(x: Any = None, y: Any = None) -> Any:
    return x


@cs.task(pure=True)
def p(x: Any = None, y: Any = None) -> Any:
    return x


def kinds(graph: Graph) -> list[str]:
    return [node.spec.kind.name for node in graph.nodes]


def named(graph: Graph, kind: NodeKind) -> list[Node]:
    return [node for node in graph.nodes if node.spec.kind is kind]


def edges(node: Node) -> list[tuple[int, EdgeKind, str]]:
    return [(edge.source, edge.kind, edge.arg) for edge in node.edges]


# --- routers ------------------------------------------------------------------------------------------


def test_a_router_is_a_node_with_its_selector_and_its_routes_in_order() -> None:
    graph = build(f(cs.Router(a(), {"b": a(1), 2: a(2)})))
    assert kinds(graph) == ["CALL", "CALL", "CALL", "ROUTER", "CALL"]
    router, consumer = graph.nodes[3:]
    assert edges(router) == [(0, SELECTOR, "selector"), (1, ROUTE, "'b'"), (2, ROUTE, "2")]
    assert (router.value, router.inputs, router.name) == (("b", 2), (), "router")
    assert edges(consumer) == [(3, DATA, "0")]


@pytest.mark.parametrize("selector", ["x", 3, None, (1, 2), Color.RED])
def test_a_plain_selector_is_a_literal(selector: Any) -> None:
    graph = build(cs.Router(selector, {"x": a()}))
    assert kinds(graph) == ["LITERAL", "CALL", "ROUTER"]
    literal = graph.nodes[0]
    assert (literal.value, literal.name, literal.spec.name) == (
        selector,
        "the selector of a Router",
        "literal",
    )
    assert graph.target == 2


def test_s33_a_param_selects() -> None:
    target = cs.Router(cs.Param("mode", default="x"), {"x": a(1), "y": a(2)})
    assert [build(target, params).nodes[0].value for params in ({}, {"mode": "y"})] == ["x", "y"]
    assert build(target).structural_id != build(target, {"mode": "y"}).structural_id
    assert build(target).template_id == build(target, {"mode": "y"}).template_id


def test_routes_may_be_anything() -> None:
    inner = a(7)
    routes = {
        "lazy": inner,
        "router": cs.Router("x", {"x": inner}),
        "map": f.map(x=[1, 2]),
        "lazy map": f.map(x=inner),
        "list": [inner, 1],
        "nested": {"k": (1, {"z": inner})},
        "dataclass": Box(inner),
        "set": {inner},
        "plain": [1, 2],
        "param": cs.Param("n", default=3),
        "with a param": [cs.Param("n", default=3), inner],
    }
    graph = build(cs.Router(a(), routes))
    router = graph.nodes[graph.target]
    sources = [graph.nodes[source] for source in router.sources[1:]]
    assert [node.spec.kind.name for node in sources] == [
        "CALL",
        "ROUTER",
        "COLLECT",
        "MAP",
        "GATHER",
        "GATHER",
        "GATHER",
        "GATHER",
        "LITERAL",
        "LITERAL",
        "GATHER",
    ]
    assert [node.value for node in sources[8:10]] == [[1, 2], 3]
    assert sources[10].value == [3, inner]
    assert sources[6].inputs == (inner,)
    assert sources[4].name == "route 'list' of a Router"


def test_one_lazy_may_be_selector_and_several_routes() -> None:
    one = a(1)
    graph = build(cs.Router(one, {0: one, 1: one}))
    assert edges(graph.nodes[1]) == [(0, SELECTOR, "selector"), (0, ROUTE, "0"), (0, ROUTE, "1")]


def test_one_router_used_twice_is_one_node() -> None:
    router = cs.Router(a(), {"x": a(1)})
    graph = build(f(router, [router, {"k": router}]).run_if(router))
    assert kinds(graph).count("ROUTER") == 1
    assert edges(graph.nodes[-1]) == [(2, DATA, "0"), (2, CONDITION, "")]


@pytest.mark.parametrize(
    "argument",
    [
        lambda r: [1, r],
        lambda r: (r,),
        lambda r: {"k": r},
        lambda r: {r},
        lambda r: {"k": [Box((1, r))]},
        lambda r: Box(r),
        lambda r: Pair(1, r),
    ],
)
def test_routers_are_found_at_any_depth(argument: Any) -> None:
    router = cs.Router(a(), {"x": a(1)})
    for target in (f(argument(router)), f(y=argument(router)), [argument(router)]):
        graph = build(target)
        (node,) = named(graph, NodeKind.ROUTER)
        consumer = graph.nodes[graph.target]
        assert [edge.source for edge in consumer.edges] == [node.index]
        assert consumer.inputs == (router,)


def test_routers_nest_as_routes_and_as_selectors() -> None:
    inner = cs.Router(a(), {0: "x", 1: "y"})
    graph = build(cs.Router(inner, {"x": cs.Router("k", {"k": a(1)}), "y": inner}))
    routers = named(graph, NodeKind.ROUTER)
    assert len(routers) == 3
    assert routers[2].sources == (routers[0].index, routers[1].index, routers[0].index)


def test_a_router_may_be_mapped_over_and_be_a_predecessor() -> None:
    router = cs.Router(a(), {"x": [1, 2]})
    graph = build(f.map(x=router, y=cs.unmapped(router)).after(router))
    node = graph.nodes[graph.target]
    at = named(graph, NodeKind.ROUTER)[0].index
    assert edges(node) == [(at, ITEMS, "x"), (at, DATA, "y"), (at, SEQUENCE, "")]


def test_items_of_a_known_list_may_be_routers() -> None:
    router = cs.Router(a(), {"x": 1})
    graph = build(f.map(x=[router, 2]))
    first = next(node for node in graph.nodes if node.name == "f[0]")
    assert first.edges[0].kind is DATA
    assert graph.nodes[first.sources[0]].spec.kind is NodeKind.ROUTER


def test_a_long_chain_of_routers_compiles() -> None:
    value: Any = a()
    for _ in range(20_000):
        value = cs.Router(0, {0: value, 1: 1})
    graph = build(value)
    assert len(graph.nodes) == 20_003


def test_routers_that_need_each_other_are_a_cycle() -> None:
    router = cs.Router("x", {"x": 1})
    router.routes["y"] = f(router)
    with pytest.raises(cs.CycleError, match="'router' → 'f' → 'router'"):
        build(router)


def test_an_input_that_can_never_be_a_key_is_refused() -> None:
    target = cs.Router(cs.Param("mode"), {"x": a()})
    with pytest.raises(cs.GraphError, match=r"Param\('mode'\), is \[1\], a list, which can never be a key"):
        build(target, {"mode": [1]})


def test_missing_and_unknown_params_of_routers_and_amounts_are_named_together() -> None:
    target = f(
        cs.Router(cs.Param("mode"), {"x": cs.Param("route"), "y": [a(), cs.Param("deep")]})
    ).with_constraints(cpu=cs.Param("cpus"), gpu=cs.Env("NO_SUCH_VARIABLE_HERE"))
    with pytest.raises(cs.ParamMissingError) as caught:
        build(target)
    for name in ("'mode'", "'route'", "'deep'", "'cpus'", "'NO_SUCH_VARIABLE_HERE'"):
        assert name in str(caught.value)
    with pytest.raises(cs.GraphError, match="no Param is named 'what'; the target knows 'm'"):
        build(cs.Router(cs.Param("m"), {1: 1}), {"m": 1, "what": 2}, strict_params=True)


def test_ids_cover_keys_by_content() -> None:
    def made(*keys: Any) -> Graph:
        return build(cs.Router(a(), {key: a(number) for number, key in enumerate(keys)}))

    same, again = made("x", 1), made("x", 1)
    assert (same.structural_id, same.template_id) == (again.structural_id, again.template_id)
    for other in (made("x", 2), made(1, "x"), made("x", "1"), made("x", 1.5), made("x")):
        assert other.structural_id != same.structural_id
        assert other.template_id != same.template_id


def test_ids_tell_routes_apart() -> None:
    one, two = a(1), a(2)
    there = build(cs.Router(a(), {"x": one, "y": two}))
    back = build(cs.Router(a(), {"x": two, "y": one}))
    assert there.structural_id != back.structural_id


class Odd:
    """A key without a canonical encoding."""

    __slots__ = ("__weakref__", "name")

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return Odd, (self.name,)


def test_keys_without_a_canonical_encoding_are_taken() -> None:
    first, second = Odd("x"), Odd("y")
    graphs = [build(cs.Router(a(), {key: a()})) for key in (first, second)]
    assert graphs[0].template_id == graphs[1].template_id  # not even their addresses are in it
    both = build([cs.Router(a(0), {first: 1}), cs.Router(a(0), {second: 1})])
    routers = named(both, NodeKind.ROUTER)
    assert len({node.structural_id for node in routers}) == len(routers) == 2


def test_equal_structural_nodes_are_one() -> None:
    one = a(1)
    graph = build(f(cs.Router(one, {1: [one, "x"]}), cs.Router(one, {1: [one, "x"]})))
    assert kinds(graph) == ["CALL", "GATHER", "ROUTER", "CALL"]
    assert graph.nodes[-1].sources == (2, 2)
    pure = build([p(cs.Router("k", {"k": 1})), p(cs.Router("k", {"k": 1})), p(cs.Router("k", {"k": 2}))])
    assert kinds(pure).count("CALL") == 2


def test_what_cannot_be_told_apart_is_not_merged() -> None:
    first, second = threading.Event(), threading.Event()
    graph = build([cs.Router("k", {"k": first}), cs.Router("k", {"k": second})])
    assert [node.value for node in named(graph, NodeKind.LITERAL)] == ["k", first, second]
    ids = [node.structural_id for node in graph.nodes]
    assert len(set(ids)) == len(ids)


# --- stages -------------------------------------------------------------------------------------------


def test_s22_a_pipeline_compiles_to_stages() -> None:
    graph = build(cs.pipeline(10, [f, p]))
    assert kinds(graph) == ["LITERAL", "CALL", "CALL"]
    literal, first, second = graph.nodes
    assert (literal.value, literal.name) == (10, "the value that 'f' passes on when it is skipped")
    assert edges(first) == [(0, DATA, "0")]
    assert edges(second) == [(1, DATA, "0")]
    assert first.spec.passthrough
    assert second.spec.passthrough
    assert first.args == first.inputs
    assert not build(f(10)).nodes[0].spec.passthrough


def test_a_lazy_initial_is_the_first_edge_itself() -> None:
    start = a(1)
    graph = build(cs.pipeline(start, [f, f]))
    assert kinds(graph) == ["CALL", "CALL", "CALL"]
    assert [node.sources for node in graph.nodes] == [(), (0,), (1,)]


def test_what_is_passed_on_is_the_first_edge_wherever_it_stands() -> None:
    x, y = a(1), a(2)
    for step, shape in (
        (lambda v: f(y, v), [(0, DATA, "1"), (1, DATA, "0")]),
        (lambda v: f(y, y=v), [(0, DATA, "y"), (1, DATA, "0")]),
        (lambda v: f([y, v]), [(0, DATA, ""), (1, DATA, "0")]),
        (lambda v: f(y), [(0, DATA, ""), (1, DATA, "0")]),
    ):
        node = build(cs.pipeline(x, [step])).nodes[-1]
        assert edges(node) == shape
        assert node.inputs == (x, y)


def test_a_literal_is_passed_on_wherever_it_stands() -> None:
    for step, arg in ((lambda v: f(1, v), "1"), (lambda v: f(y=v), "y"), (lambda v: f([v]), "")):
        graph = build(cs.pipeline("seed", [step]))
        assert kinds(graph) == ["LITERAL", "CALL"]
        assert edges(graph.nodes[1]) == [(0, DATA, arg)]
        assert graph.nodes[0].value == "seed"


def test_a_container_with_lazies_is_passed_on_as_one_node() -> None:
    x = a(1)
    graph = build(f([x, 2], x).passthrough())
    assert kinds(graph) == ["CALL", "GATHER", "CALL"]
    assert edges(graph.nodes[2]) == [(1, DATA, "0"), (0, DATA, "1")]
    assert graph.nodes[2].args[0] is not graph.nodes[2].args[1] is x


def test_params_and_routers_are_passed_on() -> None:
    graph = build(cs.pipeline(cs.Param("n", type=int), [f]), {"n": "4"})
    assert [node.value for node in graph.nodes] == [4, None]
    router = cs.Router(a(), {0: 1})
    assert build(f(router).passthrough()).nodes[-1].inputs == (router,)


def test_a_stage_is_no_plain_call() -> None:
    plain, stage = build(f(1)), build(f(1).passthrough())
    assert plain.structural_id != stage.structural_id
    assert plain.template_id != stage.template_id
    again = build(f(1).passthrough())
    assert (stage.structural_id, stage.template_id) == (again.structural_id, again.template_id)


def test_ids_cover_what_is_passed_on() -> None:
    ids = {build(target).structural_id for target in (f(1, 2).passthrough(), f(2, 2).passthrough())}
    ids |= {build(cs.pipeline(1, [lambda v: f(1, 2)])).structural_id}
    ids |= {build(cs.pipeline(2, [lambda v: f(1, 2)])).structural_id}
    assert len(ids) == 3  # f(1, 2) passing 1 on is one call, however it was said


def test_equal_stages_of_a_pure_task_are_one() -> None:
    graph = build([p(1).passthrough(), p(1).passthrough(), p(1), p(2).passthrough()])
    assert [node.spec.passthrough for node in named(graph, NodeKind.CALL)] == [True, False, True]
    with pytest.raises(cs.GraphError, match="pure task 'p'"):
        build(p(threading.Lock()).passthrough())


# --- lazy amounts -------------------------------------------------------------------------------------


def test_a_lazy_amount_is_an_edge_and_comes_last() -> None:
    cpus, before, condition = a(1), a(2), a(3)
    call = f(a()).after(before).run_if(condition).with_constraints(cpu=cpus, gpu=0.5)
    graph = build(call)
    assert edges(graph.nodes[-1]) == [
        (0, DATA, "0"),
        (1, CONDITION, ""),
        (2, SEQUENCE, ""),
        (3, AMOUNT, "cpu"),
    ]
    assert graph.nodes[-1].spec.amounts == (("gpu", 500_000),)
    assert len(graph.nodes[-1].inputs) == 1


def test_amounts_may_come_from_routers_params_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "2")
    call = f().with_constraints(
        cpu=cs.Router(1, {1: 4}), memory_gb=cs.Param("memory"), gpu=cs.Env("GPUS"), disk=1
    )
    graph = build(call, {"memory": 1.5})
    node = graph.nodes[-1]
    assert dict(node.spec.amounts) == {"memory_gb": 1_500_000, "gpu": 2_000_000, "disk": 1_000_000}
    assert [(edge.kind, edge.arg) for edge in node.edges] == [(AMOUNT, "cpu")]
    assert graph.nodes[node.sources[0]].spec.kind is NodeKind.ROUTER


@pytest.mark.parametrize(("value", "word"), [(-1, "-1"), ("many", "many"), (None, "None"), ([1], r"\[1\]")])
def test_a_param_that_is_no_amount_is_refused(value: Any, word: str) -> None:
    with pytest.raises(ValueError, match=rf"Param\('n'\), for an amount of 'f': .*{word}"):
        build(f().with_constraints(cpu=cs.Param("n")), {"n": value})


def test_children_of_maps_have_lazy_amounts_each() -> None:
    amount = a(1)
    graph = build(f.map(x=[1, 2]).run_if(a(2)).with_constraints(cpu=amount))
    at = graph.nodes.index(next(n for n in graph.nodes if n.name == "a" and n.args == (1,)))
    gate = next(node.index for node in graph.nodes if node.spec.kind is NodeKind.GATE)
    children = [node for node in graph.nodes if node.name.startswith("f[")]
    assert [edges(child) for child in children] == [[(gate, GATE, ""), (at, AMOUNT, "cpu")]] * 2
    assert AMOUNT not in graph.nodes[graph.target].kinds
    items = a(3)
    whole = build(f.map(x=items).with_constraints(cpu=amount))
    assert [(kind, arg) for _, kind, arg in edges(whole.nodes[-1])] == [(ITEMS, "x"), (AMOUNT, "cpu")]


def test_ids_cover_lazy_amounts() -> None:
    def made(**amounts: Any) -> bytes:
        return build(f(1).with_constraints(**amounts)).structural_id

    ids = {made(cpu=a(1)), made(cpu=a(2)), made(gpu=a(1)), made(cpu=1), made(cpu=a(1), gpu=a(1))}
    assert len(ids) == 5
    assert made(cpu=a(1)) == made(cpu=a(1))
    amount = a(1)
    merged = build([p(1).with_constraints(cpu=amount), p(1).with_constraints(cpu=amount), p(1)])
    assert len([node for node in merged.nodes if node.spec.name == "p"]) == 2


# --- ids are the same in every process ----------------------------------------------------------------


def test_a_graph_of_all_this_is_the_same_every_time() -> None:
    def made() -> Compilation:
        routes = {Color.RED: a(1), (1, "x"): [a(2)], None: {a(3)}, "s": frozenset({1, 2})}
        stage = cs.pipeline({"k": 1}, [f, lambda v: f(1, v).run_if(cs.Router(a(), routes))])
        compilation = Compilation(stage.with_constraints(cpu=a(4)))
        for _ in compilation.nodes():
            pass
        return compilation

    first, second = made(), made()
    assert (first.structural_id, first.template_id) == (second.structural_id, second.template_id)
