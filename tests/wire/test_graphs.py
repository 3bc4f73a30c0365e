"""Graphs as messages: nothing is lost, nothing is too large, and what is large goes before what names it."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_dist.codec.arguments import load_arguments
from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.functions import FunctionCache, load_function
from cascade_dist.codec.values import load
from cascade_dist.errors import ArgumentSerializationError, CycleError, SerializationError
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.model import EdgeKind, Node, NodeKind
from cascade_dist.language.flow import pipeline
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, unmapped
from cascade_dist.language.policies import RetryPolicy
from cascade_dist.language.router import Router
from cascade_dist.language.task import task
from cascade_dist.v1 import client_pb2, graph_pb2
from cascade_dist.wire import PAYLOAD_BYTES_MAX, graphs
from cascade_dist.wire.graphs import Part, Upload, encode_graph

PART_MAX = PAYLOAD_BYTES_MAX + (64 << 10)


@dataclass
class Received:
    """What the other side puts together: tables that grow from part to part."""

    functions: list[graph_pb2.Function] = field(default_factory=list)
    specs: list[graph_pb2.TaskSpec] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    stored: dict[bytes, bytes] = field(default_factory=dict)
    node_spec: list[int] = field(default_factory=list)
    node_ids: bytes = b""
    node_args: list[bytes] = field(default_factory=list)
    node_edges: list[int] = field(default_factory=list)
    edge_source: list[int] = field(default_factory=list)
    edge_kind: list[int] = field(default_factory=list)
    blob_args: dict[int, int] = field(default_factory=dict)
    blob_inputs: dict[int, list[int]] = field(default_factory=dict)
    maps: list[tuple[int, int]] = field(default_factory=list)
    map_columns: dict[int, int] = field(default_factory=dict)
    amount_names: list[str] = field(default_factory=list)
    parts: int = 0
    end: graph_pb2.GraphEnd | None = None
    options: client_pb2.RunOptions | None = None

    def take(self, item: Upload | Part) -> None:
        """The next thing of a submit."""
        if isinstance(item, Upload):
            data = b"".join(item.pieces())
            assert (cid_of(data), len(data)) == (item.cid, item.size)
            assert item.cid not in self.stored, "a blob is uploaded once"
            self.stored[item.cid] = data
            return
        assert self.end is None, "nothing comes after the end"
        message = client_pb2.Submit.FromString(item.message.SerializeToString())
        assert message.ByteSize() <= PART_MAX
        assert message.run_id == "run-1"
        assert message.HasField("options") == (self.parts == 0 and self.options is not None)
        self.parts += 1
        chunk = message.chunk
        self.functions += chunk.functions
        self.specs += chunk.specs
        for ref in chunk.blobs:
            assert len(self.stored[ref.cid]) == ref.size_bytes, (
                "a blob is there before the part that names it"
            )
            self.blobs.append(ref.cid)
        self.node_spec += chunk.node_spec
        self.node_ids += chunk.node_ids
        self.node_args += chunk.node_args
        self.node_edges += chunk.node_edges
        self.edge_source += chunk.edge_source
        self.edge_kind += chunk.edge_kind
        self.blob_args.update(pairs(chunk.blob_args))
        for node, blob in pairs(chunk.blob_inputs):
            self.blob_inputs.setdefault(node, []).append(blob)
        self.maps += [(part.first, part.count) for part in chunk.maps]
        self.map_columns.update(pairs(chunk.map_columns))
        self.amount_names += chunk.amount_names
        assert len(chunk.node_spec) == len(chunk.node_args) == len(chunk.node_edges)
        assert all(spec < len(self.specs) for spec in chunk.node_spec), "a spec is there when it is used"
        assert all(spec.function < len(self.functions) for spec in chunk.specs if spec.kind in (1, 5))
        if message.HasField("end"):
            self.end = message.end

    def edges(self, node: int) -> list[tuple[int, int]]:
        """(source, kind) of a node's edges."""
        start = sum(self.node_edges[:node])
        return list(zip(self.edge_source, self.edge_kind, strict=True))[start : start + self.node_edges[node]]

    def payload(self, node: int) -> bytes:
        """A node's arguments, from wherever they are."""
        if node in self.blob_args:
            assert self.node_args[node] == b""
            return self.stored[self.blobs[self.blob_args[node]]]
        return self.node_args[node]

    def shared(self, node: int) -> list[object]:
        """The values of a node's blob inputs."""
        return [load(self.stored[self.blobs[blob]]) for blob in self.blob_inputs.get(node, ())]


def pairs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    flat = list(numbers)
    return zip(flat[::2], flat[1::2], strict=True)


def sent(target: Any, **options: Any) -> Received:
    """A target's way over the wire."""
    received = Received(options=options.get("options"))
    for item in encode_graph(Compilation(target), run_id="run-1", **options):
        received.take(item)
    assert received.end is not None
    assert received.end.node_count == len(received.node_args)
    assert received.end.edge_count == len(received.edge_source) == sum(received.node_edges)
    return received


@task
def start(n: int = 0) -> int:
    """A node without inputs."""
    return n


@task
def join(*args: Any, **kwargs: Any) -> None:
    """A node with inputs."""


@task(
    resources={"gpu": 0.5}, timeout=1.25, retry=RetryPolicy(4, 0.5, 2.0, 0.1, 8.0, (KeyError,)), durable=True
)
async def careful(x: Any, y: Any = None) -> None:
    """A node with policies."""


# --- nodes and edges ----------------------------------------------------------------------------------


@st.composite
def targets(draw: st.DrawFn) -> LazyResult[Any]:
    """Graphs of all kinds of nodes and edges."""
    made: list[LazyResult[Any]] = [start(1)]
    for _ in range(draw(st.integers(0, 12))):
        some = st.lists(st.sampled_from(made), max_size=3)
        kind = draw(st.sampled_from(["join", "map", "lazy map", "careful", "router", "stage"]))
        if kind == "join":
            node: LazyResult[Any] = join(*draw(some), k=draw(some), n=draw(st.integers()))
        elif kind == "router":
            routes = st.dictionaries(st.text() | st.integers(), st.sampled_from(made) | some, min_size=1)
            single = [lazy for lazy in made if not isinstance(lazy, MappedLazyResult)]
            made.append(Router(draw(st.sampled_from(single) | st.text()), draw(routes)))
            continue
        elif kind == "stage":
            node = join(draw(st.sampled_from(made) | some | st.text()), *draw(some)).passthrough()
        elif kind == "careful":
            node = careful(draw(st.sampled_from(made))).with_priority(draw(st.integers(-5, 5)))
        elif kind == "map":
            node = careful.map(x=[*draw(some), 5], y=unmapped(draw(st.sampled_from(["s", "L" * 3_000]))))
        else:
            node = careful.map(x=draw(st.sampled_from(made)), y=["c" * 600] * draw(st.integers(0, 3)))
        node.after(*draw(some))
        names = st.dictionaries(st.sampled_from(["cpu", "gpu"]), st.sampled_from(made) | st.integers(1, 9))
        node.with_constraints(**draw(names))
        if draw(st.booleans()):
            node.run_if(draw(st.sampled_from(made)))
        made.append(node)
    return made[-1]


@settings(deadline=None)
@given(target=targets(), part_bytes=st.sampled_from([1, 200, 10_000]))
def test_what_is_sent_is_the_graph(target: LazyResult[Any], part_bytes: int) -> None:
    received = sent(target, part_bytes=part_bytes)
    compilation = Compilation(target)
    nodes = list(compilation.nodes())
    assert received.node_ids == b"".join(node.structural_id for node in nodes)
    for node in nodes:
        same_node(received, node)
    assert received.maps == [
        (node.index, node.map_count)
        for node in nodes
        if node.map_count >= 0 and node.spec.kind is NodeKind.CALL
    ]
    assert received.map_columns == {
        node.index: node.map_count for node in nodes if node.map_count >= 0 and node.spec.kind is NodeKind.MAP
    }
    assert received.amount_names == [
        edge.arg for node in nodes for edge in node.edges if edge.kind is EdgeKind.AMOUNT
    ]
    end = received.end
    assert end is not None
    assert end.target == compilation.target_index
    assert end.template_id == compilation.template_id
    assert end.params_digest == compilation.params_digest


def same_node(received: Received, node: Node) -> None:
    """One node arrived as it was compiled."""
    message, spec = received.specs[received.node_spec[node.index]], node.spec
    kind = message.kind
    if node.spec.kind is NodeKind.GATHER and kind == NodeKind.COLLECT:
        assert node.value == list(node.inputs)
        kind = NodeKind.GATHER
    assert (kind, message.name, message.priority) == (spec.kind, spec.name, spec.priority)
    assert message.passthrough == spec.passthrough
    assert {amount.name: amount.micros for amount in message.amounts} == dict(spec.amounts)
    assert received.edges(node.index) == list(zip(node.sources, node.kinds, strict=True))
    if spec.kind in (NodeKind.LITERAL, NodeKind.ROUTER):
        assert load(received.payload(node.index)) == node.value
        return
    if message.kind == NodeKind.GATHER:
        assert load(received.payload(node.index), node.inputs) == node.value
        return
    if spec.kind not in (NodeKind.CALL, NodeKind.MAP):
        assert received.payload(node.index) == b""
        return
    function = received.functions[message.function]
    assert cid_of(function.body) == function.cid
    assert load_function(function.body) is spec.func
    if not all(node.kwargs[name] for name in node.columns):
        return  # no children, so nobody loads it
    inputs: list[Any] = [f"input {ordinal}" for ordinal in range(len(node.inputs))]
    args, kwargs = load_arguments(received.payload(node.index), inputs + received.shared(node.index), 0)

    def expected(value: Any, name: str = "") -> Any:
        if isinstance(value, LazyResult):
            return f"input {[id(lazy) for lazy in node.inputs].index(id(value))}"
        if name in node.columns:
            return value[0]
        return [expected(item) for item in value] if isinstance(value, list) else value

    assert args == tuple(map(expected, node.args))
    assert kwargs == {name: expected(value, name) for name, value in node.kwargs.items()}


def test_policies_arrive() -> None:
    spec = sent(careful(1)).specs[0]
    assert spec.asynchronous
    assert spec.durable
    assert {amount.name: amount.micros for amount in spec.amounts}["gpu"] == 500_000
    assert (spec.timeout.seconds, spec.timeout.nanos) == (1, 250_000_000)
    retry = spec.retry
    assert (retry.max_attempts, retry.backoff, retry.jitter) == (4, 2.0, 0.1)
    assert (retry.delay.nanos, retry.max_delay.seconds) == (500_000_000, 8)
    assert pickle.loads(retry.on) == (KeyError,)
    plain = sent(start(1).with_retry(2)).specs[0].retry
    assert plain.on == b""
    assert not plain.HasField("max_delay")
    assert not sent(start(1)).specs[0].HasField("retry")
    assert not sent(start(1)).specs[0].HasField("timeout")


def test_specs_and_functions_are_sent_once() -> None:
    received = sent([start(1), start(2), start(3).with_priority(2), start(4).with_priority(2)])
    assert [spec.name for spec in received.specs] == ["start", "start", "gather"]
    assert len(received.functions) == 1
    assert [received.node_spec[node] for node in range(5)] == [0, 0, 1, 1, 2]


def test_options_go_with_the_first_part_alone() -> None:
    options = client_pb2.RunOptions(name="mine", logs=True)
    received = sent(join(start(1), start(2)), options=options, part_bytes=1)
    assert received.parts == 4


# --- functions ----------------------------------------------------------------------------------------


def test_a_function_that_the_session_knows_goes_without_its_body() -> None:
    known: set[bytes] = set()
    cache = FunctionCache()
    first = sent(start(1), known=known, functions=cache).functions[0]
    again = sent(join(start(1)), known=known).functions
    assert first.body
    assert {function.name.rpartition(".")[2]: bool(function.body) for function in again} == {
        "start": False,
        "join": True,
    }
    assert again[0].cid == first.cid
    assert cache.body(first.cid) == first.body
    assert len(known) == 2


def test_a_function_with_a_large_body_is_a_blob() -> None:
    table = np.arange(100_000)

    @task
    def carries() -> int:
        return int(table.sum())

    known: set[bytes] = set()
    received = sent([carries()], known=known)
    (function,) = received.functions
    assert function.body == b""
    assert load_function(received.stored[function.cid])() == table.sum()
    assert function.cid in known
    assert sent([carries()], known=known).stored == {}


# --- large things -------------------------------------------------------------------------------------


def test_large_arguments_are_blobs_sent_once() -> None:
    array = np.arange(50_000)
    received = sent([join(array), join(array), join(array, 1)])
    assert len(received.stored) == len(received.blobs) == 2
    assert received.blob_args.keys() == {0, 1, 2}
    assert received.blob_args[0] == received.blob_args[1] != received.blob_args[2]
    args, _ = load_arguments(received.payload(2))
    assert (args[0] == array).all()
    assert args[1] == 1


def test_a_large_value_for_all_children_is_one_blob() -> None:
    received = sent(careful.map(x=list(range(500)), y=unmapped(np.arange(3_000))))
    assert len(received.stored) == 1
    assert set(map(tuple, received.blob_inputs.values())) == {(0,)}
    assert len(received.blob_inputs) == 500
    assert max(map(len, received.node_args)) < 60


def test_parts_are_bounded_and_filled() -> None:
    received = sent(join(*[join("p" * 5_000, number) for number in range(1_000)]))
    assert 8 <= received.parts <= 14


def test_the_edges_of_one_node_may_take_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EDGES_PART_MAX", 100)
    received = sent(join(start(7), [start(n) for n in range(950)], start(8)))
    assert received.parts == 10
    assert received.edges(952) == [(n, EdgeKind.DATA) for n in range(952)]


def test_a_list_of_results_needs_no_pickle_however_long() -> None:
    received = sent([start(n) for n in range(30_000)])
    assert received.stored == {}
    assert received.specs[received.node_spec[-1]].kind == NodeKind.COLLECT
    assert received.node_args[-1] == b""


def test_other_containers_are_pickles() -> None:
    lazy = start(1)
    containers: list[tuple[Any, Any]] = [
        ([lazy, lazy], ["v", "v"]),
        ([lazy, 5], ["v", 5]),
        ([(lazy,)], [("v",)]),
        ({"k": lazy}, {"k": "v"}),
        ([], []),
    ]
    for container, value in containers:
        received = sent(container)
        last = len(received.node_args) - 1
        assert received.specs[received.node_spec[last]].kind == NodeKind.GATHER
        assert load(received.payload(last), ["v"]) == value


def test_a_long_graph_takes_the_memory_of_a_part() -> None:
    class Endless:
        """Nodes that are made when they are asked for."""

        target_index, node_count, edge_count, template_id, params_digest = 0, 0, 0, b"t" * 16, b""
        jump_tables, jump_entries = (), ()

        def nodes(self) -> Iterator[Node]:
            (first,) = Compilation(start(1)).nodes()
            for index in range(50_000):
                yield Node(index, first.spec, "start", (index,), {}, structural_id=b"s" * 16)

    tracemalloc.start()
    try:
        parts = sum(1 for _ in encode_graph(Endless(), run_id="r"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parts > 3
    assert peak < 6 << 20


# --- routers, literals, amounts ---------------------------------------------------------------------


def test_a_router_arrives_with_its_keys() -> None:
    received = sent(join(Router("a", {"a": start(1), None: [start(2)], ("x", 1): 5})))
    names = [received.specs[spec].name for spec in received.node_spec]
    assert names == ["literal", "start", "start", "gather", "literal", "router", "join"]
    assert pickle.loads(received.node_args[5]) == ("a", None, ("x", 1))
    selector, route = EdgeKind.SELECTOR, EdgeKind.ROUTE
    assert received.edges(5) == [(0, selector), (1, route), (3, route), (4, route)]
    assert [pickle.loads(received.node_args[node]) for node in (0, 4)] == ["a", 5]
    assert received.edges(6) == [(5, EdgeKind.DATA)]


def test_a_large_literal_is_a_blob() -> None:
    big = np.arange(100_000)
    received = sent(Router("a", {"a": big, "b": "small"}))
    assert sorted(received.blob_args) == [1]
    assert np.array_equal(load(received.payload(1)), big)


def test_a_local_class_in_a_literal_or_key_travels_by_value() -> None:
    class Local:
        pass

    received = sent(Router("a", {"a": Local(), Local: 1}))
    assert type(pickle.loads(received.node_args[1])).__name__ == "Local"
    assert pickle.loads(received.node_args[3])[0] == "a"


def test_the_names_of_lazy_amounts_arrive_in_order() -> None:
    amount = start(1)
    target = join(start(2).with_constraints(cpu=amount, gpu=start(3))).with_constraints(gpu=amount, cpu=2)
    received = sent(target, part_bytes=1)
    assert received.amount_names == ["cpu", "gpu", "gpu"]
    assert received.edge_kind.count(EdgeKind.AMOUNT) == 3


def test_a_stage_says_so() -> None:
    received = sent(pipeline(10, [join, join]))
    assert [received.specs[spec].passthrough for spec in received.node_spec] == [False, True, True]
    assert received.edges(1) == [(0, EdgeKind.DATA)]
    assert load_arguments(received.payload(1), [10]) == ((10,), {})


def test_what_a_router_cannot_send_is_named() -> None:
    stays = (n for n in ())
    for target, what in (
        (Router(start(1), {"a": stays}), "^route 'a' of a Router is a generator"),
        (Router(start(1), {"a": [start(2), {"k": stays}]}), r"^route 'a' of a Router, at \[1\]\['k'\] is a"),
        (Router(stays, {"a": 1}), "^the selector of a Router is a generator"),
        (Router(start(1), {(1, stays): 1}), "^task 'router': the tuple of its keys, at "),
        (pipeline(stays, [join]), "^the value that 'join' passes on when it is skipped is a generator"),
        ([start(1), stays], "^task 'gather': the target, at"),
    ):
        with pytest.raises(ArgumentSerializationError, match=what):
            sent(target)


def test_keys_have_a_bound() -> None:
    with pytest.raises(ArgumentSerializationError, match=r"the keys of a Router take .* short key"):
        sent(Router(start(1), {"k" * 100_000: 1}))


# --- errors -------------------------------------------------------------------------------------------


def test_errors_come_through_and_name_the_node() -> None:
    with pytest.raises(ArgumentSerializationError, match="task 'join': argument 0, at"):
        sent(join(start(1), [{"g": (n for n in ())}]).after(join({"g": (n for n in ())})))
    first, second = start(1), start(2)
    first.after(second)
    second.after(first)
    with pytest.raises(CycleError):
        sent(first)


def test_retrying_on_a_class_that_cannot_travel() -> None:
    class Meta(type):
        def __reduce_ex__(cls, protocol: Any) -> Any:
            raise RuntimeError("stays here")

    class Local(Exception, metaclass=Meta):
        lock = (n for n in ())

    with pytest.raises(SerializationError, match="task 'start': the exception classes that it is retried on"):
        sent(start(1).with_retry(2, on=Local))
