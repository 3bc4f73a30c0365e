"""The compiled form of a target: nodes with code and arguments, and typed edges.

Nodes come in topological order, so an edge's source always has the smaller index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from cascade_dist.language.policies import MICROS, RetryPolicy

__all__ = [
    "MICROS",
    "Edge",
    "EdgeKind",
    "Graph",
    "JumpEntry",
    "JumpTable",
    "MapRange",
    "Mode",
    "Node",
    "NodeKind",
    "ResourceSpec",
    "RetryPolicy",
    "Scope",
    "TaskSpec",
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


class Mode(IntEnum):
    """How a sync task uses its cores; the numbers are those of the wire."""

    BLOCKING = 1
    COMPUTE = 2


class Scope(IntEnum):
    """How long a resource lives, from short to long; the numbers are those of the wire."""

    TASK = 1
    RUN = 2
    WORKER = 3


@dataclass(frozen=True, slots=True, eq=False)
class ResourceSpec:
    """A resource that calls of a graph have injected. Of each name there is one in a graph."""

    name: str
    scope: Scope
    definition: Any
    """The `Resource`."""
    requires: tuple[str, ...] = ()
    """Names of the resources that it needs itself."""
    digest: bytes = b""
    """16 bytes over its name, scope and code, and those of what it needs."""
    code_hash: bytes = b""
    """16 bytes over its function's code; empty when something in it cannot be hashed."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What nodes of one kind share. Equal specs are one object within a graph, so identity is equality."""

    kind: NodeKind
    name: str
    func: Callable[..., Any] | None = None
    """The user's function, for calls and maps."""
    task: Any = None
    """The `Task` it belongs to, for calls and maps."""
    asynchronous: bool = False
    mode: Mode = Mode.BLOCKING
    pure: bool = False
    durable: bool = False
    timeout: float | None = None
    retry: RetryPolicy | None = None
    amounts: tuple[tuple[str, int], ...] = ()
    """(name, micros), sorted by name; a sync call holds cpu unless it says otherwise."""
    priority: int = 0
    spawn: bool = False
    """A lazy value that it returns is run, and that value takes its place."""
    passthrough: bool = False
    """When it is skipped, its consumers by DATA get the value of its first input instead."""
    resources: tuple[ResourceSpec, ...] = ()
    """What is injected, and what that needs, each after what it needs itself."""
    digest: bytes = b""
    """16 bytes over code and policies: the node's template without its shape."""
    code_hash: bytes = b""
    """16 bytes over the function's code; empty when something in it cannot be hashed."""
    unhashable: str = ""
    """What in the code cannot be hashed, for messages; empty when nothing."""
    cache: Any = None
    """The caching policy that is asked on the worker, or None."""
    cluster_cache: bool = False
    """Values are kept for the whole cluster, under their value keys."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One need of one node."""

    source: int
    target: int
    kind: EdgeKind
    arg: str
    """The argument's name: "0" for the first positional one, the keyword otherwise; "" for no argument.

    Of an AMOUNT the amount's name; of a router's edges "selector" and the keys as bounded texts.
    """


@dataclass(slots=True)
class Node:
    """One node.

    `sources`, `kinds` and `edge_args` are parallel, one entry an edge. The edges of kind DATA and ITEMS, in
    their order, are the node's inputs; `inputs` holds the lazy value behind each, so that a pickler can turn
    that object (by identity) into its ordinal. Two lazies that are one node (equal pure calls) are two inputs
    with one source. In a MAP, what is mapped stands in `kwargs` as an object of its own, a subclass of
    `LazyResult`, so that one lazy list can be mapped and given whole in one call. A COLLECT has no arguments:
    its `inputs` are empty, and its value is the list of its sources. A ROUTER has none either: its edges are
    one SELECTOR and then, in the order of the keys in `value`, one ROUTE each. AMOUNT edges come last, each
    with the amount's name as its argument.
    """

    index: int
    spec: TaskSpec
    name: str
    """The spec's name; a map's child has its index in brackets, a literal or gather says what it is for."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sources: tuple[int, ...] = ()
    kinds: tuple[EdgeKind, ...] = ()
    edge_args: tuple[str, ...] = ()
    inputs: tuple[object, ...] = ()
    structural_id: bytes = b""
    """16 bytes: template, literals by content, and for an impure node its ordinal."""
    value: Any = None
    """Of a gather the container, with lazy values in it; of a literal the value; of a router its keys."""
    columns: frozenset[str] = frozenset()
    """For a map over lazy lists: keyword arguments whose literal value is a list to be indexed by child."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """For a map's child: keyword arguments given by `unmapped`, the same dict for every child. They are in
    `kwargs` too."""
    map_count: int = -1
    """For the first child of a map over a known list: how many children follow each other from here. For a
    MAP with columns: how long those lists are, which the lazy ones have to be too. Otherwise -1."""

    timer: tuple[float | None, str] | None = None
    """For a WAIT: its delay in seconds (None: it is lazy). For a RECV: its bound, and its topic."""

    @property
    def edges(self) -> list[Edge]:
        """The node's edges as records."""
        triples = zip(self.sources, self.kinds, self.edge_args, strict=True)
        return [Edge(source, self.index, kind, arg) for source, kind, arg in triples]


@dataclass(frozen=True, slots=True)
class JumpTable:
    """Where the jumps of a node lead: per key the node to go on with, or -1 where the loop ends."""

    node: int
    keys: tuple[Any, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JumpEntry:
    """A node that is jumped to: its parameters, the first one first, and per input those in which it stands.

    A last name of "**" says that it takes any other name too.
    """

    node: int
    names: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class MapRange:
    """The children of a map over a known list: `count` nodes from `first` on."""

    first: int
    count: int


@dataclass(slots=True)
class Graph:
    """A whole graph in memory, for tools; a submit streams nodes instead of keeping them."""

    nodes: list[Node]
    target: int
    template_id: bytes
    maps: list[MapRange] = field(default_factory=list)
    jumps: list[tuple[int, int, str]] = field(default_factory=list)
    """Where jumps lead: (node, the node that the run goes on with, the key as a bounded text)."""

    @property
    def edges(self) -> list[Edge]:
        """All edges, by consumer."""
        return [edge for node in self.nodes for edge in node.edges]

    @property
    def structural_id(self) -> bytes:
        """The structural id of the target: equal targets have equal ids in every process."""
        return self.nodes[self.target].structural_id
