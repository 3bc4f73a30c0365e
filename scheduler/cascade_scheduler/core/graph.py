"""A graph in columns, as it came from the client."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from cascade_scheduler.core.values import BlobValue

__all__ = [
    "EdgeKind",
    "FunctionRef",
    "Graph",
    "GraphInvalid",
    "JumpEntry",
    "JumpTable",
    "KeyPart",
    "NodeKind",
    "ResourceRef",
    "Retry",
    "Spec",
    "Timer",
    "ValueKey",
    "check_node",
    "needs_check",
    "validate",
]


class NodeKind(IntEnum):
    """What a node does; the numbers are those of the wire."""

    CALL = 1
    GATHER = 2
    COLLECT = 3
    GATE = 4
    MAP = 5
    ROUTER = 6
    LITERAL = 7
    WAIT = 8
    RECV = 9


class EdgeKind(IntEnum):
    """What a node needs another for; the numbers are those of the wire."""

    DATA = 1
    CONDITION = 2
    SEQUENCE = 3
    ITEMS = 4
    GATE = 5
    SELECTOR = 6
    ROUTE = 7
    AMOUNT = 8


_INPUTS = frozenset((EdgeKind.DATA, EdgeKind.ITEMS))


class Retry(NamedTuple):
    """When a failed attempt is tried again; times in seconds."""

    max_attempts: int = 1
    delay: float = 0.0
    backoff: float = 1.0
    jitter: float = 0.0
    max_delay: float | None = None
    on: bytes = b""


class ResourceRef(NamedTuple):
    """A resource that is injected; the numbers of the scope are those of the wire: task, run, worker."""

    name: str
    scope: int
    function: bytes
    """CID of its generator function."""
    requires: tuple[str, ...] = ()


class Spec(NamedTuple):
    """What nodes of one kind share."""

    kind: NodeKind
    name: str
    function: int = 0
    asynchronous: bool = False
    mode: int = 1
    pure: bool = False
    durable: bool = False
    timeout: float | None = None
    retry: Retry | None = None
    amounts: tuple[tuple[str, int], ...] = ()
    priority: int = 0
    passthrough: bool = False
    """Skipped, it lets its first data input pass to those that wanted its value."""
    spawn: bool = False
    """A lazy value that it returns is run, and that value takes its place."""
    resources: tuple[ResourceRef, ...] = ()
    """What is injected and what that needs, each after what it needs."""
    cache_policy: bytes = b""
    """Asked on the worker before user code runs; empty: none."""
    cluster_cache: bool = False
    """Values are kept for the whole cluster."""


class Timer(NamedTuple):
    """What a wait waits for, or a recv listens to; seconds, None: no bound, or see its amount edge."""

    delay: float | None = None
    topic: str = ""


class FunctionRef(NamedTuple):
    """A function by content id; its body is elsewhere."""

    cid: bytes
    name: str


class JumpTable(NamedTuple):
    """Where the jumps of a node lead: per key the node of the whole graph, or -1 where the loop ends."""

    keys: bytes
    """The pickled tuple of keys."""
    targets: tuple[int, ...]


class JumpEntry(NamedTuple):
    """A node that is jumped to: names of its parameters, and per input the indices of those it stands in."""

    names: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]


class KeyPart(NamedTuple):
    """One part of a value key. `input`: the ordinal of the input that has the digest at run time, or -1."""

    name: str
    digest: bytes
    input: int


class ValueKey(NamedTuple):
    """What the value of a pure node depends on. `known`: a hit makes its data inputs superfluous."""

    parts: tuple[KeyPart, ...]
    known: bool


class GraphInvalid(Exception):
    """The columns do not make a graph."""


_NOTHING: Mapping[int, Any] = MappingProxyType({})
_NO_NODES: frozenset[int] = frozenset()


class Graph:
    """Nodes and edges in columns. Immutable once validated."""

    __slots__ = (
        "amount_names",
        "base",
        "blob_args",
        "blob_inputs",
        "digested",
        "edge_kind",
        "edge_source",
        "edge_start",
        "entries",
        "functions",
        "jumps",
        "map_columns",
        "maps",
        "node_args",
        "node_ids",
        "node_spec",
        "overrides",
        "shape",
        "size",
        "specs",
        "target",
        "timers",
        "value_keys",
    )

    def __init__(
        self,
        *,
        specs: Sequence[Spec],
        functions: Sequence[FunctionRef],
        node_spec: Sequence[int],
        node_ids: bytes,
        node_args: Sequence[bytes],
        edge_start: array[int],
        edge_source: array[int],
        edge_kind: bytes,
        target: int,
        blob_args: Mapping[int, BlobValue] | None = None,
        blob_inputs: Mapping[int, tuple[BlobValue, ...]] | None = None,
        maps: Sequence[tuple[int, int]] = (),
        map_columns: Mapping[int, int] | None = None,
        amount_names: Mapping[int, str] | None = None,
        timers: Mapping[int, Timer] | None = None,
        value_keys: Mapping[int, ValueKey] | None = None,
    ) -> None:
        self.specs = specs
        self.functions = functions
        self.node_spec = node_spec
        self.size = len(node_spec)
        """How many nodes there are."""
        self.node_ids = node_ids
        self.node_args = node_args
        self.edge_start = edge_start
        self.edge_source = edge_source
        self.edge_kind = edge_kind
        self.target = target
        self.blob_args: Mapping[int, BlobValue] = blob_args or {}
        self.blob_inputs: Mapping[int, tuple[BlobValue, ...]] = blob_inputs or {}
        self.maps = maps
        self.map_columns = map_columns or {}
        """Per map over lazy lists: the length of the literal lists that it also maps."""
        self.amount_names = amount_names or {}
        """Per edge of kind AMOUNT: the amount's name; empty for the delay of a wait."""
        self.timers = timers or {}
        self.jumps: Mapping[int, JumpTable] = {}
        """Nodes whose value may be a jump."""
        self.entries: Mapping[int, JumpEntry] = {}
        """Nodes that are jumped to; of a whole graph."""
        self.base: Graph | None = None
        """The whole graph that this is a part of, when there are jumps in it."""
        self.overrides = b""
        """A pickle that is laid over the target's arguments."""
        self.shape = b""
        """Names its plan, where parts are made of it."""
        self.value_keys: Mapping[int, ValueKey] = value_keys or {}
        """Of nodes whose values are kept for the cluster, and of pure nodes that these need."""
        self.digested = self._digested() if value_keys else frozenset()
        """Nodes whose values' digests are parts of keys."""

    def with_literals(self, node_ids: bytes, node_args: Sequence[bytes]) -> Graph:
        """The same columns, with other literals; they are shared, since every short run is made so."""
        made = object.__new__(Graph)
        made.specs = self.specs
        made.functions = self.functions
        made.node_spec = self.node_spec
        made.size = self.size
        made.node_ids = node_ids
        made.node_args = node_args
        made.edge_start = self.edge_start
        made.edge_source = self.edge_source
        made.edge_kind = self.edge_kind
        made.target = self.target
        made.blob_args = made.blob_inputs = made.entries = made.value_keys = _NOTHING
        made.maps = self.maps
        made.map_columns = self.map_columns
        made.amount_names = self.amount_names
        made.timers = self.timers
        made.jumps = self.jumps
        made.base = None
        made.overrides = made.shape = b""
        made.digested = _NO_NODES
        return made

    def _digested(self) -> frozenset[int]:
        found: set[int] = set()
        for node, key in self.value_keys.items():
            wanted = [part.input for part in key.parts if not part.digest]
            if wanted:
                inputs = self.inputs(node)
                found.update(inputs[ordinal] for ordinal in wanted)
        return frozenset(found.difference(self.value_keys))

    def __len__(self) -> int:
        return len(self.node_spec)

    def spec(self, node: int) -> Spec:
        """The node's spec."""
        return self.specs[self.node_spec[node]]

    def node_id(self, node: int) -> bytes:
        """The node's structural id, 16 bytes."""
        return self.node_ids[16 * node : 16 * node + 16]

    def sources(self, node: int) -> list[tuple[int, int]]:
        """(source, kind) of every edge of the node, in order."""
        first, last = self.edge_start[node], self.edge_start[node + 1]
        return [(self.edge_source[e], self.edge_kind[e]) for e in range(first, last)]

    def inputs(self, node: int) -> list[int]:
        """The sources whose values the node's arguments refer to, in order."""
        first, last = self.edge_start[node], self.edge_start[node + 1]
        if first == last:
            return []
        sources, kinds = self.edge_source, self.edge_kind
        return [sources[e] for e in range(first, last) if kinds[e] in _INPUTS]

    def routes(self, node: int) -> list[int]:
        """The routes of a router, in the order of its keys; of other nodes none."""
        return [s for s, kind in self.sources(node) if kind == EdgeKind.ROUTE]

    def first_input(self, node: int) -> int:
        """The source of the node's first data edge, which a skipped stage lets pass; -1: it has none."""
        for source, kind in self.sources(node):
            if kind == EdgeKind.DATA:
                return source
        return -1

    def map_index(self, node: int) -> int:
        """The node's index among the children of a map over a known list, or -1."""
        at = bisect_right(self.maps, (node, len(self.node_spec) + 1)) - 1
        if at >= 0:
            first, count = self.maps[at]
            if node < first + count:
                return node - first
        return -1

    def name(self, node: int) -> str:
        """The node's name as people see it."""
        index = self.map_index(node) if self.maps else -1
        name = self.specs[self.node_spec[node]].name
        return name if index < 0 else f"{name}[{index}]"


def validate(graph: Graph) -> None:
    """Refuses columns that do not make a graph.

    Raises:
        GraphInvalid: names the column and the node.
    """
    n = len(graph.node_spec)
    if n == 0:
        raise GraphInvalid("the graph has no nodes")
    if not 0 <= graph.target < n:
        raise GraphInvalid(f"the target is node {graph.target}, but there are {n} nodes")
    if len(graph.node_ids) != 16 * n or len(graph.node_args) != n or len(graph.edge_start) != n + 1:
        raise GraphInvalid("the node columns differ in length")
    edges = len(graph.edge_source)
    if len(graph.edge_kind) != edges or graph.edge_start[n] != edges:
        raise GraphInvalid("the edge columns differ in length")
    if max(graph.node_spec) >= len(graph.specs):
        raise GraphInvalid("a node names a spec that was not sent")
    for spec in graph.specs:
        if spec.kind in (NodeKind.CALL, NodeKind.MAP) and spec.function >= len(graph.functions):
            raise GraphInvalid(f"{spec.name!r} names a function that was not sent")
    start, source = graph.edge_start, graph.edge_source
    for node in range(n):
        first, last = start[node], start[node + 1]
        if first != last and max(source[first:last]) >= node:
            raise GraphInvalid(
                f"node {node} ({graph.spec(node).name!r}) has an edge from a node that is not before it"
            )
    if edges and (min(graph.edge_kind) < EdgeKind.DATA or max(graph.edge_kind) > EdgeKind.AMOUNT):
        raise GraphInvalid("an edge has an unknown kind")
    for node in range(n):
        kinds = graph.edge_kind[start[node] : start[node + 1]]
        if needs_check(graph.spec(node)) or (kinds and max(kinds) > EdgeKind.GATE):
            inline, blob = bool(graph.node_args[node]), node in graph.blob_args
            check_node(graph.spec(node), node, kinds, graph.timers.get(node), inline=inline, blob=blob)
    if set(graph.amount_names) != {e for e in range(edges) if graph.edge_kind[e] == EdgeKind.AMOUNT}:
        raise GraphInvalid("the names of amounts do not go with the amount edges")


_CHECKED_KINDS = frozenset((NodeKind.ROUTER, NodeKind.LITERAL, NodeKind.WAIT, NodeKind.RECV))
_ONLY_ROUTERS = frozenset((EdgeKind.SELECTOR, EdgeKind.ROUTE))
_HOLD_AMOUNTS = frozenset((NodeKind.CALL, NodeKind.MAP, NodeKind.WAIT, NodeKind.RECV))
_WAIT_EDGES = frozenset((EdgeKind.CONDITION, EdgeKind.SEQUENCE, EdgeKind.AMOUNT))


def needs_check(spec: Spec) -> bool:
    """Whether nodes of this spec have rules about their edges."""
    return spec.passthrough or spec.kind in _CHECKED_KINDS


def check_node(spec: Spec, node: int, kinds: bytes, timer: Timer | None, *, inline: bool, blob: bool) -> None:
    """Refuses a node whose edges or arguments do not go with its kind.

    Args:
        kinds: of the node's edges, in order.
        timer: of a wait or recv.
        inline, blob: it has arguments, in the column or as a blob.

    Raises:
        GraphInvalid: names the node and what is wrong.
    """

    def wrong(what: str) -> GraphInvalid:
        return GraphInvalid(f"node {node} ({spec.name!r}) {what}")

    kind, present = spec.kind, set(kinds)
    if kind == NodeKind.ROUTER:
        routes = kinds[1:]
        if kinds[:1] != bytes((EdgeKind.SELECTOR,)) or not routes or set(routes) != {EdgeKind.ROUTE}:
            raise wrong("is a router and has other edges than one selector and then its routes")
        if not inline or blob:
            raise wrong("is a router without keys, or with more than 64 KiB of them")
    elif present & _ONLY_ROUTERS:
        raise wrong("is no router and has a selector or a route")
    if kind == NodeKind.LITERAL and (kinds or inline == blob):
        raise wrong("is a literal; it has a value and no edges")
    if EdgeKind.AMOUNT in present and kind not in _HOLD_AMOUNTS:
        raise wrong("has an amount edge and holds no amounts")
    if spec.passthrough and (kind != NodeKind.CALL or EdgeKind.DATA not in present):
        raise wrong("lets its first input pass when it is skipped; it has to be a call with a data input")
    if kind in (NodeKind.WAIT, NodeKind.RECV):
        lazy = kinds.count(EdgeKind.AMOUNT)
        if not present <= _WAIT_EDGES or lazy > 1:
            raise wrong("is a wait or recv and has other edges than conditions, order and one delay")
        if kind == NodeKind.WAIT and not lazy and (timer is None or timer.delay is None):
            raise wrong("is a wait without a delay")
        if kind == NodeKind.RECV and (timer is None or not timer.topic):
            raise wrong("is a recv without a topic")
