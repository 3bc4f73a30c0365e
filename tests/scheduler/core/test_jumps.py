"""Jumps: what of a graph a run needs, which names a jump may replace, and frames on a part of a graph."""

from __future__ import annotations

import pytest

from cascade_scheduler.core import events as e
from cascade_scheduler.core.graph import (
    EdgeKind,
    FunctionRef,
    Graph,
    JumpEntry,
    JumpTable,
    NodeKind,
    validate,
)
from cascade_scheduler.core.jumps import NONE, UnknownName, dropped_inputs, names_of, part_of
from cascade_scheduler.core.plans import solve

from .harness import GraphMaker, Sim

ENTRY = JumpEntry(("x", "y", "*rest"), ((0,), (0, 1), (1,), ()))
LOOSE = JumpEntry(("x", "**"), ((0,),))


def whole() -> Graph:
    """start → (jump) → go, which needs a and b; b needs c. Nodes: start c b a go."""
    make = GraphMaker()
    start = make.call("start", args=b"of start")
    c = make.call("c")
    b = make.call("b", c)
    a = make.call("a")
    go = make.call("go", a, b, args=b"of go")
    graph = make.graph(target=start)
    table = JumpTable(b"keys", (go, -1))
    graph.jumps = {start: table, go: table}
    return graph


def names(graph: Graph) -> list[str]:
    return [graph.name(node) for node in range(graph.size)]


def test_a_part_is_what_the_node_needs() -> None:
    base = whole()
    part = part_of(base, 4).graph(base, b"data")
    validate(part)
    assert names(part) == ["c", "b", "a", "go"]
    assert part.target == 3
    assert part.inputs(3) == [2, 1]
    assert part.node_args[3] == b"of go"
    assert part.node_ids == b"".join(base.node_id(node) for node in (1, 2, 3, 4))
    assert (part.base, part.overrides) == (base, b"data")
    assert part.jumps == {3: base.jumps[4]}


def test_the_targets_own_part_leaves_out_what_jumps_alone_reach() -> None:
    base = whole()
    part = part_of(base, base.target).graph(base)
    assert names(part) == ["start"]
    assert part.jumps == {0: base.jumps[0]}


def test_what_replaced_arguments_alone_needed_is_not_run() -> None:
    base = whole()
    part = part_of(base, 4, frozenset({1})).graph(base)
    validate(part)
    assert names(part) == ["replaced", "a", "go"]
    assert part.spec(0).kind == NodeKind.LITERAL
    assert part.node_args[0] == NONE
    assert part.inputs(2) == [1, 0], "every input keeps its place"
    assert part.functions == base.functions
    assert [EdgeKind(kind) for kind in part.edge_kind] == [EdgeKind.DATA, EdgeKind.DATA]


def test_a_part_is_good_for_every_graph_of_its_columns() -> None:
    base, other = whole(), whole()
    other.functions = [FunctionRef(b"new", "new")] * len(base.functions)
    other.jumps = {4: JumpTable(b"other keys", (0, -1))}
    part = part_of(base, 4).graph(other)
    assert part.functions == other.functions
    assert part.jumps == {3: other.jumps[4]}


def test_maps_go_with_their_children_and_lists() -> None:
    make = GraphMaker()
    start = make.call("start")
    items = make.call("list")
    mapped = make.call("each", kind=NodeKind.MAP, items=[items])
    go = make.call("go", mapped, lazy={"cpu": items})
    base = make.graph(target=start)
    part = part_of(base, go).graph(base)
    validate(part)
    assert names(part) == ["list", "each", "go"]
    assert list(part.amount_names.values()) == ["cpu"]


@pytest.mark.parametrize(
    ("entry", "given", "found"),
    [
        (ENTRY, (), set()),
        (ENTRY, ("x",), {0}),
        (ENTRY, ("y", "x"), {0, 1}),
        (ENTRY, ("",), {0}),
        (LOOSE, ("whatever",), set()),
        (LOOSE, ("x", "more"), {0}),
    ],
)
def test_names_that_a_jump_may_replace(entry: JumpEntry, given: tuple[str, ...], found: set[int]) -> None:
    assert names_of(entry, given, "go") == found


@pytest.mark.parametrize(
    ("entry", "name", "says"),
    [
        (ENTRY, "z", "'go' data for a parameter 'z', which it does not have; it has 'x', 'y'"),
        (ENTRY, "*rest", "a parameter '.rest'"),
        (JumpEntry((), ()), "", "a first parameter, which it does not have; it has none"),
    ],
)
def test_names_that_there_are_not_are_named(entry: JumpEntry, name: str, says: str) -> None:
    with pytest.raises(UnknownName, match=says):
        names_of(entry, (name,), "go")


def test_an_input_is_dropped_when_all_that_it_stands_in_is_replaced() -> None:
    assert dropped_inputs(ENTRY, frozenset()) == set()
    assert dropped_inputs(ENTRY, frozenset({0})) == {0}
    assert dropped_inputs(ENTRY, frozenset({0, 1})) == {0, 1, 2}, "what stands nowhere stays"


def test_a_run_goes_on_as_a_part_and_back() -> None:
    base = whole()
    first = part_of(base, 0).graph(base)
    second = part_of(base, 4, frozenset({1})).graph(base, b"laid over")
    sim = Sim()
    sim.worker("w", cpu=4)
    sim.submit(first)
    assert sim.one("start").jump == base.jumps[0]
    for _ in range(3):
        sim.tail("start", second)
        assert sim.assigned == ["a"]
        sim.done("a", b"of a")
        assign = sim.one("go")
        assert assign.inputs == (b"of a", NONE)
        assert (assign.overrides, assign.jump, assign.args) == (b"laid over", base.jumps[4], b"of go")
        assert not assign.lease
        sim.report(e.AttemptTail(assign.attempt, e.NextFrame(first, solve(first))))
        assert sim.one("start").overrides == b""
    sim.done("start")
    assert sim.ended.state == "succeeded"
