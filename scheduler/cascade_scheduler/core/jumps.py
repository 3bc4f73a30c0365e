"""Jumps: what of a graph a run needs when it goes to one of its nodes, with some arguments replaced.

The frame of a jump is a graph of its own: the node that is jumped to and all that it needs, but for what only
replaced arguments needed. Its columns are made once for each node and set of replaced names, and so is its
plan; what differs from jump to jump is the data, which is laid over the node's arguments.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from cascade_scheduler.core.graph import EdgeKind, Graph, JumpEntry, NodeKind, Spec

__all__ = ["Part", "UnknownName", "dropped_inputs", "names_of", "part_of"]

NONE = b"\x80\x05N."
"""The pickle of None, in the place of an input that is not needed."""
_REPLACED = Spec(NodeKind.LITERAL, "replaced")
_ID_BYTES = 16
ANY_NAME = "**"
FIRST = ""
"""The name of whatever parameter is the first."""


class UnknownName(Exception):
    """A jump replaces an argument that there is not; the text names it and those that there are."""


class Part(NamedTuple):
    """A part of a graph, as columns without literals; good for every graph of the same columns."""

    columns: Graph
    order: tuple[int, ...]
    """Per node: which of the whole graph's it is; -1: the place of inputs that are not needed."""

    def graph(self, base: Graph, overrides: bytes = b"") -> Graph:
        """The part, with the literals of the whole."""
        order, columns = self.order, self.columns
        ids = [base.node_id(node) if node >= 0 else bytes(_ID_BYTES) for node in order]
        made = columns.with_literals(
            b"".join(ids), [base.node_args[node] if node >= 0 else NONE for node in order]
        )
        made.specs = [*base.specs, _REPLACED] if order[0] < 0 else base.specs
        made.functions = base.functions
        made.jumps = {at: base.jumps[n] for at, n in enumerate(order) if n in base.jumps}
        if base.timers:
            made.timers = {at: base.timers[n] for at, n in enumerate(order) if n in base.timers}
        if base.blob_args or base.blob_inputs:
            made.blob_args = {at: base.blob_args[n] for at, n in enumerate(order) if n in base.blob_args}
            made.blob_inputs = {
                at: base.blob_inputs[n] for at, n in enumerate(order) if n in base.blob_inputs
            }
        made.base = base
        made.overrides = overrides
        return made


def names_of(entry: JumpEntry, names: Iterable[str], task: str) -> frozenset[int]:
    """Which of a node's parameters a jump replaces.

    Raises:
        UnknownName: the node has no such parameter.
    """
    known = [name for name in entry.names if name != ANY_NAME]
    found: set[int] = set()
    for name in names:
        if name == FIRST and known:
            found.add(0)
        elif name in known and not name.startswith("*"):
            found.add(known.index(name))
        elif ANY_NAME not in entry.names or name == FIRST:
            told = ", ".join(repr(each) for each in known if not each.startswith("*")) or "none"
            what = "a first parameter" if name == FIRST else f"a parameter {name!r}"
            raise UnknownName(f"a jump gives {task!r} data for {what}, which it does not have; it has {told}")
    return frozenset(found)


def dropped_inputs(entry: JumpEntry, names: frozenset[int]) -> frozenset[int]:
    """Inputs, by ordinal, that stand in replaced parameters alone."""
    if not names:
        return frozenset()
    return frozenset(at for at, uses in enumerate(entry.inputs) if uses and names.issuperset(uses))


def part_of(base: Graph, target: int, dropped: frozenset[int] = frozenset()) -> Part:
    """What a node needs, and the node, without those of its inputs that are not needed."""
    start, source, kinds = base.edge_start, base.edge_source, base.edge_kind
    cut = _edges_of_inputs(base, target, dropped)
    needed = {target}
    todo = [target]
    while todo:
        node = todo.pop()
        for edge in range(start[node], start[node + 1]):
            if edge not in cut and source[edge] not in needed:
                needed.add(source[edge])
                todo.append(source[edge])
    nodes = sorted(needed)
    order = (-1, *nodes) if cut else tuple(nodes)
    index = {node: at for at, node in enumerate(order)}
    degrees: list[int] = []
    sources = array("I")
    kept_kinds = bytearray()
    amount_names: dict[int, str] = {}
    for node in order:
        first, last = (0, 0) if node < 0 else (start[node], start[node + 1])
        degrees.append(last - first)
        for edge in range(first, last):
            if edge in base.amount_names:
                amount_names[len(sources)] = base.amount_names[edge]
            sources.append(0 if edge in cut else index[source[edge]])
        kept_kinds += kinds[first:last]
    columns = Graph(
        specs=[*base.specs, _REPLACED] if cut else base.specs,
        functions=base.functions,
        node_spec=array("I", [base.node_spec[node] if node >= 0 else len(base.specs) for node in order]),
        node_ids=b"",
        node_args=[],
        edge_start=array("L", accumulate(degrees, initial=0)),
        edge_source=sources,
        edge_kind=bytes(kept_kinds),
        target=index[target],
        maps=_ranges(base, nodes, len(order) - len(nodes)),
        map_columns={index[n]: length for n, length in base.map_columns.items() if n in index},
        amount_names=amount_names,
    )
    return Part(columns, order)


def _edges_of_inputs(base: Graph, node: int, ordinals: frozenset[int]) -> frozenset[int]:
    found = []
    ordinal = 0
    for edge in range(base.edge_start[node], base.edge_start[node + 1]):
        if base.edge_kind[edge] in (EdgeKind.DATA, EdgeKind.ITEMS):
            if ordinal in ordinals:
                found.append(edge)
            ordinal += 1
    return frozenset(found)


def _ranges(base: Graph, nodes: list[int], shift: int) -> list[tuple[int, int]]:
    """The maps whose children are in the part: all of a map's are, or none."""
    found = []
    for first, count in base.maps:
        at = bisect_left(nodes, first)
        if count and at < len(nodes) and nodes[at] == first:
            found.append((at + shift, count))
    return found
