"""What a cluster says about itself, its runs and its workers, as frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Any

from cascade_dist.client.events import seconds
from cascade_dist.config import MICROS, format_duration

if TYPE_CHECKING:
    from cascade_dist.v1 import client_pb2 as pb
    from cascade_dist.v1 import graph_pb2

__all__ = [
    "ClusterStatus",
    "Garbage",
    "NodeInfo",
    "Progress",
    "RunDetails",
    "RunInfo",
    "RunStatus",
    "WorkerInfo",
]


class RunStatus(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The scheduler cannot be reached any more; nobody here knows how the run stands."""

    @property
    def finished(self) -> bool:
        """Nothing will happen to the run any more, as far as this client will learn."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.CANCELLING)


_STATES = (
    RunStatus.PENDING,
    RunStatus.PENDING,
    RunStatus.RUNNING,
    RunStatus.CANCELLING,
    RunStatus.SUCCEEDED,
    RunStatus.FAILED,
    RunStatus.CANCELLED,
)


def status_of(state: int) -> RunStatus:
    """The status of a wire `RunState`; one that this version does not know counts as running."""
    return _STATES[state] if 0 <= state < len(_STATES) else RunStatus.RUNNING


class Record:
    """A frozen dataclass with a form for JSON, and one for notebooks."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, for JSON."""
        return _plain(dataclasses.asdict(self))  # type: ignore[call-overload,no-any-return]

    def _repr_html_(self) -> str:
        return html_table(self.to_dict().items())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, StrEnum) else value


def html_table(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values as an HTML table."""
    cells = "".join(f"<tr><th>{escape(str(n))}</th><td>{escape(str(v))}</td></tr>" for n, v in rows)
    return f"<table>{cells}</table>"


@dataclass(frozen=True, slots=True)
class Progress(Record):
    """A run's nodes, counted.

    Attributes:
        total: nodes that run code.
        done: with a result.
        running: on workers.
        skipped: not to run.
        failed: failed for good.
        retried: attempts that were tried again.
    """

    total: int = 0
    done: int = 0
    running: int = 0
    skipped: int = 0
    failed: int = 0
    retried: int = 0

    def __str__(self) -> str:
        counts = [(getattr(self, name), name) for name in ("running", "skipped", "failed", "retried")]
        return ", ".join([f"{self.done}/{self.total} done", *(f"{n} {name}" for n, name in counts if n)])


def progress_counts(message: pb.Progress) -> tuple[int, ...]:
    """What a wire message counts, in the order of the record's fields."""
    return (message.total, message.done, message.running, message.skipped, message.failed, message.retried)


def decode_progress(message: pb.Progress) -> Progress:
    """The record of a wire message."""
    return Progress(*progress_counts(message))


@dataclass(frozen=True, slots=True)
class RunInfo(Record):
    """A run in short.

    Attributes:
        run_id: the run.
        name: for people; may be empty.
        status: where it stands.
        progress: in numbers.
        submitted: when it was accepted, UTC.
        duration: seconds that it has taken.
        error: ``Type: message`` when it failed, else empty.
    """

    run_id: str
    name: str
    status: RunStatus
    progress: Progress
    submitted: datetime
    duration: float
    error: str


def decode_run_info(message: pb.RunInfo) -> RunInfo:
    """The record of a wire message."""
    return RunInfo(
        message.run_id,
        message.name,
        status_of(message.state),
        decode_progress(message.progress),
        message.submitted.ToDatetime(tzinfo=UTC),
        seconds(message.duration),
        message.error,
    )


@dataclass(frozen=True, slots=True)
class NodeInfo(Record):
    """A node that is not finished: its task's name, ``state`` such as ``running``, and why it waits."""

    node: int
    task: str
    state: str
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeExplanation(Record):
    """Why a node is where it is.

    Attributes:
        node: the node in short.
        node_id: hex of its structural id; a map's child has its index in brackets.
        reasons: sentences, the most important one first.
    """

    node: NodeInfo
    node_id: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.node.task} (node {self.node.node}, {self.node.state})"
        return "\n".join([head, *(f"  {reason}" for reason in self.reasons)])


def decode_explanation(message: pb.NodeExplanation) -> NodeExplanation:
    """The record of a wire message."""
    n = message.node
    info = NodeInfo(n.node, n.task, n.state, n.worker, n.reason)
    return NodeExplanation(info, message.node_id, tuple(message.reasons))


@dataclass(frozen=True, slots=True)
class RunDetails(Record):
    """A run, and some of its nodes that are not finished."""

    run: RunInfo
    nodes: tuple[NodeInfo, ...] = ()


def decode_run_details(message: pb.GetRunResponse) -> RunDetails:
    """The record of a wire message."""
    nodes = tuple(NodeInfo(n.node, n.task, n.state, n.worker, n.reason) for n in message.nodes)
    return RunDetails(decode_run_info(message.run), nodes)


@dataclass(frozen=True, slots=True)
class WorkerInfo(Record):
    """A worker in short.

    Attributes:
        worker_id: its id.
        name: for people.
        state: ``connected``, ``draining`` or ``disconnected``.
        amounts: what it has, by name.
        free: what of it is free.
        running: attempts that run.
        queued: attempts that wait on it.
        host: its machine.
        pid: its process.
        silent: seconds since its last message.
        python: its version of Python.
        version: its version of Cascade Dist.
    """

    worker_id: str
    name: str
    state: str
    amounts: Mapping[str, float]
    free: Mapping[str, float]
    running: int
    queued: int
    host: str
    pid: int
    silent: float
    python: str
    version: str


def amounts_of(amounts: Iterable[graph_pb2.Amount]) -> dict[str, float]:
    """Amounts in units, by name."""
    return {a.name: a.micros // MICROS if a.micros % MICROS == 0 else a.micros / MICROS for a in amounts}


def decode_worker(message: pb.WorkerInfo) -> WorkerInfo:
    """The record of a wire message."""
    return WorkerInfo(
        message.worker_id,
        message.name,
        message.state,
        amounts_of(message.amounts),
        amounts_of(message.free),
        message.running,
        message.queued,
        message.host,
        message.pid,
        seconds(message.silent),
        message.versions.python,
        message.versions.cascade,
    )


@dataclass(frozen=True, slots=True)
class Garbage(Record):
    """What of one kind nobody needed any more.

    Attributes:
        kind: ``run keys``, ``index entries``, ``blobs`` or ``leftovers``.
        count: how many.
        bytes: how large in sum, as far as that is known.
        names: which, the first hundred; of run keys, the runs.
        error: why nothing could be looked for; empty when it could.
    """

    kind: str
    count: int
    bytes: int
    names: tuple[str, ...] = ()
    error: str = ""


def decode_garbage(message: pb.Garbage) -> Garbage:
    """The record of a wire message."""
    return Garbage(message.kind, message.count, message.bytes, tuple(message.names), message.error)


@dataclass(frozen=True, slots=True)
class ClusterStatus(Record):
    """The cluster in numbers.

    Attributes:
        address: of the scheduler, as bound.
        version: of Cascade Dist at the scheduler.
        python: of Python there.
        uptime: seconds since the scheduler's start.
        epoch: which life of the scheduler this is.
        state: where runs are kept.
        workers: how many are connected.
        amounts: what all workers have, by name.
        free: what of it is free.
        runs_active: runs that have not finished.
        nodes_ready: nodes that wait for a place.
        nodes_running: nodes on workers.
        plans_solved: plans made.
        plans_hit: plans found in the cache.
        leases: loops that were left to workers.
        loop_steps: steps of loops.
        pools: what all nodes of the cluster share, by name.
        pools_free: what of it is free.
    """

    address: str
    version: str
    python: str
    uptime: float
    epoch: int
    state: str
    workers: int
    amounts: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)
    runs_active: int = 0
    nodes_ready: int = 0
    nodes_running: int = 0
    plans_solved: int = 0
    plans_hit: int = 0
    leases: int = 0
    loop_steps: int = 0
    pools: Mapping[str, float] = field(default_factory=dict)
    pools_free: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"scheduler {self.version} at {self.address}, up {format_duration(self.uptime)}, "
            f"{self.workers} workers, {self.runs_active} active runs"
        )


def decode_status(message: pb.GetStatusResponse) -> ClusterStatus:
    """The record of a wire message."""
    return ClusterStatus(
        message.address,
        message.versions.cascade,
        message.versions.python,
        seconds(message.uptime),
        message.epoch,
        message.state,
        message.workers,
        amounts_of(message.amounts),
        amounts_of(message.free),
        message.runs_active,
        message.nodes_ready,
        message.nodes_running,
        message.plans_solved,
        message.plans_hit,
        message.leases,
        message.loop_steps,
        amounts_of(message.pools),
        amounts_of(message.pools_free),
    )
