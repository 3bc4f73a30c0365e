"""What a run would do, as text."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from cascade_dist.graph.build import build
from cascade_dist.graph.model import MICROS, EdgeKind, Graph, Node, NodeKind, TaskSpec

__all__ = ["dry_run"]

LINES_MAX = 10_000
CHILDREN_MAX = 5
"""So many children of one map are listed; the others are counted."""
ROUTES_MAX = 20
"""So many routes of one router are listed; the others are counted."""


def dry_run(
    target: Any, params: Mapping[str, Any] | None = None, *, file: IO[str] | None = None, quiet: bool = False
) -> str:
    """Prints the plan of a target, in order, with the literals that calls are bound to. Nothing runs.

    Args:
        target: what `cs.run` would take.
        params: as for `cs.run`.
        file: where to print; standard output if None.
        quiet: only return the text.

    Returns:
        The text that was printed.

    Raises:
        GraphError: no graph can be made of the target.
    """
    text = "\n".join(_lines(build(target, params))) + "\n"
    if not quiet:
        print(text, end="", file=file or sys.stdout)
    return text


def _lines(graph: Graph) -> Iterator[str]:
    yield f"{_counted(len(graph.nodes), 'node')}, {_counted(len(graph.edges), 'edge')}"
    width = len(str(len(graph.nodes) - 1))
    folded = {
        children.first + CHILDREN_MAX: children.count - CHILDREN_MAX
        for children in graph.maps
        if children.count > CHILDREN_MAX + 1
    }
    skip_to = 0
    for number, node in enumerate(graph.nodes):
        if number < skip_to and number != graph.target:
            continue
        if number >= LINES_MAX and number != graph.target:
            yield f"{'':{width}}  … {len(graph.nodes) - LINES_MAX} more"
            yield _line(graph, graph.nodes[graph.target], width)
            return
        if number in folded:
            yield f"{'':{width}}  … {folded[number]} more of {node.spec.name}"
            skip_to = number + folded[number]
            continue
        yield _line(graph, node, width)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _line(graph: Graph, node: Node, width: int) -> str:
    structural = node.spec.kind in (NodeKind.GATHER, NodeKind.LITERAL)
    name = node.spec.name if structural else node.name
    parts = [f"{node.index:>{width}}  {name}{_call(node)}", *_needs(node), *_policies(node.spec)]
    if node.index == graph.target:
        parts.append("← target")
    return "  ".join(parts)


def _call(node: Node) -> str:
    bindings = _Bindings(node)
    kind = node.spec.kind
    if kind is NodeKind.GATHER or kind is NodeKind.LITERAL:
        return f" {bindings.repr(node.value)}"
    if kind is NodeKind.GATE:
        return ""
    if kind is NodeKind.ROUTER:
        return _routes(node)
    if node.timer is not None:
        delay, topic = node.timer
        parts = [repr(topic)] if topic else []
        parts += [] if delay is None else [f"{delay:g} s"]
        return f"({', '.join(parts)})"
    if kind is NodeKind.COLLECT:
        count = node.kinds.count(EdgeKind.DATA)
        return f" [#{node.sources[0]} … #{node.sources[count - 1]}]" if count else " []"
    parts = [bindings.repr(value) for value in node.args]
    parts += [f"{name}={bindings.repr(value)}" for name, value in node.kwargs.items()]
    return f"({', '.join(parts)})"


def _routes(node: Node) -> str:
    selector, *routes = node.sources
    keys = node.edge_args[1:]
    parts = [f"{key}: #{route}" for key, route in zip(keys[:ROUTES_MAX], routes, strict=False)]
    if len(routes) > ROUTES_MAX:
        parts.append(f"… {len(routes) - ROUTES_MAX} more")
    return f" on #{selector} {{{', '.join(parts)}}}"


def _needs(node: Node) -> Iterator[str]:
    for kind, word in ((EdgeKind.CONDITION, "if"), (EdgeKind.SEQUENCE, "after"), (EdgeKind.GATE, "gate")):
        sources = [f"#{source}" for source, of in zip(node.sources, node.kinds, strict=True) if of is kind]
        if sources:
            yield f"{word} {', '.join(sources)}"
    amounts = [
        f"{name}=#{source}" if name else f"#{source} s"
        for source, of, name in zip(node.sources, node.kinds, node.edge_args, strict=True)
        if of is EdgeKind.AMOUNT
    ]
    if amounts:
        yield ", ".join(amounts)


def _policies(spec: TaskSpec) -> Iterator[str]:
    usual = ("cpu", MICROS)
    held = [f"{name}={micros / MICROS:g}" for name, micros in spec.amounts if (name, micros) != usual]
    if held:
        yield ", ".join(held)
    if spec.retry is not None:
        yield f"at most {_counted(spec.retry.max_attempts, 'attempt')}"
    if spec.timeout is not None:
        yield f"timeout {spec.timeout:g} s"
    if spec.priority:
        yield f"priority {spec.priority}"
    if spec.pure:
        yield "pure"
    if spec.passthrough:
        yield "passed through when skipped"


class _Bindings(reprlib.Repr):
    """Short texts of arguments, with ``#3`` for the value of node 3."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        data = (EdgeKind.DATA, EdgeKind.ITEMS)
        edges = [
            (source, kind) for source, kind in zip(node.sources, node.kinds, strict=True) if kind in data
        ]
        self._names = {
            id(lazy): f"each of #{source}" if kind is EdgeKind.ITEMS else f"#{source}"
            for lazy, (source, kind) in zip(node.inputs, edges, strict=False)
        }

    def repr1(self, x: Any, level: int) -> str:
        return self._names.get(id(x)) or super().repr1(x, level)
