"""Graphs from messages: whole, checked, and as the client meant them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs
from cascade_dist.codec.cid import cid_of
from cascade_dist.graph.build import Compilation
from cascade_dist.v1 import graph_pb2, value_pb2
from cascade_dist.wire.graphs import Part, encode_graph
from cascade_scheduler.core.graph import EdgeKind, Graph, NodeKind, ResourceRef, Retry, Spec, Timer, validate
from cascade_scheduler.core.plans import solve
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.wire.graphs import GraphAssembly, GraphTooLarge, spec_from, spec_to
from cascade_scheduler.wire.values import BadMessage

CALL, GATHER, MAP = graph_pb2.NODE_KIND_CALL, graph_pb2.NODE_KIND_GATHER, graph_pb2.NODE_KIND_MAP


def assembly(**bounds: int) -> GraphAssembly:
    """An empty one."""
    return GraphAssembly(**{"nodes_max": 1000, "bytes_max": 1 << 20, **bounds})


def chunk_of(nodes: list[list[tuple[int, int]]], *, kinds: int = 1) -> graph_pb2.GraphChunk:
    """Nodes with (source, kind) of their edges; all of one function."""
    chunk = graph_pb2.GraphChunk(
        functions=[graph_pb2.Function(cid=b"c" * 36, name="mod.f")],
        specs=[graph_pb2.TaskSpec(kind=CALL, name=f"f{n}") for n in range(kinds)],
    )
    for number, edges in enumerate(nodes):
        chunk.node_spec.append(number % kinds)
        chunk.node_ids += number.to_bytes(16, "big")
        chunk.node_args.append(b"%d" % number)
        chunk.node_edges.append(len(edges))
        chunk.edge_source.extend(source for source, _ in edges)
        chunk.edge_kind.extend(kind for _, kind in edges)  # type: ignore[misc]
    return chunk


def end_of(chunk: graph_pb2.GraphChunk, **changes: int) -> graph_pb2.GraphEnd:
    """The end of a graph of one chunk."""
    nodes = len(chunk.node_args)
    fields = {"target": nodes - 1, "node_count": nodes, "edge_count": len(chunk.edge_source), **changes}
    return graph_pb2.GraphEnd(**fields)


def split(chunk: graph_pb2.GraphChunk, at: list[int], lag: int) -> list[graph_pb2.GraphChunk]:
    """The same nodes in several chunks; edges come `lag` chunks after their nodes."""
    bounds = [0, *sorted({min(n, len(chunk.node_args)) for n in at}), len(chunk.node_args)]
    parts: list[graph_pb2.GraphChunk] = []
    edges = 0
    for number, (first, last) in enumerate(pairwise(bounds)):
        part = graph_pb2.GraphChunk()
        if not number:
            part.functions.extend(chunk.functions)
            part.specs.extend(chunk.specs)
        part.node_spec.extend(chunk.node_spec[first:last])
        part.node_ids = chunk.node_ids[16 * first : 16 * last]
        part.node_args.extend(chunk.node_args[first:last])
        part.node_edges.extend(chunk.node_edges[first:last])
        parts.append(part)
    parts.extend(graph_pb2.GraphChunk() for _ in range(lag))
    for number, (first, last) in enumerate(pairwise(bounds)):
        count = sum(chunk.node_edges[first:last])
        parts[number + lag].edge_source.extend(chunk.edge_source[edges : edges + count])
        parts[number + lag].edge_kind.extend(chunk.edge_kind[edges : edges + count])
        edges += count
    return parts


@st.composite
def graphs(draw: st.DrawFn) -> graph_pb2.GraphChunk:
    """Graphs that are well formed."""
    count = draw(st.integers(1, 12))
    nodes = [
        draw(st.lists(st.tuples(st.integers(0, node - 1), st.integers(1, 5)), max_size=4)) if node else []
        for node in range(count)
    ]
    return chunk_of(nodes, kinds=draw(st.integers(1, 3)))


@given(graphs(), st.lists(st.integers(0, 12), max_size=4), st.integers(0, 2))
def test_chunks_make_the_graph_however_they_are_cut(
    chunk: graph_pb2.GraphChunk, cuts: list[int], lag: int
) -> None:
    end = end_of(chunk)
    made = assembly()
    for part in split(chunk, cuts, lag):
        made.add(part)
    graph = made.finish(end)
    validate(graph)
    assert len(graph) == len(chunk.node_args)
    assert list(graph.node_args) == list(chunk.node_args)
    assert list(graph.node_spec) == list(chunk.node_spec)
    assert graph.node_ids == chunk.node_ids
    at = 0
    for node, degree in enumerate(chunk.node_edges):
        expected = list(
            zip(chunk.edge_source[at : at + degree], chunk.edge_kind[at : at + degree], strict=True)
        )
        assert graph.sources(node) == expected
        at += degree
    whole = assembly()
    whole.add(chunk)
    assert made.plan_key(end) == whole.plan_key(end)
    solve(graph)


@given(graphs(), st.data())
def test_what_is_taken_is_sound(chunk: graph_pb2.GraphChunk, data: st.DataObject) -> None:
    """Columns with one number changed are refused, or make a graph that the core's own check takes."""
    column = data.draw(
        st.sampled_from(["node_spec", "node_edges", "edge_source", "edge_kind", "target", "node_ids", "maps"])
    )
    number = data.draw(st.integers(0, 20))
    changes = {"target": number} if column == "target" else {}
    if column == "node_ids":
        chunk.node_ids = chunk.node_ids[:number]
    elif column == "maps":
        chunk.maps.add(first=number, count=data.draw(st.integers(0, 20)))
    elif column != "target":
        values = getattr(chunk, column)
        if len(values):
            values[data.draw(st.integers(0, len(values) - 1))] = number
    made = assembly()
    try:
        made.add(chunk)
        graph = made.finish(end_of(chunk, **changes))
    except BadMessage:
        return
    validate(graph)
    solve(graph)
    for node in range(len(graph)):
        graph.name(node)


def spoil(change: Callable[[graph_pb2.GraphChunk], Any]) -> graph_pb2.GraphChunk:
    """A chunk of three nodes with something wrong."""
    chunk = chunk_of([[], [(0, 1)], [(0, 1), (1, 2)]])
    change(chunk)
    return chunk


def make(chunk: graph_pb2.GraphChunk) -> Graph:
    """The graph of one chunk with three edges."""
    made = assembly()
    made.add(chunk)
    return made.finish(end_of(chunk, edge_count=3))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.node_spec.append(0), "node columns of a chunk differ"),
        (lambda c: c.node_edges.pop(), "node columns of a chunk differ"),
        (lambda c: c.edge_kind.pop(), "edge columns of a chunk differ"),
        (lambda c: c.edge_source.__setitem__(0, 1), "node 1 ('f0') has an edge from a node not before it"),
        (lambda c: c.edge_kind.__setitem__(0, 9), "unknown kind"),
        (lambda c: c.node_spec.__setitem__(1, 4), "spec 4, which was not sent"),
        (lambda c: c.node_edges.__setitem__(2, 3), "the edges of node 2 ('f0') are not all there"),
        (lambda c: c.node_edges.__setitem__(2, 1), "1 edges belong to no node"),
        (lambda c: c.ClearField("functions"), "'f0' names function 0, which was not sent"),
        (lambda c: c.specs[0].retry.SetInParent(), "max_attempts=0"),
        (lambda c: setattr(c.specs[0], "kind", 0), "'f0' is a node of unknown kind 0"),
        (
            lambda c: c.specs[0].amounts.extend([graph_pb2.Amount(name="a")] * 2),
            "'f0': the amount 'a' is named twice",
        ),
        (lambda c: c.specs[0].amounts.add(micros=1), "without a name"),
        (lambda c: c.blob_args.extend([0]), "blob_args holds 1 numbers"),
        (lambda c: c.blob_inputs.extend([0, 0]), "node 0 and blob 0, which were not both sent"),
        (lambda c: c.map_columns.extend([0, 5]), "map_columns names node 0, which is no map"),
        (lambda c: setattr(c.specs[0], "kind", MAP), "map node 0 ('f0') maps over nothing"),
        (lambda c: c.maps.add(first=1, count=5), "children end at node 6 of 3"),
        (lambda c: c.maps.extend([graph_pb2.MapRange(first=1, count=2)] * 2), "children of two maps overlap"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[graph_pb2.GraphChunk], Any], told: str) -> None:
    with pytest.raises(BadMessage) as raised:
        make(spoil(change))
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"target": 3}, "the target is node 3, but there are 3 nodes"),
        ({"node_count": 4}, "4 nodes and 3 edges, but there are 3 and 3"),
        ({"edge_count": 1}, "3 nodes and 1 edges, but there are 3 and 3"),
    ],
)
def test_an_end_that_does_not_fit_is_named(end: dict[str, int], told: str) -> None:
    made = assembly()
    chunk = spoil(lambda c: None)
    made.add(chunk)
    with pytest.raises(BadMessage, match=told):
        made.finish(end_of(chunk, **end))
    with pytest.raises(BadMessage, match="no nodes"):
        assembly().finish(graph_pb2.GraphEnd())


ROUTER, LITERAL, WAIT = graph_pb2.NODE_KIND_ROUTER, graph_pb2.NODE_KIND_LITERAL, graph_pb2.NODE_KIND_WAIT
DATA, CONDITION = int(EdgeKind.DATA), int(EdgeKind.CONDITION)
SELECTOR, ROUTE, AMOUNT = int(EdgeKind.SELECTOR), int(EdgeKind.ROUTE), int(EdgeKind.AMOUNT)


def routed() -> graph_pb2.GraphChunk:
    """A literal, a call, a router between them, a wait, and a call with a lazy amount."""
    edges = [[], [], [(0, SELECTOR), (1, ROUTE), (0, ROUTE)], [(1, AMOUNT)]]
    chunk = chunk_of([*edges, [(2, DATA), (3, DATA), (1, AMOUNT), (0, AMOUNT)]], kinds=5)
    for number, kind in ((0, LITERAL), (2, ROUTER), (3, WAIT)):
        chunk.specs[number].kind = kind
    chunk.specs[4].passthrough = True
    chunk.amount_names.extend(["", "cpu", "gpu"])
    chunk.timers.add(node=3).delay.seconds = 2
    return chunk


def whole(chunk: graph_pb2.GraphChunk) -> Graph:
    """The graph of one chunk."""
    made = assembly()
    made.add(chunk)
    return made.finish(end_of(chunk))


def test_routers_amounts_and_timers_are_taken() -> None:
    chunk = routed()
    made = assembly()
    for part in split(chunk, [2, 4], 1):
        if len(part.node_args) and part.node_args[0] == b"2":
            part.timers.extend(chunk.timers)
        part.amount_names.extend(chunk.amount_names if not part.node_args else ())
        made.add(part)
    graph = made.finish(end_of(chunk))
    validate(graph)
    assert graph.routes(2) == [1, 0]
    assert graph.amount_names == {3: "", 6: "cpu", 7: "gpu"}
    assert graph.timers == {3: Timer(2.0, "")}
    assert graph.spec(4).passthrough
    plan = solve(graph)
    assert plan.routed
    assert (plan.indegree, plan.wanted) == ([0, 0, 1, 1, 4], {0: (2,)})
    chunk.specs[4].passthrough = False
    other = assembly()
    other.add(chunk)
    assert other.plan_key(end_of(chunk)) != made.plan_key(end_of(chunk))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.edge_kind.__setitem__(0, DATA), "node 2 ('f2') is a router and has other edges"),
        (lambda c: c.edge_kind.__setitem__(2, SELECTOR), "node 2 ('f2') is a router and has other edges"),
        (lambda c: c.node_args.__setitem__(2, b""), "node 2 ('f2') is a router without keys"),
        (lambda c: c.node_args.__setitem__(0, b""), "node 0 ('f0') is a literal; it has a value"),
        (lambda c: c.edge_kind.__setitem__(4, ROUTE), "node 4 ('f4') is no router"),
        (lambda c: setattr(c.specs[1], "passthrough", True), "node 1 ('f1') lets its first input pass"),
        (lambda c: c.amount_names.pop(), "there are 3 amount edges and 2 names for them"),
        (lambda c: c.timers.add(node=1), "timers names node 1, which is no wait and no recv"),
        (lambda c: setattr(c.timers[0].delay, "seconds", -1), "node 3 waits for -1.0 s"),
        (lambda c: c.edge_kind.__setitem__(3, CONDITION) or c.ClearField("timers"), "a wait without a delay"),
    ],
)
def test_what_is_wrong_with_routers_amounts_and_timers_is_named(
    change: Callable[[graph_pb2.GraphChunk], Any], told: str
) -> None:
    chunk = routed()
    change(chunk)
    with pytest.raises(BadMessage) as raised:
        whole(chunk)
    assert told in str(raised.value)


def test_bounds_are_named() -> None:
    chunk = spoil(lambda c: None)
    with pytest.raises(GraphTooLarge, match=r"more than 2 nodes.*graph_nodes_max"):
        assembly(nodes_max=2).add(chunk)
    with pytest.raises(GraphTooLarge, match=r"more than 10 bytes.*graph_bytes_max"):
        assembly(bytes_max=10).add(chunk)


def test_plans_are_told_apart_by_shape_and_not_by_literals() -> None:
    def key(change: Callable[[graph_pb2.GraphChunk], Any], target: int = 2) -> bytes:
        made = assembly()
        chunk = spoil(change)
        made.add(chunk)
        return made.plan_key(graph_pb2.GraphEnd(target=target, template_id=b"same"))

    plain = key(lambda c: None)
    assert key(lambda c: c.node_args.__setitem__(0, b"other")) == plain
    assert key(lambda c: setattr(c.specs[0], "name", "other")) == plain
    others = [
        key(lambda c: None, target=1),
        key(lambda c: c.edge_source.__setitem__(2, 0)),
        key(lambda c: c.edge_kind.__setitem__(2, 3)),
        key(lambda c: setattr(c.specs[0], "priority", 5)),
        key(lambda c: setattr(c.specs[0], "asynchronous", True)),
        key(lambda c: c.specs[0].amounts.add(name="gpu", micros=1)),
    ]
    assert len({plain, *others}) == 7


def with_resources(chunk: graph_pb2.GraphChunk, *named: tuple[str, int, list[str]]) -> graph_pb2.GraphChunk:
    """A chunk whose first spec has resources injected."""
    for name, scope, requires in named:
        chunk.resources.add(name=name, scope=scope, requires=requires)  # type: ignore[arg-type]
    chunk.specs[0].resources.extend(range(len(named)))
    return chunk


def test_resources_are_found_by_their_index() -> None:
    chunk = with_resources(spoil(lambda c: None), ("config", 2, []), ("db", 1, ["config"]))
    spec = make(chunk).specs[0]
    assert spec.resources == (
        ResourceRef("config", 2, b"c" * 36),
        ResourceRef("db", 1, b"c" * 36, ("config",)),
    )


@pytest.mark.parametrize(
    ("named", "change", "told"),
    [
        ([("db", 4, [])], None, "resource 'db' has the unknown scope 4"),
        ([("db", 0, [])], None, "resource 'db' has the unknown scope 0"),
        ([("db", 1, ["config"])], None, "resources of 'f0' do not come each after what it needs"),
        ([("db", 1, []), ("db", 1, [])], None, "resources of 'f0' do not come each after"),
        ([("db", 1, [])], lambda c: c.specs[0].resources.append(7), "'f0' names resource 7"),
        ([("db", 1, [])], lambda c: setattr(c.resources[0], "function_index", 3), "'db' names function 3"),
    ],
)
def test_resources_that_make_no_sense_are_named(
    named: list[tuple[str, int, list[str]]], change: Callable[[graph_pb2.GraphChunk], Any] | None, told: str
) -> None:
    chunk = with_resources(spoil(lambda c: None), *named)
    if change is not None:
        change(chunk)
    with pytest.raises(BadMessage) as raised:
        make(chunk)
    assert told in str(raised.value)


SPECS = st.builds(
    Spec,
    st.sampled_from(NodeKind),
    st.text(max_size=5),
    st.just(0),
    st.booleans(),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 10**9).map(lambda n: n / 1000)),
    st.one_of(
        st.none(),
        st.builds(
            Retry,
            st.integers(1, 100),
            st.integers(0, 10**6).map(lambda n: n / 1000),
            st.floats(0, 10),
            st.floats(0, 1),
            st.one_of(st.none(), st.integers(0, 10**6).map(lambda n: n / 1000)),
            st.binary(max_size=5),
        ),
    ),
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 2**40), max_size=3).map(
        lambda amounts: tuple(sorted(amounts.items()))
    ),
    st.integers(-(2**31), 2**31 - 1),
    resources=st.just(()),  # beside the message, in tables
)


@given(SPECS)
def test_specs_go_there_and_back(spec: Spec) -> None:
    assert spec_from(graph_pb2.TaskSpec.FromString(spec_to(spec).SerializeToString())) == spec


# --- what the client makes -----------------------------------------------------------------------


@cs.task
def add(a: int, b: int) -> int:
    """A task."""
    return a + b


@cs.task
def numbers(n: int) -> list[int]:
    """A list."""
    return list(range(n))


def assembled(target: Any) -> tuple[Graph, list[graph_pb2.GraphChunk]]:
    """The graph that the scheduler makes of what the client sends."""
    made = assembly(bytes_max=1 << 30, nodes_max=1 << 20)
    chunks = []
    end = graph_pb2.GraphEnd()
    for item in encode_graph(Compilation(target), run_id="r"):
        if isinstance(item, Part):
            chunk = graph_pb2.GraphChunk.FromString(item.message.chunk.SerializeToString())
            made.add(chunk)
            chunks.append(copy.deepcopy(chunk))
            end = item.message.end
    graph = made.finish(end)
    validate(graph)
    return graph, chunks


def test_a_client_s_graph_arrives() -> None:
    first = add(1, 2)
    graph, _ = assembled([add(first, 3).with_retry(3, delay=0.5).after(numbers(1)), first])
    names = [graph.name(node) for node in range(len(graph))]
    assert sorted(names[:3]) == ["add", "add", "numbers"]
    assert graph.spec(graph.target).kind == NodeKind.COLLECT
    consumer = next(n for n in range(3) if graph.spec(n).retry)
    assert graph.spec(consumer).retry == Retry(3, 0.5)
    kinds = {kind for _, kind in graph.sources(consumer)}
    assert kinds == {EdgeKind.DATA, EdgeKind.SEQUENCE}
    assert graph.spec(0).amounts == (("cpu", 1_000_000),)


def test_a_client_s_maps_arrive() -> None:
    graph, _ = assembled(add.map(a=[1, 2, 3], b=cs.unmapped("x" * 100)))
    assert [graph.map_index(node) for node in range(len(graph))][:4] == [0, 1, 2, -1]
    assert graph.name(1) == "add[1]"
    graph, _ = assembled(add.map(a=numbers(3), b=[4, 5, 6]))
    (node,) = graph.map_columns
    assert graph.map_columns == {node: 3}
    assert graph.spec(node).kind == NodeKind.MAP


def test_a_client_s_large_values_are_blobs() -> None:
    graph, _ = assembled(add("x" * 100_000, 1))
    (blob,) = graph.blob_args.values()
    assert isinstance(blob, BlobValue)
    assert blob.size > 100_000


def test_a_client_s_large_graph_comes_in_chunks() -> None:
    graph, chunks = assembled([add(number, number) for number in range(30_000)])
    assert len(graph) == 30_001
    assert len(chunks) > 2
    assert max(chunk.ByteSize() for chunk in chunks) < (1 << 20) + 4096


def test_blob_values_keep_their_place() -> None:
    chunk = chunk_of([[], []])
    chunk.blobs.extend(value_pb2.BlobRef(cid=cid_of(text), size_bytes=len(text)) for text in (b"a", b"bb"))
    chunk.blob_args.extend([1, 0])
    chunk.blob_inputs.extend([0, 1, 0, 0, 1, 1])
    made = assembly()
    made.add(chunk)
    graph = made.finish(end_of(chunk))
    a, b = BlobValue(cid_of(b"a"), 1), BlobValue(cid_of(b"bb"), 2)
    assert graph.blob_args == {1: a}
    assert graph.blob_inputs == {0: (b, a), 1: (b,)}
