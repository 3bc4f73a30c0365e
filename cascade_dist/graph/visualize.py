"""A graph as a picture, in the languages of Graphviz and Mermaid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cascade_dist.graph.build import build
from cascade_dist.graph.model import EdgeKind, Graph, NodeKind

__all__ = ["visualize"]

CHILDREN_MAX = 8
"""So many children of one map are drawn; the others are counted."""

_KINDS = {
    NodeKind.CALL: "task",
    NodeKind.GATHER: "gather",
    NodeKind.COLLECT: "map",
    NodeKind.GATE: "gate",
    NodeKind.MAP: "map",
}
_SHAPES = {NodeKind.CALL: "box", NodeKind.MAP: "box3d"}
_EDGES = {
    EdgeKind.DATA: "",
    EdgeKind.ITEMS: "penwidth=2",
    EdgeKind.CONDITION: "style=dashed, color=gray",
    EdgeKind.GATE: "style=dashed, color=gray",
    EdgeKind.SEQUENCE: "style=dotted, color=gray",
}
_WORDS = {EdgeKind.CONDITION: "run_if", EdgeKind.SEQUENCE: "after", EdgeKind.GATE: "gate"}


def visualize(target: Any, *, format: str = "dot", params: Mapping[str, Any] | None = None) -> str:
    """The graph of a target as text: Graphviz DOT, or Mermaid. Nothing runs.

    Args:
        target: what `cs.run` would take.
        format: "dot" or "mermaid".
        params: values of the target's params; none has to be given for a picture.

    Raises:
        GraphError: no graph can be made of the target.
        ValueError: there is no such format.
    """
    drawers: dict[str, Callable[[Graph], Iterator[str]]] = {"dot": _dot, "mermaid": _mermaid}
    drawer = drawers.get(format)
    if drawer is None:
        raise ValueError(f"format is {format!r}: it is one of {', '.join(map(repr, drawers))}")
    return "\n".join(drawer(build(target, params, require_params=False)))


def _hidden(graph: Graph) -> dict[int, int]:
    """By node index, the children that are not drawn, and the first of them, which stands for them."""
    hidden = {}
    for children in graph.maps:
        stand_in = children.first + CHILDREN_MAX - 1
        for index in range(stand_in, children.first + children.count):
            if children.count > CHILDREN_MAX:
                hidden[index] = stand_in
    return hidden


def _drawn(graph: Graph) -> tuple[dict[int, str], dict[tuple[int, int, EdgeKind], str]]:
    """Labels by node, and labels by edge, without what is left out."""
    hidden = _hidden(graph)
    left_out = Counter(hidden.values())
    nodes = {}
    edges: dict[tuple[int, int, EdgeKind], str] = {}
    for node in graph.nodes:
        at = hidden.get(node.index, node.index)
        if at in left_out:
            nodes[at] = f"{node.spec.name}\n({left_out[at]} more)"
        else:
            nodes[at] = f"{node.name}\n({_KINDS[node.spec.kind]})"
        for edge in node.edges:
            key = (hidden.get(edge.source, edge.source), at, edge.kind)
            label = edge.arg or _WORDS.get(edge.kind, "")
            if edge.kind is EdgeKind.ITEMS:
                label = f"{edge.arg} (each)"
            known = edges.get(key)
            edges[key] = label if known in (None, label) else f"{known}, {label}"
    return nodes, edges


def _dot(graph: Graph) -> Iterator[str]:
    nodes, edges = _drawn(graph)
    yield "digraph CascadeWorkflow {"
    yield '    rankdir="TB";'
    for index, label in nodes.items():
        shape = _SHAPES.get(graph.nodes[index].spec.kind, "ellipse")
        bold = ", penwidth=2" if index == graph.target else ""
        yield f'    n{index} [label="{_dot_text(label)}", shape={shape}{bold}];'
    for (source, target, kind), label in edges.items():
        parts = (_EDGES[kind], f'label="{_dot_text(label)}"' if label else "")
        attributes = ", ".join(part for part in parts if part)
        yield f"    n{source} -> n{target}" + (f" [{attributes}];" if attributes else ";")
    yield "}"


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _mermaid(graph: Graph) -> Iterator[str]:
    nodes, edges = _drawn(graph)
    yield "flowchart TD"
    for index, label in nodes.items():
        opening, closing = ("[", "]") if graph.nodes[index].spec.kind in _SHAPES else ("([", "])")
        yield f'    n{index}{opening}"{_mermaid_text(label)}"{closing}'
    styles = []
    for number, ((source, target, kind), label) in enumerate(edges.items()):
        arrow = "-->" if kind in (EdgeKind.DATA, EdgeKind.ITEMS) else "-.->"
        yield f"    n{source} {arrow}" + (f'|"{_mermaid_text(label)}"| ' if label else " ") + f"n{target}"
        if kind not in (EdgeKind.DATA, EdgeKind.ITEMS):
            styles.append(f"    linkStyle {number} stroke:gray")
    yield from styles


def _mermaid_text(text: str) -> str:
    for sign, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", "<br/>")):
        text = text.replace(sign, entity)
    return text
