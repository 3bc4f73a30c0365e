"""Where jumps lead, compiled: tables, what is replaced by which name, and what is reached by jumps alone."""

from __future__ import annotations

from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.errors import GraphError
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.model import JumpEntry, JumpTable, Node


@cs.task
def source(n: int = 0) -> int:
    return n


@cs.task
def step(x: Any, y: Any = None, *rest: Any, **named: Any) -> Any:
    return x


@cs.task
def plain(x: Any, y: Any = None) -> Any:
    return x


def compiled(target: Any) -> tuple[Compilation, list[Node]]:
    compilation = Compilation(target, {})
    return compilation, list(compilation.nodes())


def names(nodes: list[Node]) -> list[str]:
    return [node.spec.name for node in nodes]


def test_a_graph_without_selectors_has_no_tables() -> None:
    compilation, _ = compiled(plain(source(1)))
    assert compilation.jump_tables == []
    assert compilation.jump_entries == []


def test_a_call_may_lead_to_itself() -> None:
    call = plain(1)
    cs.bind(call, cs.select_jump({"again": call, "end": None}))
    compilation, nodes = compiled(call)
    assert names(nodes) == ["plain"]
    assert compilation.jump_tables == [JumpTable(0, ("again", "end"), (0, -1))]
    assert compilation.jump_entries == [JumpEntry(0, ("x", "y"), ())]


def test_what_jumps_alone_reach_comes_after_the_target() -> None:
    far = plain(source(1), y=source(2))
    start = cs.bind(plain(0), cs.select_jump({"far": far, "end": None}))
    compilation, nodes = compiled(start)
    assert names(nodes)[compilation.target_index] == "plain"
    assert len(nodes) == 4
    [table] = compilation.jump_tables
    assert table.node == compilation.target_index
    entry = table.targets[0]
    assert [edge.source for edge in nodes[entry].edges] == [1, 2]
    assert table.targets[1] == -1


def test_jumps_may_lead_back_and_forth() -> None:
    first, second = plain(1), plain(2)
    cs.bind(first, cs.select_jump({"on": second}))
    cs.bind(second, cs.select_jump({"back": first, "end": None}))
    compilation, nodes = compiled(first)
    assert len(nodes) == 2
    assert {table.node: table.targets for table in compilation.jump_tables} == {0: (1,), 1: (0, -1)}


def test_an_entry_says_which_inputs_a_name_replaces() -> None:
    shared = source(3)
    call = step([shared, source(1)], shared, source(2), k=source(4))
    cs.bind(call, cs.select_jump({"again": call}))
    compilation, nodes = compiled(call)
    [entry] = compilation.jump_entries
    assert entry.names == ("x", "y", "*rest", "k", "**")
    arguments = {}
    for edge, uses in zip(nodes[compilation.target_index].edges, entry.inputs, strict=True):
        arguments[edge.source] = [entry.names[use] for use in uses]
    assert sorted(arguments.values()) == [["*rest"], ["k"], ["x"], ["x", "y"]]


def test_keys_that_cannot_be_encoded_still_compile() -> None:
    class Odd:
        pass

    key = Odd()
    call = plain(1)
    cs.bind(call, cs.select_jump({key: call}))
    compilation, _ = compiled(call)
    assert compilation.jump_tables[0].keys == (key,)


def test_a_jump_does_not_lead_to_a_stage_that_lets_its_input_pass() -> None:
    stage = plain(source(1)).run_if(source(2)).passthrough()
    start = cs.bind(plain(0), cs.select_jump({"on": stage}))
    with pytest.raises(GraphError, match="lets its first argument pass"):
        assert compiled(start)[0].jump_entries
