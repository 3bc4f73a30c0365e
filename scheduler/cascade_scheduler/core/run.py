"""One run: where each of its nodes stands, in columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from cascade_scheduler.core.cached import Cached
from cascade_scheduler.core.candidates import OBSERVE_DIGEST
from cascade_scheduler.core.graph import Graph, NodeKind, Spec
from cascade_scheduler.core.picks import Picks
from cascade_scheduler.core.plans import AmountClass, Plan
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue, Value

if TYPE_CHECKING:
    from cascade_scheduler.core.events import NextFrame
    from cascade_scheduler.core.worker import Attempt

__all__ = [
    "ACTIVE",
    "DELAYED",
    "DONE",
    "FAILED",
    "LIVE",
    "NESTED",
    "READY",
    "SKIPPED",
    "STATE_NAMES",
    "WAITING",
    "Expansion",
    "Loop",
    "Observation",
    "Run",
    "Skip",
]

WAITING, READY, ACTIVE, DELAYED, DONE, SKIPPED, FAILED, NESTED = range(8)
LIVE = ("running", "cancelling", "closing")
"""States of a run that has not ended."""
STATE_NAMES = ("waiting", "ready", "running", "waiting to retry", "done", "skipped", "failed", "nested")


class Skip(NamedTuple):
    """Why a node was skipped, and which source decided it."""

    reason: str
    source: int


class Expansion(NamedTuple):
    """The children that a map over lazy lists became: `size` nodes from `first` on."""

    first: int
    size: int


class Observation:
    """Facts about a value that are being found out by an attempt of their own."""

    __slots__ = ("attempt", "bits", "losses", "routers")

    def __init__(self, bits: int, routers: tuple[int, ...]) -> None:
        self.attempt = 0
        """0: it waits for a worker."""
        self.bits = bits
        self.routers = routers
        """Those among whose keys the value is to be looked for."""
        self.losses = 0


class Loop:
    """What a run that went on as a returned target has beside its frame, and every nested frame."""

    def __init__(self) -> None:
        self.number = 0
        """How many frames there were before this one."""
        self.next: NextFrame | None = None
        """What the run goes on as, when the old frame has stopped and the plan is there."""
        self.asked = False
        """The plan of the next frame is being made."""
        self.frame: NextFrame | None = None
        """What the present frame was made of; None for the first one of a run."""
        self.total = 0
        self.done = 0
        self.skipped = 0
        """Nodes of earlier frames, counted."""
        self.same = 0
        """So many steps in a row have been calls of the task of the present one."""
        self.steps = 0
        """Of the run, those of nested frames and of leases among them."""
        self.own = 0
        """Of these steps, those that were none of nested frames."""
        self.told = 0
        """Steps that somebody was told of."""
        self.period_began = 0.0
        self.period_steps = 0
        self.nested_nodes = 0
        """What a nested frame counts as."""
        self.first_ids = b""
        self.first_children: list[tuple[int, int]] = []
        self.first_size = 0
        """Of the first frame, by whose numbers its events name nodes."""


class Run:
    """The state of one run, or of one nested frame of it (see `frames`).

    Nodes beyond the graph's are children of maps over lazy lists.
    """

    __slots__ = (
        "active",
        "amounts_seen",
        "built",
        "cached",
        "children",
        "delays",
        "digests",
        "done",
        "ended",
        "error",
        "expansions",
        "failed",
        "failed_task",
        "finished_once",
        "followers",
        "frame_id",
        "graph",
        "held",
        "incomplete",
        "items",
        "lanes",
        "lengths",
        "logs",
        "loop",
        "losses",
        "map_left",
        "missing",
        "name",
        "nested",
        "nested_nodes",
        "nodes_active",
        "observe_errors",
        "observed",
        "observing",
        "on_failure",
        "outermost",
        "parent",
        "parent_attempt",
        "parent_node",
        "parked",
        "pending",
        "picks",
        "plan",
        "quiet",
        "ready",
        "received",
        "retried",
        "routes",
        "run_id",
        "sequence",
        "skipped",
        "skips",
        "spares",
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
        "waits",
        "watching",
        "whole",
        "within",
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
        """As users know it; a nested frame has its run's."""
        self.frame_id = run_id
        """As the books know it."""
        self.name = name
        self.on_failure = on_failure
        self.logs = logs
        self.submitted = now
        self.ended = 0.0
        self.sequence = sequence
        self.state = "running"
        self.outermost: Run | None = None
        """Of a nested frame: the run that it belongs to."""
        self.parent: Run | None = None
        """Of a nested frame: the frame with the node whose value it makes."""
        self.parent_node = -1
        self.parent_attempt = 0
        self.within = ""
        """Names the nested frame, the same whenever it is made again; of a run itself empty."""
        self.incomplete = False
        """A value was lost when the frame had come to its end."""
        self.loop: Loop | None = None
        self.held = False
        """It was recovered, and nothing is dispatched until the workers of before have had time to come."""
        self.quiet = False
        """Its steps are so fast that they have no events of their own."""
        self.nested_nodes = 0
        """Nodes of all nested frames of a run."""
        self.vtime = 0.0
        self.error: ErrorInfo | None = None
        self.failed_task = ""
        self.missing: tuple[str, int, str] | None = None
        """Why there is no value, when that is so because of a skip: reason, source and its name."""
        self.retried = 0
        self.lanes: dict[AmountClass, object] = {}
        self.lay_out(graph, plan)

    def lay_out(self, graph: Graph, plan: Plan) -> None:
        """Makes the columns for a graph, in which nothing has happened yet."""
        self.graph = graph
        self.plan = plan
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
        self.spares: dict[int, tuple[bytes | BlobValue, tuple[bytes, ...] | None, int]] | None = None
        """Small values that nobody needs unless an object made of them is lost: value, items, bytes."""
        self.observe_errors: dict[int, ErrorInfo] = {}
        self.routes: dict[tuple[int, int], int | str] = {}
        """(node, router) → which of the router's keys the node's value is, or why it is none."""
        self.amounts_seen: dict[int, int] = {}
        """Values as amounts, in micros."""
        self.digests: dict[int, bytes] = {}
        self.observed: dict[int, int] = {}
        """Bits of what an observation of its own has looked for."""
        self.observing: dict[int, Observation] = {}
        self.watching = 0
        """Attempts under way that only observe."""
        self.parked: dict[int, list[int]] = {}
        """Node → those that wait until something has been observed of its value."""
        self.waits: dict[int, int] = {}
        """Wait or recv that has begun → the number of its wait."""
        self.received: dict[int, bytes] = {}
        """Values of recvs."""
        self.picks = Picks(plan) if plan.picks else None
        self.cached = Cached() if graph.value_keys else None
        """Also of a run that is resumed, in its first frame."""
        self.skips: dict[int, Skip] = {}
        self.tries: dict[int, int] = {}
        """Executions that failed, for nodes that failed at least once."""
        self.delays: dict[int, int] = {}
        """Node between two tries → the number of its wait."""
        self.losses: dict[int, int] = {}
        self.nodes_active: dict[int, int] = {}
        """Node → the id of its current attempt."""
        self.followers: dict[int, Attempt] = {}
        """Node that waits → the attempt of it that waits on a worker for its last input; see `followers`."""
        self.children: list[tuple[int, int]] = []
        """Per node beyond the graph's: (map, index)."""
        self.expansions: dict[int, Expansion] = {}
        self.map_left: dict[int, int] = {}
        """Children of a map that have not finished."""
        self.finished_once: set[int] = set()
        """Nodes that are being made again; they have had their finish event."""
        self.nested: dict[int, Run] = {}
        """Node → the nested frame that makes its value."""
        self.whole: dict[int, Run] = {}
        """Node → the nested frame whose value, of several parts, an attempt is to put together."""
        self.total = plan.calls
        self.done = 0
        self.skipped = 0
        self.failed = 0
        self.active = 0
        self.ready = 0
        self.waiting_retry = 0

    @property
    def root(self) -> Run:
        """The run that a nested frame belongs to; of a run itself.

        No run holds on to itself, so that it goes when it is forgotten and not when garbage is collected.
        """
        return self.outermost or self

    @property
    def live(self) -> bool:
        """The run has not ended."""
        return self.state in LIVE

    @property
    def halting(self) -> bool:
        """Its next frame is there, and what the old one still has under way stops."""
        return self.loop is not None and self.loop.next is not None

    @property
    def framed(self) -> bool:
        """Its frame is not the first one, so that a node's number says nothing outside of it."""
        return self.parent is not None or (self.loop is not None and self.loop.number > 0)

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

    def resolve(self, node: int) -> int:
        """The node whose value the node has: itself, or what a router or a skipped stage stands for."""
        picks = self.picks
        return node if picks is None else picks.alias.get(node, node)

    def has_value(self, node: int) -> bool:
        """The node is done, or was skipped and lets another's value pass."""
        status = self.status[node]
        return status == DONE or (status == SKIPPED and self.picks is not None and node in self.picks.alias)

    def shut(self, node: int) -> bool:
        """The node waits until a router has chosen it."""
        picks = self.picks
        return picks is not None and node < len(picks.shut) and bool(picks.shut[node])

    def is_hit(self, node: int) -> bool:
        """The cache or an earlier life had its value, which is kept; its inputs may never have run."""
        return self.cached is not None and node in self.cached.hits

    def is_recovered(self, node: int) -> bool:
        """An earlier life of the run has left its result: it is done, whatever it waited for."""
        return self.cached is not None and node in self.cached.recovered

    def is_pruned(self, node: int) -> bool:
        """Nobody needs the node any more, so it was skipped."""
        skip = self.skips.get(node)
        return skip is not None and skip.reason == "Pruned"

    def consumers(self, node: int) -> Iterator[int]:
        """Nodes that wait for this one, one entry an edge."""
        if node >= self.graph.size:
            yield self.children[node - self.graph.size][0]
        else:
            plan = self.plan
            yield from plan.consumers[plan.consumer_start[node] : plan.consumer_start[node + 1]]
            if self.picks is not None:
                yield from self.picks.chosen_by.get(node, ())

    def inputs(self, node: int) -> list[int]:
        """The nodes whose values this one holds on to; a map holds its children's too."""
        if node >= self.graph.size:
            return []  # its map holds the lists until all children have finished
        if self.picks is not None:
            source = self.picks.source.get(node)
            if source is not None:
                return [source]
            if self.graph.spec(node).kind == NodeKind.ROUTER:
                return self.graph.routes(node)
        sources = self.graph.inputs(node)
        expansion = self.expansions.get(node)
        if expansion is not None:
            sources.extend(range(expansion.first, expansion.first + expansion.size))
        return sources

    def is_leaf(self, node: int) -> bool:
        """The node's value is the target's, or part of it."""
        if node >= self.graph.size:
            node = self.children[node - self.graph.size][0]
        return bool(self.plan.leaves[node])

    def is_told(self, node: int) -> bool:
        """Clients are told of the node's value, which is the target's or part of it."""
        return self.parent is None and self.is_leaf(node)

    @property
    def told_late(self) -> bool:
        """Which values are the target's is known at the end: routes may return what the run goes on with."""
        picks = self.picks
        return picks is not None and self.graph.spec(self.graph.target).kind == NodeKind.ROUTER

    def height(self, node: int) -> int:
        """Length of the longest chain of calls that waits for it."""
        if node >= self.graph.size:
            node = self.children[node - self.graph.size][0]
        return self.plan.heights[node]

    def observe(self, node: int) -> int:
        """Bits of what has to be observed of the value; nothing of a map's child."""
        if node >= self.graph.size:
            return 0
        bits = self.plan.observe[node]
        return bits | OBSERVE_DIGEST if node in self.graph.digested else bits

    def key(self, node: int) -> str:
        """The node's structural id in hex; a child's has its index in brackets."""
        origin, index = self.origin(node)
        text = self.graph.node_ids[16 * origin : 16 * origin + 16].hex()
        return text if index < 0 else f"{text}[{index}]"

    def first_key(self, node: int) -> str:
        """The key of a node of the run's first frame."""
        loop = self.loop
        if loop is None or not loop.number:
            return self.key(node)
        origin, index = node, -1
        if node >= loop.first_size:
            origin, index = loop.first_children[node - loop.first_size]
        text = loop.first_ids[16 * origin : 16 * origin + 16].hex()
        return text if index < 0 else f"{text}[{index}]"

    def task(self, node: int) -> str:
        """The node's name as people see it."""
        origin, index = self.origin(node)
        if index >= 0:
            return f"{self.graph.spec(origin).name}[{index}]"
        return self.graph.name(origin)
