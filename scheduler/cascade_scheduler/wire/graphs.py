"""A graph that comes in chunks, put together in the core's columns and checked as it comes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate

from cascade_dist.graph.keys import KEY_BYTES
from cascade_dist.v1 import graph_pb2
from cascade_scheduler.core.graph import (
    EdgeKind,
    FunctionRef,
    Graph,
    GraphInvalid,
    JumpEntry,
    JumpTable,
    KeyPart,
    NodeKind,
    ResourceRef,
    Retry,
    Spec,
    Timer,
    ValueKey,
    check_node,
    needs_check,
)
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.wire.values import (
    BadMessage,
    amounts_from,
    amounts_to,
    blob_from,
    duration_of,
    seconds_of,
)

__all__ = ["GraphAssembly", "GraphTooLarge", "spec_from", "spec_to"]

NODE_ID_BYTES = 16
NODE_BYTES = 200
"""What a node takes beside what was sent of it."""
EDGES_MAX = 1 << 32
TASK_SCOPE, WORKER_SCOPE = graph_pb2.RESOURCE_SCOPE_TASK, graph_pb2.RESOURCE_SCOPE_WORKER
_RUNS_CODE = (NodeKind.CALL, NodeKind.MAP)
_KINDS = frozenset(map(int, NodeKind))


class GraphTooLarge(BadMessage):
    """The graph is above a bound; the message names the bound."""


class GraphAssembly:
    """Columns that grow chunk by chunk.

    Every chunk is checked as it comes, so that a large graph costs no long pause at its end: a chunk is at
    most 1 MiB, and its check takes a few milliseconds. What `finish` returns passes `core.graph.validate`.
    """

    def __init__(self, *, nodes_max: int, bytes_max: int) -> None:
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self.bytes = 0
        """What the graph takes so far."""
        self.functions: list[FunctionRef] = []
        self.blobs: list[BlobValue] = []
        self._specs: list[Spec] = []
        self._resources: list[ResourceRef] = []
        self._node_spec = array("I")
        self._node_ids = bytearray()
        self._node_args: list[bytes] = []
        self._node_edges = array("I")
        self._edge_source = array("I")
        self._edge_kind = bytearray()
        self._blob_args: dict[int, BlobValue] = {}
        self._blob_inputs: dict[int, tuple[BlobValue, ...]] = {}
        self._maps: list[tuple[int, int]] = []
        self._map_columns: dict[int, int] = {}
        self._jumps: list[graph_pb2.JumpTable] = []
        self._entries: list[graph_pb2.JumpEntry] = []
        self._map_specs: set[int] = set()
        self._map_nodes: list[int] = []
        self._checked_specs: set[int] = set()
        """Specs whose nodes have rules about their edges."""
        self._odd_edges = False
        """There are edges of kinds that not every node may have."""
        self._to_check: list[tuple[int, int, int]] = []
        """(node, first edge, after its last edge) of nodes whose edges are there and have to be looked at."""
        self._amount_names: list[str] = []
        self._timers: dict[int, Timer] = {}
        self._value_keys: dict[int, ValueKey] = {}
        self._nodes_checked = 0
        self._edges_checked = 0

    @property
    def nodes(self) -> int:
        """Nodes so far."""
        return len(self._node_args)

    def add(self, chunk: graph_pb2.GraphChunk) -> None:
        """Takes the next chunk.

        Raises:
            BadMessage: the chunk cannot be part of a graph; names the column and the node.
            GraphTooLarge: it goes past a bound.
        """
        first = self.nodes
        count = len(chunk.node_args)
        self.bytes += chunk.ByteSize() + NODE_BYTES * count
        if first + count > self._nodes_max:
            raise GraphTooLarge(
                f"the graph has more than {self._nodes_max:,} nodes, the most that this scheduler takes "
                f"(graph_nodes_max); split the target into several runs"
            )
        if self.bytes > self._bytes_max:
            raise GraphTooLarge(
                f"the graph takes more than {self._bytes_max:,} bytes, the most that this scheduler takes "
                f"(graph_bytes_max); pass large values as blobs, or split the target into several runs"
            )
        self.functions.extend(FunctionRef(f.cid, f.name) for f in chunk.functions)
        self.blobs.extend(map(blob_from, chunk.blobs))
        for resource in chunk.resources:
            self._add_resource(resource)
        for spec in chunk.specs:
            self._add_spec(spec)
        self._node_args.extend(chunk.node_args)
        self._add_nodes(chunk, first, count)
        self._add_edges(chunk)
        self._add_tables(chunk)
        self._jumps.extend(chunk.jumps)
        self._entries.extend(chunk.entries)
        self._check_nodes()

    def _add_resource(self, message: graph_pb2.ResourceDefinition) -> None:
        name, index = message.name, message.function_index
        if index >= len(self.functions):
            raise BadMessage(f"resource {name!r} names function {index}, which was not sent")
        if not TASK_SCOPE <= message.scope <= WORKER_SCOPE:
            raise BadMessage(f"resource {name!r} has the unknown scope {message.scope}")
        function = self.functions[index].cid
        self._resources.append(ResourceRef(name, message.scope, function, tuple(message.requires)))

    def _resources_of(self, message: graph_pb2.TaskSpec) -> tuple[ResourceRef, ...]:
        found: dict[str, ResourceRef] = {}
        for index in message.resources:
            if index >= len(self._resources):
                raise BadMessage(f"{message.name!r} names resource {index}, which was not sent")
            resource = self._resources[index]
            if resource.name in found or not found.keys() >= set(resource.requires):
                raise BadMessage(f"the resources of {message.name!r} do not come each after what it needs")
            found[resource.name] = resource
        return tuple(found.values())

    def _add_spec(self, message: graph_pb2.TaskSpec) -> None:
        spec = spec_from(message)
        if message.resources:
            spec = spec._replace(resources=self._resources_of(message))
        if spec.kind in _RUNS_CODE and spec.function >= len(self.functions):
            raise BadMessage(f"{spec.name!r} names function {spec.function}, which was not sent")
        if spec.kind == NodeKind.MAP:
            self._map_specs.add(len(self._specs))
        if needs_check(spec):
            self._checked_specs.add(len(self._specs))
        self._specs.append(spec)

    def _add_nodes(self, chunk: graph_pb2.GraphChunk, first: int, count: int) -> None:
        if len(chunk.node_spec) != count or len(chunk.node_edges) != count:
            raise BadMessage("the node columns of a chunk differ in length")
        if len(chunk.node_ids) != NODE_ID_BYTES * count:
            raise BadMessage(f"node_ids has {len(chunk.node_ids)} bytes for {count} nodes of {NODE_ID_BYTES}")
        spec_of = array("I", chunk.node_spec)
        if count and max(spec_of) >= len(self._specs):
            raise BadMessage(f"a node names spec {max(spec_of)}, which was not sent")
        if self._map_specs:
            maps = self._map_specs
            self._map_nodes.extend(node for node, spec in enumerate(spec_of, first) if spec in maps)
        self._node_spec.extend(spec_of)
        self._node_edges.extend(chunk.node_edges)
        self._node_ids += chunk.node_ids

    def _add_edges(self, chunk: graph_pb2.GraphChunk) -> None:
        """Edge columns may lag behind those of nodes: a node may have more edges than fit into a message."""
        if len(chunk.edge_kind) != len(chunk.edge_source):
            raise BadMessage("the edge columns of a chunk differ in length")
        try:
            kinds = bytes(chunk.edge_kind)
        except ValueError:
            raise BadMessage("an edge has an unknown kind") from None
        if kinds and (min(kinds) < EdgeKind.DATA or max(kinds) > EdgeKind.AMOUNT):
            raise BadMessage("an edge has an unknown kind")
        self._odd_edges = self._odd_edges or bool(kinds and max(kinds) > EdgeKind.GATE)
        look = self._odd_edges or bool(self._checked_specs)
        self._edge_kind += kinds
        sources, edges = self._edge_source, self._node_edges
        sources.extend(chunk.edge_source)
        have, at = len(sources), self._edges_checked
        node = self._nodes_checked
        for node in range(self._nodes_checked, len(edges)):
            degree = edges[node]
            if at + degree > have:
                break
            if degree and max(sources[at : at + degree]) >= node:
                raise BadMessage(
                    f"node {node} ({self._spec(node).name!r}) has an edge from a node not before it"
                )
            if look:
                self._to_check.append((node, at, at + degree))
            at += degree
        else:
            node = len(edges)
            if at != have:
                raise BadMessage(f"{have - at} edges belong to no node")
        self._nodes_checked, self._edges_checked = node, at

    def _check_nodes(self) -> None:
        """Looks at the nodes whose kinds and edges have to go together."""
        for node, first, last in self._to_check:
            kinds = bytes(self._edge_kind[first:last])
            if self._node_spec[node] in self._checked_specs or (kinds and max(kinds) > EdgeKind.GATE):
                inline, blob = bool(self._node_args[node]), node in self._blob_args
                try:
                    check_node(
                        self._spec(node), node, kinds, self._timers.get(node), inline=inline, blob=blob
                    )
                except GraphInvalid as error:
                    raise BadMessage(str(error)) from None
        self._to_check.clear()

    def _spec(self, node: int) -> Spec:
        return self._specs[self._node_spec[node]]

    def _add_tables(self, chunk: graph_pb2.GraphChunk) -> None:
        for node, blob in self._blob_pairs("blob_args", chunk.blob_args):
            self._blob_args[node] = blob
        for node, blob in self._blob_pairs("blob_inputs", chunk.blob_inputs):
            self._blob_inputs[node] = (*self._blob_inputs.get(node, ()), blob)
        for node, length in _pairs("map_columns", chunk.map_columns):
            if node >= self.nodes or self._spec(node).kind != NodeKind.MAP:
                raise BadMessage(f"map_columns names node {node}, which is no map")
            self._map_columns[node] = length
        self._amount_names.extend(chunk.amount_names)
        for timer in chunk.timers:
            if timer.node >= self.nodes or self._spec(timer.node).kind not in (NodeKind.WAIT, NodeKind.RECV):
                raise BadMessage(f"timers names node {timer.node}, which is no wait and no recv")
            delay = seconds_of(timer.delay) if timer.HasField("delay") else None
            if delay is not None and delay < 0.0:
                raise BadMessage(f"node {timer.node} waits for {delay} s; a delay must not be negative")
            self._timers[timer.node] = Timer(delay, timer.topic)
        for key in chunk.value_keys:
            self._value_keys[key.node] = _value_key(key)
        for part in chunk.maps:
            end = sum(self._maps[-1]) if self._maps else 0
            if part.first < end:
                raise BadMessage(f"the children of two maps overlap at node {part.first}")
            self._maps.append((part.first, part.count))

    def _blob_pairs(self, column: str, numbers: Sequence[int]) -> Iterator[tuple[int, BlobValue]]:
        for node, blob in _pairs(column, numbers):
            if node >= self.nodes or blob >= len(self.blobs):
                raise BadMessage(f"{column} names node {node} and blob {blob}, which were not both sent")
            yield node, self.blobs[blob]

    def finish(self, end: graph_pb2.GraphEnd) -> Graph:
        """The whole graph.

        Raises:
            BadMessage: what the end says does not go with the chunks.
        """
        nodes, edges = self.nodes, len(self._edge_source)
        if not nodes:
            raise BadMessage("the graph has no nodes")
        if end.node_count != nodes or end.edge_count != edges:
            raise BadMessage(
                f"the end says {end.node_count} nodes and {end.edge_count} edges, but there are "
                f"{nodes} and {edges}"
            )
        if end.target >= nodes:
            raise BadMessage(f"the target is node {end.target}, but there are {nodes} nodes")
        if self._maps and sum(self._maps[-1]) > nodes:
            raise BadMessage(f"a map says that its children end at node {sum(self._maps[-1])} of {nodes}")
        if self._nodes_checked < nodes:
            node = self._nodes_checked
            raise BadMessage(f"the edges of node {node} ({self._spec(node).name!r}) are not all there")
        lazy = list(_positions(self._edge_kind, EdgeKind.AMOUNT))
        if len(lazy) != len(self._amount_names):
            raise BadMessage(
                f"there are {len(lazy)} amount edges and {len(self._amount_names)} names for them"
            )
        edge_start = array("L", accumulate(self._node_edges, initial=0))
        for node in self._map_nodes:
            kinds = self._edge_kind[edge_start[node] : edge_start[node + 1]]
            if EdgeKind.ITEMS not in kinds and node not in self._map_columns:
                raise BadMessage(f"map node {node} ({self._spec(node).name!r}) maps over nothing")
        for node, key in self._value_keys.items():
            self._check_value_key(node, key, edge_start)
        graph = Graph(
            specs=self._specs,
            functions=self.functions,
            node_spec=self._node_spec,
            node_ids=bytes(self._node_ids),
            node_args=self._node_args,
            edge_start=edge_start,
            edge_source=self._edge_source,
            edge_kind=bytes(self._edge_kind),
            target=end.target,
            blob_args=self._blob_args,
            blob_inputs=self._blob_inputs,
            maps=self._maps,
            map_columns=self._map_columns,
            amount_names=dict(zip(lazy, self._amount_names, strict=True)),
            timers=self._timers,
            value_keys=self._value_keys,
        )
        if self._jumps:
            graph.jumps, graph.entries = self._jump_tables()
        return graph

    def _jump_tables(self) -> tuple[dict[int, JumpTable], dict[int, JumpEntry]]:
        jumps: dict[int, JumpTable] = {}
        entries: dict[int, JumpEntry] = {}
        for entry in self._entries:
            if entry.node >= self.nodes or self._spec(entry.node).kind != NodeKind.CALL:
                raise BadMessage(f"entries names node {entry.node}, which is no call")
            uses = tuple(tuple(use.names) for use in entry.inputs)
            if any(name >= len(entry.names) for use in uses for name in use):
                raise BadMessage(f"the inputs of node {entry.node} stand in parameters without names")
            entries[entry.node] = JumpEntry(tuple(entry.names), uses)
        for table in self._jumps:
            targets = tuple(number - 1 for number in table.targets_plus_one)
            if table.node >= self.nodes or self._spec(table.node).kind != NodeKind.CALL:
                raise BadMessage(f"jumps names node {table.node}, which is no call")
            if not table.keys or not entries.keys() >= {target for target in targets if target >= 0}:
                raise BadMessage(f"the jumps of node {table.node} have no keys, or lead to what is no entry")
            jumps[table.node] = JumpTable(table.keys, targets)
        return jumps, entries

    def _check_value_key(self, node: int, key: ValueKey, edge_start: array[int]) -> None:
        if not 0 <= node < self.nodes:
            raise BadMessage(f"there is a value key of node {node}, but there are {self.nodes} nodes")
        spec = self._spec(node)
        if not (spec.pure or spec.kind in (NodeKind.COLLECT, NodeKind.GATHER)):
            raise BadMessage(f"there is a value key of node {node} ({spec.name!r}), which is not pure")
        kinds = self._edge_kind[edge_start[node] : edge_start[node + 1]]
        most = kinds.count(EdgeKind.DATA) + kinds.count(EdgeKind.ITEMS)
        if any(part.input >= most for part in key.parts):
            raise BadMessage(f"the value key of node {node} ({spec.name!r}) names an input that it has not")

    def plan_key(self, end: graph_pb2.GraphEnd) -> bytes:
        """Names the plan of this graph.

        The template id comes from the client; a digest of what the solver reads is put beside it, so that a
        client whose template ids lie can spoil no other client's plans.
        """
        digest = blake2b(digest_size=16)
        for column in (self._node_spec, self._node_edges, self._edge_source):
            digest.update(len(column).to_bytes(8, "little"))
            digest.update(column)
        digest.update(self._edge_kind)
        shapes = [(int(s.kind), s.asynchronous, s.amounts, s.priority, s.passthrough) for s in self._specs]
        digest.update(repr((end.target, shapes)).encode())
        return end.template_id + digest.digest()


def _positions(kinds: bytearray, kind: int) -> Iterator[int]:
    at = kinds.find(kind)
    while at >= 0:
        yield at
        at = kinds.find(kind, at + 1)


def _value_key(message: graph_pb2.ValueKey) -> ValueKey:
    parts = tuple(KeyPart(part.name, part.digest, part.input_plus_one - 1) for part in message.parts)
    for part in parts:
        if len(part.digest) != (KEY_BYTES if part.input < 0 else 0):
            raise BadMessage(
                f"part {part.name!r} of the value key of node {message.node} has no sound digest"
            )
    if message.known and any(part.input >= 0 for part in parts):
        raise BadMessage(f"the value key of node {message.node} is called known, but needs an input")
    return ValueKey(parts, message.known)


def _pairs(column: str, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    if len(numbers) % 2:
        raise BadMessage(f"{column} holds {len(numbers)} numbers, which are no pairs")
    flat = iter(numbers)
    return zip(flat, flat, strict=True)


def spec_from(message: graph_pb2.TaskSpec) -> Spec:
    """What nodes of one kind share.

    Raises:
        BadMessage: a field is out of its range; names the task and the field.
    """
    name = message.name
    if message.kind not in _KINDS:
        raise BadMessage(f"{name!r} is a node of unknown kind {message.kind}")
    retry = None
    if message.HasField("retry"):
        r = message.retry
        if r.max_attempts < 1 or not r.backoff >= 0.0 or not 0.0 <= r.jitter <= 1.0:
            raise BadMessage(
                f"{name!r} has a retry policy with max_attempts={r.max_attempts}, backoff={r.backoff}, "
                f"jitter={r.jitter}; max_attempts is at least 1, backoff at least 0, jitter between 0 and 1"
            )
        max_delay = seconds_of(r.max_delay) if r.HasField("max_delay") else None
        retry = Retry(r.max_attempts, seconds_of(r.delay), r.backoff, r.jitter, max_delay, r.on)
    try:
        amounts = amounts_from(message.amounts) if message.amounts else ()
    except BadMessage as error:
        raise BadMessage(f"{name!r}: {error}") from None
    return Spec(
        NodeKind(message.kind),
        name,
        message.function,
        message.asynchronous,
        message.mode or 1,
        message.pure,
        message.durable,
        seconds_of(message.timeout) if message.HasField("timeout") else None,
        retry,
        amounts,
        message.priority,
        message.passthrough,
        message.spawn,
        cache_policy=message.cache_policy,
        cluster_cache=message.cluster_cache,
    )


def spec_to(spec: Spec) -> graph_pb2.TaskSpec:
    """The message for a spec; its function index means nothing."""
    message = graph_pb2.TaskSpec(
        kind=int(spec.kind),  # type: ignore[arg-type]  # the core's numbers are those of the wire
        name=spec.name,
        asynchronous=spec.asynchronous,
        mode=spec.mode,  # type: ignore[arg-type]
        pure=spec.pure,
        durable=spec.durable,
        amounts=amounts_to(spec.amounts),
        priority=spec.priority,
        passthrough=spec.passthrough,
        spawn=spec.spawn,
        cache_policy=spec.cache_policy,
        cluster_cache=spec.cluster_cache,
    )
    if spec.timeout is not None:
        message.timeout.CopyFrom(duration_of(spec.timeout))
    if spec.retry is not None:
        r = spec.retry
        retry = message.retry
        retry.max_attempts, retry.backoff, retry.jitter, retry.on = r.max_attempts, r.backoff, r.jitter, r.on
        retry.delay.CopyFrom(duration_of(r.delay))
        if r.max_delay is not None:
            retry.max_delay.CopyFrom(duration_of(r.max_delay))
    return message
