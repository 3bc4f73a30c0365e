"""Pictures and dry runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client.records import NodeInfo
from cascade_dist.graph.build import build

ran: list[int] = []


@cs.task
def load(n: int = 0) -> int:
    ran.append(n)
    return n


@cs.task
def join(left: Any, right: Any = None, **more: Any) -> Any:
    return left


def diamond() -> Any:
    top = load()
    left, right = join(top), join(top, "lit")
    return join(left, right=right)


# --- S92 --------------------------------------------------------------------------------------------


def test_s92_a_diamond_as_dot() -> None:
    dot = cs.visualize(diamond())
    assert dot.startswith("digraph")
    assert dot.endswith("}")
    assert dot.count('label="join\\n(task)"') == 3
    assert dot.count('label="load\\n(task)"') == 1
    assert 'n0 -> n1 [label="0"];' in dot
    assert 'n2 -> n3 [label="right"];' in dot
    assert ran == []


def test_s92_conditions_are_dashed_gray() -> None:
    dot = cs.visualize(join(1).run_if(load()).after(load(2)))
    assert 'n0 -> n2 [style=dashed, color=gray, label="run_if"];' in dot
    assert 'n1 -> n2 [style=dotted, color=gray, label="after"];' in dot


def test_containers_and_maps_have_nodes_of_their_own() -> None:
    xs = load()
    dot = cs.visualize([join.map(left=[1, 2]).run_if(xs), join.map(left=xs, right=cs.unmapped(xs))])
    for label in (
        "gather\\n(gather)",
        "join[1]\\n(task)",
        "join.map\\n(map)",
        "join.gate\\n(gate)",
        "join\\n(map)",
    ):
        assert f'label="{label}"' in dot
    assert '[penwidth=2, label="left (each)"]' in dot
    assert '[label="right"]' in dot


def test_long_maps_are_folded() -> None:
    dot = cs.visualize(join.map(left=range(1000)).run_if(load()))
    assert 'label="join\\n(993 more)"' in dot
    assert dot.count("\n") < 60


def test_mermaid() -> None:
    text = cs.visualize(join(load(), right=[load(1)]).run_if(load(2)), format="mermaid")
    assert text.startswith("flowchart TD\n")
    assert 'n0["load<br/>(task)"]' in text
    assert 'n0 -->|"0"| n3' in text
    assert 'n2 -.->|"run_if"| n3' in text
    assert "linkStyle 2 stroke:gray" in text


def test_names_are_escaped() -> None:
    odd = cs.task(lambda: 1, name='a "b" <c> \\ #\nd')
    assert 'label="a \\"b\\" <c> \\\\ #\\nd\\n(task)"' in cs.visualize(odd())
    assert '"a #quot;b#quot; #lt;c#gt; \\ #35;<br/>d<br/>(task)"' in cs.visualize(odd(), format="mermaid")


def test_a_picture_needs_no_params_and_says_what_it_cannot_draw() -> None:
    assert "join" in cs.visualize(join(cs.Param("n"), join.map(left=cs.Param("xs"))))
    with pytest.raises(ValueError, match="'dot', 'mermaid'"):
        cs.visualize(load(), format="png")
    with pytest.raises(cs.GraphError):
        cs.visualize(5)


# --- S93 --------------------------------------------------------------------------------------------


def test_s93_a_dry_run_prints_the_plan_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = cs.dry_run(diamond())
    assert capsys.readouterr().out == text
    assert text.splitlines() == [
        "4 nodes, 4 edges",
        "0  load()",
        "1  join(#0)",
        "2  join(#0, 'lit')",
        "3  join(#1, right=#2)  ← target",
    ]
    assert ran == []


def test_s93_list_targets_show_the_gather_node() -> None:
    text = cs.dry_run([load(1), "lit", {"k": load(2)}], quiet=True)
    assert text.splitlines()[-1] == "2  gather [#0, 'lit', {'k': #1}]  ← target"


def test_a_dry_run_shows_conditions_order_and_policies(capsys: pytest.CaptureFixture[str]) -> None:
    flag, before = load(1), load(2)
    target = join(cs.Param("n")).run_if(flag).after(before).with_retry(3).with_timeout(2.5)
    target.with_constraints(gpu=0.5).with_priority(4)
    text = cs.dry_run(target, {"n": 7}, quiet=True)
    expected = (
        "2  join(7)  if #0  after #1  cpu=1, gpu=0.5  at most 3 attempts  timeout 2.5 s  priority 4  ← target"
    )
    assert text.splitlines()[-1] == expected.replace("cpu=1, ", "")
    assert capsys.readouterr().out == ""
    with pytest.raises(cs.ParamMissingError):
        cs.dry_run(target)


def test_a_dry_run_folds_long_maps_and_shows_lazy_ones() -> None:
    xs = load()
    text = cs.dry_run([join.map(left=range(100)), join.map(left=xs, right=cs.unmapped([xs]))], quiet=True)
    lines = text.splitlines()
    assert "join[4](left=4)" in lines[5]
    assert lines[6].strip() == "… 95 more of join"
    assert "join.map [#0 … #99]" in lines[7]
    assert "join(left=each of #101, right=[#101])" in lines[9]


def test_a_long_plan_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_dist.graph.dry_run.LINES_MAX", 10)
    lines = cs.dry_run([load(n) for n in range(50)], quiet=True).splitlines()
    assert len(lines) == 13
    assert lines[-2].strip() == "… 41 more"
    assert lines[-1].startswith("50  gather [#0, #1")


def test_large_literals_are_shortened() -> None:
    text = cs.dry_run(join(list(range(10_000)), "x" * 10_000), quiet=True)
    assert len(text) < 300
    assert re.search(r"join\(\[0, 1, 2, 3, 4, 5, \.\.\.\], 'x+\.\.\.x+'\)", text)


# --- routers, stages, amounts ---------------------------------------------------------------------------


def branching() -> Any:
    """A graph with an edge of every kind but those of maps."""
    routed = cs.Router(load(), {"x": load(1), 2: [load(2), "lit"]})
    stage = cs.pipeline("seed", [lambda v: join(v).run_if(load(3))])
    return join(routed, stage).after(load(4)).with_constraints(gpu=load(5), cpu=2)


def test_s92_routers_and_amounts_as_dot() -> None:
    dot = cs.visualize(branching())
    assert 'label="router\\n(router)", shape=diamond' in dot
    assert "label=\"'seed'\\n(literal)\", shape=note" in dot
    assert '[color=darkgreen, label="selector"];' in dot
    assert "[color=darkorange, label=\"'x'\"];" in dot
    assert '[color=darkorange, label="2"];' in dot
    assert '[style=dotted, color=purple, label="gpu"];' in dot
    assert '[style=dashed, color=gray, label="run_if"];' in dot
    assert ran == []


def test_routers_and_amounts_as_mermaid() -> None:
    text = cs.visualize(branching(), format="mermaid")
    assert '{"router<br/>(router)"}' in text
    assert re.search(r"linkStyle \d+ stroke:darkgreen", text)
    assert len(re.findall(r"linkStyle \d+ stroke:darkorange", text)) == 2
    assert re.search(r"linkStyle \d+ stroke:purple", text)


def test_s92_jumps_are_bold_blue() -> None:
    graph = build(join(load()))
    graph.jumps.append((1, 0, "'again'"))
    assert "n1 -> n0 [style=bold, color=blue, constraint=false, label=\"'again'\"];" in cs.visualize(graph)
    assert "n1 ==>|\"'again'\"| n0" in cs.visualize(graph, format="mermaid")


class Live:
    """What `visualize` asks of a run."""

    def __init__(self, target: Any, *states: NodeInfo) -> None:
        self.target = target
        self.states = states

    def graph(self) -> Any:
        return build(self.target)

    def node_states(self) -> Any:
        return self.states


def test_a_run_is_coloured_by_where_its_nodes_stand() -> None:
    live = Live(
        join(load()),
        NodeInfo(0, "load", "done", "", ""),
        NodeInfo(1, "join", "skipped", "", "ConditionFalse"),
    )
    dot = cs.visualize(live)
    assert 'label="load\\n(task, done)", shape=box, style=filled, fillcolor=palegreen' in dot
    assert "(task, skipped: ConditionFalse)" in dot
    assert "fillcolor=lightgray" in dot
    text = cs.visualize(live, format="mermaid")
    assert "style n0 fill:palegreen" in text


def test_states_of_another_graph_colour_nothing() -> None:
    live = Live(join(load()), NodeInfo(0, "step", "done", "", ""), NodeInfo(9, "load", "done", "", ""))
    assert "fillcolor" not in cs.visualize(live)


def test_a_notebook_shows_svg_where_graphviz_is_and_mermaid_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = cs.visualize(branching())
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = picture._repr_mimebundle_()
    assert shown["text/plain"] == picture
    assert shown["text/markdown"].startswith("```mermaid\nflowchart TD\n")
    program = tmp_path / "dot"
    for body, kind in (
        ('/bin/cat > "$0.in"; echo "<?xml?><svg a=1>drawn</svg>"', "image/svg+xml"),
        ("exit 1", "text/markdown"),
        ("echo no picture", "text/markdown"),
    ):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        assert kind in picture._repr_mimebundle_()
    assert (tmp_path / "dot.in").read_text() == picture


def test_s93_routers_stages_and_amounts_in_a_dry_run() -> None:
    text = cs.dry_run(branching(), quiet=True)
    assert "router on #0 {'x': #1, 2: #3}" in text
    assert "literal 'seed'" in text
    assert re.search(r"gather \[#2, 'lit'\]", text)
    assert re.search(r"join\(#5\)  if #6  passed through when skipped", text)
    assert re.search(r"join\(#4, #7\)  after #8  gpu=#9  cpu=2  ← target", text)
    many = cs.dry_run(cs.Router(load(), dict.fromkeys(range(50), 1)), quiet=True)
    assert "19: #1, … 30 more}" in many
    assert ran == []
