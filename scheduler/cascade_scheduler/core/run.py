"""One run: where each of its nodes stands, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cascade_scheduler.core.graph import Graph, NodeKind, Spec
from cascade_scheduler.core.plans import AmountClass, Plan
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue, Value

__all__ = [
    "ACTIVE",
    "DELAYED",
    "DONE",
    "FAILED",
    "READY",
    "SKIPPED",
    "STATE_NAMES",
    "WAITING",
    "Expansion",
    "Run",
    "Skip",
]

WAITING, READY, ACTIVE, DELAYED, DONE, SKIPPED, FAILED = range(7)
STATE_NAMES = ("waiting", "ready", "running", "waiting to retry", "done", "skipped", "failed")


class Skip(NamedTuple):
    """Why a node was skipped, and which source decided it."""

    reason: str
    source: int


class Expansion(NamedTuple):
    """The children that a map over lazy lists became: `size` nodes from `first` on."""

    first: int
    size: int


class Run:
    """The state of one run. Nodes beyond the graph's are children of maps over lazy lists."""

    __slots__ = (
        "active",
        "built",
        "children",
        "delays",
        "done",
        "ended",
        "error",
        "expansions",
        "failed",
        "failed_task",
        "finished_once",
        "graph",
        "items",
        "lanes",
        "lengths",
        "logs",
        "losses",
        "map_left",
        "name",
        "nodes_active",
        "observe_errors",
        "on_failure",
        "pending",
        "plan",
        "ready",
        "retried",
        "run_id",
        "sequence",
        "skipped",
        "skips",
        "state",
        "status",
        "submitted",
        "total",
        "tries",
        "truths",
        "uses",
        "values",
        "vtime",
        "waiting_retry",
    )

    def __init__(
        self,
        run_id: str,
        name: str,
        graph: Graph,
        plan: Plan,
        on_failure: str,
        logs: bool,
        now: float,
        sequence: int,
    ) -> None:
        self.run_id = run_id
        self.name = name
        self.graph = graph
        self.plan = plan
        self.on_failure = on_failure
        self.logs = logs
        self.submitted = now
        self.ended = 0.0
        self.sequence = sequence
        self.state = "running"
        self.status = bytearray(graph.size)
        self.pending = plan.indegree.copy()
        """Edges per node that have not been answered."""
        self.uses = plan.uses.copy()
        """Per node: consumers that still need its value."""
        self.values: dict[int, bytes | ObjectValue | BlobValue] = {}
        self.built: dict[int, Value] = {}
        """Values of structural nodes, put together once."""
        self.truths: dict[int, bool] = {}
        self.lengths: dict[int, int] = {}
        self.items: dict[int, tuple[bytes, ...]] = {}
        self.observe_errors: dict[int, ErrorInfo] = {}
        self.skips: dict[int, Skip] = {}
        self.tries: dict[int, int] = {}
        """Executions that failed, for nodes that failed at least once."""
        self.delays: dict[int, int] = {}
        """Node between two tries → the number of its wait."""
        self.losses: dict[int, int] = {}
        self.nodes_active: dict[int, int] = {}
        """Node → the id of its current attempt."""
        self.children: list[tuple[int, int]] = []
        """Per node beyond the graph's: (map, index)."""
        self.expansions: dict[int, Expansion] = {}
        self.map_left: dict[int, int] = {}
        """Children of a map that have not finished."""
        self.finished_once: set[int] = set()
        """Nodes that are being made again; they have had their finish event."""
        self.lanes: dict[AmountClass, object] = {}
        self.vtime = 0.0
        self.error: ErrorInfo | None = None
        self.failed_task = ""
        self.total = plan.calls
        self.done = 0
        self.skipped = 0
        self.failed = 0
        self.retried = 0
        self.active = 0
        self.ready = 0
        self.waiting_retry = 0

    @property
    def live(self) -> bool:
        """The run has not ended."""
        return self.state in ("running", "cancelling")

    def spec(self, node: int) -> Spec:
        """The node's spec; a child has its map's."""
        graph = self.graph
        if node < graph.size:
            return graph.specs[graph.node_spec[node]]
        return graph.spec(self.children[node - graph.size][0])

    def origin(self, node: int) -> tuple[int, int]:
        """(node of the graph, child index or -1)."""
        extra = node - self.graph.size
        if extra < 0:
            return node, -1
        return self.children[extra]

    def runs_code(self, node: int) -> bool:
        """The node is dispatched to workers; all others are structural."""
        return node >= self.graph.size or self.graph.spec(node).kind == NodeKind.CALL

    def consumers(self, node: int) -> Iterator[int]:
        """Nodes that wait for this one, one entry an edge."""
        if node >= self.graph.size:
            yield self.children[node - self.graph.size][0]
        else:
            plan = self.plan
            yield from plan.consumers[plan.consumer_start[node] : plan.consumer_start[node + 1]]

    def inputs(self, node: int) -> list[int]:
        """The nodes whose values this one holds on to; a map holds its children's too."""
        if node >= self.graph.size:
            return []  # its map holds the lists until all children have finished
        sources = self.graph.inputs(node)
        expansion = self.expansions.get(node)
        if expansion is not None:
            sources.extend(range(expansion.first, expansion.first + expansion.size))
        return sources

    def is_leaf(self, node: int) -> bool:
        """The node's value is the target's, or part of it."""
        origin, _ = self.origin(node)
        return bool(self.plan.leaves[origin])

    def height(self, node: int) -> int:
        """Length of the longest chain of calls that waits for it."""
        return self.plan.heights[self.origin(node)[0]]

    def observe(self, node: int) -> int:
        """Bits of what has to be observed of the value; nothing of a map's child."""
        return self.plan.observe[node] if node < self.graph.size else 0

    def key(self, node: int) -> str:
        """The node's structural id in hex; a child's has its index in brackets."""
        origin, index = self.origin(node)
        text = self.graph.node_ids[16 * origin : 16 * origin + 16].hex()
        return text if index < 0 else f"{text}[{index}]"

    def task(self, node: int) -> str:
        """The node's name as people see it."""
        origin, index = self.origin(node)
        if index >= 0:
            return f"{self.graph.spec(origin).name}[{index}]"
        return self.graph.name(origin)
