"""Graphs as messages: what a client sends for a submit, in parts of bounded size.

Nodes are encoded as they are compiled, so a graph of any length takes the memory of one part. A value that
is too large for a part is a blob, to be stored before the part that names it is sent.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import is_
from typing import Any, NamedTuple, Protocol

from cascade_dist.codec.arguments import ArgumentEncoder
from cascade_dist.codec.cid import cid_from_text, cid_of_pieces
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.values import INLINE_BYTES_MAX, Packed
from cascade_dist.errors import SerializationError
from cascade_dist.graph.model import (
    EdgeKind,
    JumpEntry,
    JumpTable,
    Node,
    NodeKind,
    ResourceSpec,
    RetryPolicy,
    TaskSpec,
)
from cascade_dist.graph.value_keys import ValueKey, ValueKeys
from cascade_dist.language.stored import Stored
from cascade_dist.language.task import Task
from cascade_dist.v1 import client_pb2, graph_pb2, value_pb2
from cascade_dist.wire.convert import duration, to_amounts

__all__ = ["PART_BYTES", "Compiled", "Part", "Upload", "encode_graph"]

PART_BYTES = 448 << 10
"""A part is closed when it has grown to this many bytes; one more node, and one more body, come on top."""

BODY_INLINE_MAX = 512 << 10
"""Function bodies above this many bytes are blobs: the function goes without body, under its blob's CID."""

EDGES_PART_MAX = 200_000
"""A part has at most this many edges; those of one node beyond it go on in further parts."""

# Looking a member up on its class takes longer than most of what is done with it.
_GATHER = NodeKind.GATHER
_LITERAL = NodeKind.LITERAL
_AMOUNT = EdgeKind.AMOUNT

_EDGE_BYTES = 4
_NODE_BYTES = 22
_SPEC_BYTES = 100
_PART_BYTES = 24
POLICY_BYTES_MAX = 32 << 10
"""Larger caching policies are refused: they go with every attempt."""


class Compiled(Protocol):
    """What is encoded: nodes in topological order, then facts about them all."""

    target_index: int
    node_count: int
    edge_count: int
    template_id: bytes
    params_digest: bytes
    jump_tables: Sequence[JumpTable]
    jump_entries: Sequence[JumpEntry]

    def nodes(self) -> Iterable[Node]:
        """The nodes, once; the facts are there after the last."""


class Upload(NamedTuple):
    """A blob that has to be in the blob store before what comes next is sent."""

    cid: bytes
    """Binary CID."""
    size: int
    """Bytes."""
    packed: Packed

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes in order, at most 1 MiB each."""
        return self.packed.pieces()


class Part(NamedTuple):
    """A message of the submit; the last one has the end."""

    message: client_pb2.Submit


def encode_graph(
    compilation: Compiled,
    *,
    run_id: str,
    options: client_pb2.RunOptions | None = None,
    known: set[bytes] | None = None,
    inline_max: int = INLINE_BYTES_MAX,
    functions: FunctionCache | None = None,
    part_bytes: int | None = None,
    on_handle: Callable[[bytes], object] | None = None,
) -> Iterator[Upload | Part]:
    """What a submit sends, in order.

    Args:
        compilation: the compiled target; its nodes are taken once.
        run_id: goes with every part.
        options: go with the first part.
        known: CIDs of functions that this session has sent; they go without body. Those sent now are added.
        inline_max: larger arguments are blobs.
        functions: of this submit; given when bodies are wanted afterwards.
        part_bytes: a part is closed when it has grown to so many bytes; None: PART_BYTES.
        on_handle: told the CID of each stored object that the graph names, before the part that does.

    Raises:
        SerializationError: a function or an argument cannot be pickled; names it.
        GraphError: whatever compiling raises.
    """
    encoder = _Encoder(
        run_id,
        set() if known is None else known,
        inline_max,
        functions or FunctionCache(),
        part_bytes or PART_BYTES,
        on_handle,
    )
    first = True
    for item in encoder.run(compilation):
        if first and options is not None and isinstance(item, Part):
            item.message.options.CopyFrom(options)
            first = False
        yield item


class _Encoder:
    """The tables of one submit, and the part that is being filled."""

    def __init__(
        self,
        run_id: str,
        known: set[bytes],
        inline_max: int,
        functions: FunctionCache,
        part_bytes: int,
        on_handle: Callable[[bytes], object] | None,
    ) -> None:
        self._on_handle = on_handle
        self._run_id = run_id
        self._part_bytes = part_bytes
        self._known = known
        self._functions = functions
        self._arguments = ArgumentEncoder(inline_max)
        self._specs: dict[int, int] = {}  # by id, of specs that are kept alive
        self._kept: list[TaskSpec] = []
        self._function_at: dict[bytes, int] = {}
        self._resource_at: dict[int, tuple[ResourceSpec, int]] = {}  # by id, of resources that are kept alive
        self._blob_at: dict[bytes, int] = {}
        self._shared_at: dict[int, tuple[object, list[int]]] = {}  # by id, of mappings that are kept alive
        self._uploads: list[Upload] = []
        self._open()

    def _open(self) -> None:
        self._message = client_pb2.Submit(run_id=self._run_id)
        self._chunk = self._message.chunk
        self._columns = _Columns()

    def run(self, compilation: Compiled) -> Iterator[Upload | Part]:
        """Everything in order."""
        specs, encode, columns = self._specs, self._arguments.encode, self._columns
        keys = ValueKeys() if Task.cluster_caches else None
        for node in compilation.nodes():
            spec = node.spec
            if spec.kind is _GATHER and _lists_its_inputs(node):
                spec = replace(spec, kind=NodeKind.COLLECT)
                payload: bytes | Packed = b""
            elif spec.kind is _LITERAL and type(node.value) is Stored:
                payload = self._add_stored_literal(node, node.value)
            else:
                payload = encode(node)
            if isinstance(payload, Packed):
                payload = self._add_blob_args(node, payload)
            number = specs.get(id(spec))
            columns.specs.append(self._add_spec(spec) if number is None else number)
            columns.ids.append(node.structural_id)
            columns.args.append(payload)
            edges = len(node.sources)
            columns.edges.append(edges)
            if edges:
                columns.sources += node.sources
                columns.kinds += node.kinds
                if node.kinds[-1] is _AMOUNT:
                    self._add_amounts(node)
            columns.size += _NODE_BYTES + len(payload) + _EDGE_BYTES * edges
            if keys is not None:
                for key in keys.add(node):
                    self._add_key(key)
            if node.map_count >= 0 or node.shared:
                self._add_map(node)
                if handles := self._arguments.handles:
                    self._add_handles(node, handles)
            elif handles := self._arguments.handles:
                self._add_handles(node, handles)
            elif node.timer is not None:
                self._add_timer(node.index, *node.timer)
            if self._uploads:
                yield from self._uploads
                self._uploads.clear()
            if columns.size >= self._part_bytes:
                yield from map(Part, self._close())
                columns = self._columns
        self._add_jumps(compilation)
        *before, last = self._close()
        yield from map(Part, before)
        last.end.target = compilation.target_index
        last.end.node_count = compilation.node_count
        last.end.edge_count = compilation.edge_count
        last.end.template_id = compilation.template_id
        last.end.params_digest = compilation.params_digest
        yield Part(last)

    def _close(self) -> list[client_pb2.Submit]:
        """The messages of the part, nearly always one, and a new part."""
        messages = []
        columns = self._columns
        columns.write_to(self._chunk)
        for start in range(0, max(1, len(columns.sources)), EDGES_PART_MAX):
            self._chunk.edge_source.extend(columns.sources[start : start + EDGES_PART_MAX])
            self._chunk.edge_kind.extend(columns.kinds[start : start + EDGES_PART_MAX])  # type: ignore[arg-type]
            messages.append(self._message)
            self._open()
        return messages

    def _add_key(self, key: ValueKey) -> None:
        message = self._chunk.value_keys.add(node=key.node, known=key.known)
        for part in key.parts:
            message.parts.add(name=part.name, digest=part.digest, input_plus_one=part.input + 1)
            self._columns.size += _PART_BYTES + len(part.name)

    def _add_jumps(self, compilation: Compiled) -> None:
        tables = compilation.jump_tables
        for table in tables:
            try:
                keys = ByValuePickler().run(table.keys).pickled()
            except Exception as error:
                raise SerializationError(
                    f"the keys of a selector, {reprlib.repr(table.keys)}, cannot be pickled ({error}): "
                    "use plain values as keys"
                ) from error
            targets = [target + 1 for target in table.targets]
            self._chunk.jumps.add(node=table.node, keys=keys, targets_plus_one=targets)
        for entry in compilation.jump_entries if tables else ():
            uses = [graph_pb2.InputUse(names=numbers) for numbers in entry.inputs]
            self._chunk.entries.add(node=entry.node, inputs=uses, names=entry.names)

    def _add_spec(self, spec: TaskSpec) -> int:
        message = self._chunk.specs.add()
        message.CopyFrom(_spec_message(spec))
        if spec.kind in (NodeKind.CALL, NodeKind.MAP):
            message.function = self._add_function(spec.task or spec.func, spec.code_hash)
            message.resources.extend(map(self._add_resource, spec.resources))
        index = self._specs[id(spec)] = len(self._kept)
        self._kept.append(spec)
        self._columns.size += _SPEC_BYTES + len(message.cache_policy)
        return index

    def _add_resource(self, spec: ResourceSpec) -> int:
        known = self._resource_at.get(id(spec))
        if known is not None:
            return known[1]
        function = self._add_function(spec.definition, spec.code_hash)
        self._chunk.resources.add(
            name=spec.name,
            scope=int(spec.scope),
            requires=spec.requires,
            function_index=function,
        )
        index = len(self._resource_at)
        self._resource_at[id(spec)] = (spec, index)
        self._columns.size += _SPEC_BYTES
        return index

    def _add_function(self, task_or_func: Any, code_hash: bytes) -> int:
        encoded = self._functions.encode(task_or_func, code_hash)
        index = self._function_at.get(encoded.cid)
        if index is not None:
            return index
        index = self._function_at[encoded.cid] = len(self._function_at)
        message = self._chunk.functions.add()
        message.cid = encoded.cid
        message.name = encoded.name
        message.code_hash = encoded.code_hash
        if encoded.cid not in self._known:
            self._known.add(encoded.cid)
            if len(encoded.body) <= BODY_INLINE_MAX:
                message.body = encoded.body
            else:
                self._uploads.append(Upload(encoded.cid, len(encoded.body), Packed.of(encoded.body)))
        self._columns.size += _SPEC_BYTES + len(message.body)
        return index

    def _add_blob(self, packed: Packed) -> int:
        cid = cid_of_pieces(packed.pieces())
        index = self._blob_at.get(cid)
        if index is None:
            index = self._blob_at[cid] = len(self._blob_at)
            self._chunk.blobs.append(value_pb2.BlobRef(cid=cid, size_bytes=packed.size))
            self._uploads.append(Upload(cid, packed.size, packed))
        return index

    def _add_blob_args(self, node: Node, payload: Packed) -> bytes:
        """Puts the arguments of a node into a blob; what stands in the column instead."""
        self._chunk.blob_args.extend((node.index, self._add_blob(payload)))
        return b""

    def _add_stored(self, handle: Stored) -> int:
        """The number of the blob of a handle."""
        cid = cid_from_text(handle.cid)
        index = self._blob_at.get(cid)
        if index is None:
            if self._on_handle is not None:
                self._on_handle(cid)
            index = self._blob_at[cid] = len(self._blob_at)
            self._chunk.blobs.append(value_pb2.BlobRef(cid=cid, size_bytes=handle.size))
        return index

    def _add_stored_literal(self, node: Node, handle: Stored) -> bytes:
        self._chunk.blob_args.extend((node.index, self._add_stored(handle)))
        return b""

    def _add_handles(self, node: Node, handles: Sequence[Stored]) -> None:
        """Handles among a node's arguments: its last inputs."""
        for handle in handles:
            self._chunk.blob_inputs.extend((node.index, self._add_stored(handle)))
        self._columns.size += 2 * _EDGE_BYTES * len(handles)

    def _add_amounts(self, node: Node) -> None:
        """Names the node's lazy amounts."""
        names = self._chunk.amount_names
        for kind, name in zip(node.kinds, node.edge_args, strict=True):
            if kind is EdgeKind.AMOUNT:
                names.append(name)
                self._columns.size += len(name) + _EDGE_BYTES

    def _add_timer(self, node: int, delay: float | None, topic: str) -> None:
        """What a wait or a recv waits for."""
        timer = self._chunk.timers.add(node=node, topic=topic)
        if delay is not None:
            timer.delay.CopyFrom(duration(delay))
        self._columns.size += _NODE_BYTES + len(topic)

    def _add_map(self, node: Node) -> None:
        """What maps have beside other nodes: ranges of children, lengths of columns, shared values."""
        if node.map_count >= 0:
            if node.spec.kind is NodeKind.MAP:
                self._chunk.map_columns.extend((node.index, node.map_count))
            else:
                self._chunk.maps.append(graph_pb2.MapRange(first=node.index, count=node.map_count))
        if not (node.shared or node.columns):
            return
        known = self._shared_at.get(id(node.shared)) if not node.columns else None
        if known is None:
            blobs = [self._add_blob(packed) for packed in self._arguments.blob_inputs(node)]
            known = self._shared_at[id(node.shared)] = (node.shared, blobs)
        for blob in known[1]:
            self._chunk.blob_inputs.extend((node.index, blob))
        self._columns.size += 2 * _EDGE_BYTES * len(known[1])


_messages: dict[int, tuple[TaskSpec, graph_pb2.TaskSpec]] = {}
"""Specs as messages, by id, of specs that are kept alive: most submits repeat earlier ones."""
_MESSAGES_MAX = 64


def _spec_message(spec: TaskSpec) -> graph_pb2.TaskSpec:
    """A spec without the index of its function."""
    known = _messages.get(id(spec))
    if known is not None:
        return known[1]
    message = graph_pb2.TaskSpec(
        kind=int(spec.kind),  # type: ignore[arg-type]
        name=spec.name,
        asynchronous=spec.asynchronous,
        mode=int(spec.mode),  # type: ignore[arg-type]
        pure=spec.pure,
        durable=spec.durable,
        amounts=to_amounts(spec.amounts),
        priority=spec.priority,
        passthrough=spec.passthrough,
        spawn=spec.spawn,
    )
    message.cluster_cache = spec.cluster_cache
    if spec.cache is not None:
        message.cache_policy = _policy(spec)
    if spec.timeout is not None:
        message.timeout.CopyFrom(duration(spec.timeout))
    if spec.retry is not None:
        message.retry.CopyFrom(_retry(spec.retry, spec.name))
    if len(_messages) >= _MESSAGES_MAX:
        _messages.clear()
    _messages[id(spec)] = (spec, message)
    return message


def _policy(spec: TaskSpec) -> bytes:
    """A caching policy, with the name and code of its task, as executors load it."""
    task_id = f"{spec.name}@{spec.code_hash.hex()}" if spec.code_hash else spec.name
    try:
        pickled = ByValuePickler().run((task_id, spec.cache)).pickled()
    except Exception as error:
        raise SerializationError(
            f"task {spec.name!r}: its caching policy cannot be pickled ({error}): have it open connections "
            "and files when it is first asked, not when it is made"
        ) from error
    if len(pickled) > POLICY_BYTES_MAX:
        raise SerializationError(
            f"task {spec.name!r}: its caching policy has {len(pickled):,} bytes, and the most is "
            f"{POLICY_BYTES_MAX:,}: have it read what it needs on the worker"
        )
    return pickled


def _lists_its_inputs(node: Node) -> bool:
    """Whether a gather is the plain list of its inputs, in order: it needs no pickle then, however long."""
    value = node.value
    if type(value) is not list or not value or len(value) != len(node.inputs):
        return False
    return all(map(is_, value, node.inputs))


class _Columns:
    """The columns of one part, as lists: adding to those of a message one by one is slow."""

    __slots__ = ("args", "edges", "ids", "kinds", "size", "sources", "specs")

    def __init__(self) -> None:
        self.specs: list[int] = []
        self.ids: list[bytes] = []
        self.args: list[bytes] = []
        self.edges: list[int] = []
        self.sources: list[int] = []
        self.kinds: list[int] = []
        self.size = 0
        """Bytes of the part so far, roughly."""

    def write_to(self, chunk: graph_pb2.GraphChunk) -> None:
        """All columns of nodes; those of edges may take more than one message."""
        chunk.node_spec.extend(self.specs)
        chunk.node_ids = b"".join(self.ids)
        chunk.node_args.extend(self.args)
        chunk.node_edges.extend(self.edges)


def _retry(policy: RetryPolicy, name: str) -> graph_pb2.RetryPolicy:
    message = graph_pb2.RetryPolicy(
        max_attempts=policy.max_attempts,
        delay=duration(policy.delay),
        backoff=policy.backoff,
        jitter=policy.jitter,
    )
    if policy.max_delay is not None:
        message.max_delay.CopyFrom(duration(policy.max_delay))
    if policy.on != (Exception,):
        try:
            message.on = ByValuePickler().run(policy.on).pickled()
        except Exception as error:
            raise SerializationError(
                f"task {name!r}: the exception classes that it is retried on cannot be pickled ({error}): "
                "define them at the top of a module"
            ) from error
    return message
