"""A graph as a picture, in the languages of Graphviz and Mermaid."""

from __future__ import annotations

import re
import reprlib
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from cascade_dist.graph.build import build
from cascade_dist.graph.model import EdgeKind, Graph, Node, NodeKind

__all__ = ["Picture", "visualize"]

CHILDREN_MAX = 8
"""So many children of one map are drawn; the others are counted."""
SVG_SECONDS = 10.0
SVG_NODES_MAX = 2_000
"""Graphs with more nodes are shown as text: Graphviz takes minutes for them."""

_KINDS: Final = {
    NodeKind.CALL: "task",
    NodeKind.GATHER: "gather",
    NodeKind.COLLECT: "map",
    NodeKind.GATE: "gate",
    NodeKind.MAP: "map",
    NodeKind.ROUTER: "router",
    NodeKind.LITERAL: "literal",
    NodeKind.WAIT: "wait",
    NodeKind.RECV: "recv",
}
_SHAPES: Final = {
    NodeKind.CALL: "box",
    NodeKind.MAP: "box3d",
    NodeKind.ROUTER: "diamond",
    NodeKind.LITERAL: "note",
}
_OUTLINES: Final = {NodeKind.CALL: ("[", "]"), NodeKind.MAP: ("[", "]"), NodeKind.ROUTER: ("{", "}")}
"""Of Mermaid; other kinds are rounded."""


class _Style(NamedTuple):
    """How edges of one kind are drawn."""

    dot: str
    color: str = ""
    arrow: str = "-->"
    word: str = ""
    """The label where the edge has none."""


_EDGES: Final = {
    EdgeKind.DATA: _Style(""),
    EdgeKind.ITEMS: _Style("penwidth=2"),
    EdgeKind.SELECTOR: _Style("color=darkgreen", "darkgreen"),
    EdgeKind.ROUTE: _Style("color=darkorange", "darkorange"),
    EdgeKind.CONDITION: _Style("style=dashed, color=gray", "gray", "-.->", "run_if"),
    EdgeKind.GATE: _Style("style=dashed, color=gray", "gray", "-.->", "gate"),
    EdgeKind.SEQUENCE: _Style("style=dotted, color=gray", "gray", "-.->", "after"),
    EdgeKind.AMOUNT: _Style("style=dotted, color=purple", "purple", "-.->", "delay"),
}
_JUMP: Final = _Style("style=bold, color=blue, constraint=false", "blue", "==>")

_COLORS: Final = {
    "running": "lightblue",
    "sent ahead": "lightblue",
    "ready": "lightyellow",
    "waiting to retry": "orange",
    "done": "palegreen",
    "skipped": "lightgray",
    "failed": "salmon",
}
"""By state of a node; those that wait have no colour."""


class _State(Protocol):
    """Where a node stands."""

    @property
    def node(self) -> int: ...
    @property
    def task(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...


@runtime_checkable
class _Running(Protocol):
    """A run, which says where its nodes stand."""

    def graph(self) -> Graph:
        """The graph."""

    def node_states(self) -> Sequence[_State]:
        """Its nodes."""


class Picture(str):
    """The text of a picture; a notebook shows it drawn, by Graphviz where ``dot`` is installed."""

    __slots__ = ("_drawing",)

    _drawing: _Drawing

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        svg = _svg(self._drawing)
        if svg is not None:
            return {"image/svg+xml": svg, "text/plain": str(self)}
        mermaid = "\n".join(_mermaid(self._drawing))
        return {"text/markdown": f"```mermaid\n{mermaid}\n```", "text/plain": str(self)}


def visualize(target: Any, *, format: str = "dot", params: Mapping[str, Any] | None = None) -> Picture:
    """The graph of a target as text: Graphviz DOT, or Mermaid. Nothing runs.

    Args:
        target: what `cs.run` would take; or a `Run`, whose nodes are coloured by where they stand now.
        format: "dot" or "mermaid".
        params: values of the target's params; none has to be given for a picture.

    Raises:
        GraphError: no graph can be made of the target.
        ValueError: there is no such format.
    """
    drawers: dict[str, Callable[[_Drawing], Iterator[str]]] = {"dot": _dot, "mermaid": _mermaid}
    drawer = drawers.get(format)
    if drawer is None:
        raise ValueError(f"format is {format!r}: it is one of {', '.join(map(repr, drawers))}")
    drawing = _drawing_of(target, params)
    picture = Picture("\n".join(drawer(drawing)))
    picture._drawing = drawing
    return picture


# --- what is drawn --------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A node as it is drawn."""

    kind: NodeKind
    label: str
    color: str
    is_target: bool


class _Arrow(NamedTuple):
    """An edge as it is drawn."""

    source: int
    target: int
    style: _Style
    label: str


class _Drawing(NamedTuple):
    """A graph without what is left out."""

    shapes: dict[int, _Shape]
    arrows: list[_Arrow]


def _drawing_of(target: Any, params: Mapping[str, Any] | None) -> _Drawing:
    if isinstance(target, Graph):
        return _drawing(target, {})
    if isinstance(target, _Running):
        graph = target.graph()
        # A loop has gone on to another graph: what is said of that one's nodes is not said of these.
        known = {state.node: state for state in target.node_states() if _is_same(graph, state)}
        return _drawing(graph, known)
    return _drawing(build(target, params, require_params=False), {})


def _is_same(graph: Graph, state: _State) -> bool:
    if state.node >= len(graph.nodes):
        return False
    node = graph.nodes[state.node]
    return state.task in (node.name, node.spec.name)


def _hidden(graph: Graph) -> dict[int, int]:
    """By node index, the children that are not drawn, and the first of them, which stands for them."""
    hidden = {}
    for children in graph.maps:
        stand_in = children.first + CHILDREN_MAX - 1
        for index in range(stand_in, children.first + children.count):
            if children.count > CHILDREN_MAX:
                hidden[index] = stand_in
    return hidden


def _drawing(graph: Graph, states: Mapping[int, _State]) -> _Drawing:
    hidden = _hidden(graph)
    left_out = Counter(hidden.values())
    shapes: dict[int, _Shape] = {}
    edges: dict[tuple[int, int, EdgeKind], str] = {}
    for node in graph.nodes:
        at = hidden.get(node.index, node.index)
        if at not in shapes:
            state = None if at in left_out else states.get(at)
            label = f"{node.spec.name}\n({left_out[at]} more)" if at in left_out else _label(node, state)
            color = _COLORS.get(state.state, "") if state is not None else ""
            shapes[at] = _Shape(node.spec.kind, label, color, node.index == graph.target)
        for edge in node.edges:
            key = (hidden.get(edge.source, edge.source), at, edge.kind)
            label = edge.arg or _EDGES[edge.kind].word
            if edge.kind is EdgeKind.ITEMS:
                label = f"{edge.arg} (each)"
            known = edges.get(key)
            edges[key] = label if known in (None, label) else f"{known}, {label}"
    arrows = [_Arrow(source, at, _EDGES[kind], label) for (source, at, kind), label in edges.items()]
    arrows += [_Arrow(source, at, _JUMP, label) for source, at, label in graph.jumps]
    return _Drawing(shapes, arrows)


def _label(node: Node, state: _State | None) -> str:
    kind = node.spec.kind
    name = node.name
    if kind is NodeKind.LITERAL:
        name = reprlib.repr(node.value)
    elif kind is NodeKind.GATHER:
        name = node.spec.name
    words = _KINDS[kind]
    if state is not None:
        words += f", {state.state}" + (f": {state.reason}" if state.reason else "")
    return f"{name}\n({words})"


# --- Graphviz -------------------------------------------------------------------------------------


def _dot(drawing: _Drawing) -> Iterator[str]:
    yield "digraph CascadeWorkflow {"
    yield '    rankdir="TB";'
    for index, (kind, label, color, is_target) in drawing.shapes.items():
        shape = _SHAPES.get(kind, "ellipse")
        bold = ", penwidth=2" if is_target else ""
        filled = f", style=filled, fillcolor={color}" if color else ""
        yield f'    n{index} [label="{_dot_text(label)}", shape={shape}{bold}{filled}];'
    for source, target, style, label in drawing.arrows:
        parts = (style.dot, f'label="{_dot_text(label)}"' if label else "")
        attributes = ", ".join(part for part in parts if part)
        yield f"    n{source} -> n{target}" + (f" [{attributes}];" if attributes else ";")
    yield "}"


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _svg(drawing: _Drawing) -> str | None:
    """The picture drawn by Graphviz; None where that is not installed, or does not get it done."""
    program = shutil.which("dot")
    if program is None or len(drawing.shapes) > SVG_NODES_MAX:
        return None
    try:
        done = subprocess.run(
            [program, "-Tsvg"],
            input="\n".join(_dot(drawing)),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SVG_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    found = re.search(r"<svg\b.*</svg>", done.stdout, re.DOTALL)
    return found.group() if found else None


# --- Mermaid --------------------------------------------------------------------------------------


def _mermaid(drawing: _Drawing) -> Iterator[str]:
    yield "flowchart TD"
    for index, shape in drawing.shapes.items():
        opening, closing = _OUTLINES.get(shape.kind, ("([", "])"))
        yield f'    n{index}{opening}"{_mermaid_text(shape.label)}"{closing}'
    for source, target, style, label in drawing.arrows:
        named = f'|"{_mermaid_text(label)}"| ' if label else " "
        yield f"    n{source} {style.arrow}{named}n{target}"
    for number, arrow in enumerate(drawing.arrows):
        if arrow.style.color:
            yield f"    linkStyle {number} stroke:{arrow.style.color}"
    for index, shape in drawing.shapes.items():
        if shape.color:
            yield f"    style n{index} fill:{shape.color}"


def _mermaid_text(text: str) -> str:
    for sign, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", "<br/>")):
        text = text.replace(sign, entity)
    return text
