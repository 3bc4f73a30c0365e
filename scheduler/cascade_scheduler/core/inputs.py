"""What an attempt is given: the values of a node's inputs, put together from what the run holds."""

from __future__ import annotations

from collections.abc import Iterator

from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.values import (
    PICKLED_NONE,
    BlobValue,
    CompoundValue,
    DeferredValue,
    ItemValue,
    ListValue,
    ObjectValue,
    Value,
)

__all__ = ["of_node", "parts", "plain_value", "value_of"]

TOGETHER_BYTES_MAX = 64 * 1024
"""A list or container with more bytes in it is fetched as a stream, never part of an assignment."""
TOGETHER_LEAVES_MAX = 2048
_LEAF_BYTES = 16
_DEPTH_MAX = 32


def of_node(run: Run, node: int) -> tuple[Value, ...]:
    """The inputs of a node that runs code, in the order of their ordinals."""
    graph, origin = run.graph, node
    if node < graph.size:
        first, last = graph.edge_start[node], graph.edge_start[node + 1]
        if first == last:
            return graph.blob_inputs.get(node, ())
        values = [value_of(run, s) for s in graph.inputs(node)]
    else:
        origin, index = run.origin(node)
        values = [
            item_of(run, s, index) if kind == EdgeKind.ITEMS else value_of(run, s)
            for s, kind in graph.sources(origin)
            if kind in (EdgeKind.DATA, EdgeKind.ITEMS)
        ]
    blobs = graph.blob_inputs.get(origin)
    return tuple(values) if not blobs else (*values, *blobs)


def item_of(run: Run, node: int, index: int) -> Value:
    """One item of the list that a node's value is."""
    node = run.resolve(node)
    expansion = run.expansions.get(node)
    if expansion is not None:
        return value_of(run, expansion.first + index)
    items = run.items.get(node)
    if items is not None:
        return items[index]
    if node < run.graph.size and run.graph.spec(node).kind == NodeKind.COLLECT:
        return value_of(run, run.graph.inputs(node)[index])
    value = run.values[node]
    assert not isinstance(value, bytes), "a list that was mapped over came without its items"
    return ItemValue(value, index)


def value_of(run: Run, node: int) -> Value:
    """A node's value; a list or container that would be too large comes by name."""
    if run.picks is not None:
        node = run.resolve(node)
    value = run.values.get(node)
    if value is not None:
        return value
    built = run.built.get(node)
    if built is None:
        built = run.built[node] = _build(run, node)
    return built


def plain_value(run: Run, node: int) -> bytes | BlobValue | None:
    """The value of a structural node that is no list and no container of others' values."""
    kind = run.graph.spec(node).kind
    if kind == NodeKind.LITERAL:
        return run.graph.blob_args.get(node) or run.graph.node_args[node]
    if kind == NodeKind.WAIT:
        return PICKLED_NONE
    return run.received[node] if kind == NodeKind.RECV else None


def parts(run: Run, node: int) -> tuple[bytes | BlobValue | None, Iterator[Value]]:
    """A structural node's value in parts: its template (None: a list) and its inputs' values."""
    graph = run.graph
    if graph.spec(node).kind == NodeKind.GATHER:
        template = graph.blob_args.get(node) or graph.node_args[node]
        return template, (value_of(run, s) for s in graph.inputs(node))
    return None, (value_of(run, s) for s in _listed(run, node))


def _listed(run: Run, node: int) -> list[int]:
    expansion = run.expansions.get(node)
    if expansion is not None:
        return list(range(expansion.first, expansion.first + expansion.size))
    return run.graph.inputs(node)


def _build(run: Run, node: int) -> Value:
    plain = plain_value(run, node)
    if plain is not None:
        return plain
    size = _size(run, node, 0)
    if size > TOGETHER_BYTES_MAX:
        return DeferredValue(run.frame_id, node)
    template, inputs = parts(run, node)
    if template is None:
        return ListValue(tuple(inputs))
    return CompoundValue(template, tuple(inputs))


def _size(run: Run, node: int, depth: int) -> int:
    """Bytes of a structural value, or more than the bound."""
    sources = _listed(run, node) if node in run.expansions else run.graph.inputs(node)
    if len(sources) > TOGETHER_LEAVES_MAX or depth > _DEPTH_MAX:
        return TOGETHER_BYTES_MAX + 1
    size = len(run.graph.node_args[node]) + len(run.received.get(node, b""))
    for source in map(run.resolve, sources):
        value = run.values.get(source)
        if isinstance(value, bytes):
            size += len(value) + _LEAF_BYTES
        elif isinstance(value, (ObjectValue, BlobValue)):
            size += 4 * _LEAF_BYTES
        else:
            size += _size(run, source, depth + 1)
        if size > TOGETHER_BYTES_MAX:
            return size
    return size
