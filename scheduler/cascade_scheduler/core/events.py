"""What can happen. Every event is a named tuple of plain values; the time comes with the turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias, Union

from cascade_scheduler.core.cached import Recovered
from cascade_scheduler.core.commands import LoopCounts
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.plans import Plan
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue

__all__ = [
    "CacheAnswered",
    "AttemptCancelled",
    "AttemptDone",
    "AttemptFailed",
    "AttemptLost",
    "AttemptReturned",
    "AttemptTail",
    "ConstraintSet",
    "ConstraintsCleared",
    "ConstraintsLoaded",
    "Event",
    "Held",
    "LastAttempt",
    "LeaseProgress",
    "MessageArrived",
    "NextFrame",
    "PlanMade",
    "Report",
    "ResourceReported",
    "RunCancelRequested",
    "RosterKnown",
    "RunForgotten",
    "RunRecovered",
    "RunSubmitted",
    "Tick",
    "WorkerConnected",
    "WorkerDisconnected",
    "WorkerKnown",
    "WorkerReported",
]


class RunSubmitted(NamedTuple):
    """A whole, validated graph and its plan are in. `on_failure` is "cancel" or "finish"; pools in micros."""

    run_id: str
    graph: Graph
    plan: Plan
    name: str = ""
    on_failure: str = "cancel"
    logs: bool = False
    pools: tuple[tuple[str, int], ...] = ()
    hits: Mapping[int, bytes | BlobValue] | None = None
    """Values that the cluster's cache had; None: it was not asked."""
    recovered: Recovered | None = None
    """Results of an earlier life of the run, when it is resumed."""


class WorkerKnown(NamedTuple):
    """A worker that the last scheduler had on its books. Amounts in micros."""

    worker: str
    name: str
    amounts: tuple[tuple[str, int], ...]


class RosterKnown(NamedTuple):
    """The workers of the last scheduler: they have so many seconds to come."""

    workers: tuple[WorkerKnown, ...]
    grace: float


class LastAttempt(NamedTuple):
    """The last attempt that was made of a node."""

    attempt: int
    try_: int
    worker: str
    started: bool
    """It was told that it has begun."""
    behind: int = 0
    """It was sent as a follower of this attempt."""


class RunRecovered(NamedTuple):
    """A run of the last scheduler that had not ended. Pools in micros; places are (node, child or -1)."""

    run_id: str
    graph: Graph
    plan: Plan
    name: str
    on_failure: str
    logs: bool
    pools: tuple[tuple[str, int], ...]
    submitted: float
    recovered: Recovered
    attempts: Mapping[tuple[int, int], LastAttempt]
    delays: Mapping[tuple[int, int], tuple[int, float]] = {}
    """Nodes between two tries: how many have failed, and when the next one begins."""
    failures: Mapping[tuple[int, int], tuple[ErrorInfo, str]] = {}
    """Nodes that have failed: why, and the task that raised."""
    cancelled: bool = False
    frame: NextFrame | None = None
    """What the present frame was made of; None for the first one."""
    counts: LoopCounts = LoopCounts()
    number: int = 0
    """How many frames there were before."""
    iterations: int = 0
    """Steps of the lease that were counted."""
    begun: bool = True
    """It was told that it has begun."""
    steps_told: int = 0
    """Steps of a loop that somebody was told of."""


class CacheAnswered(NamedTuple):
    """The answer to a question of the cluster's cache; `trouble`: why there is none, in words."""

    frame_id: str
    node: int
    number: int
    value: bytes | BlobValue | None = None
    trouble: str = ""


class RunCancelRequested(NamedTuple):
    """Somebody wants the run stopped."""

    run_id: str
    reason: str = ""


class RunForgotten(NamedTuple):
    """A finished run is no longer kept."""

    run_id: str


class Held(NamedTuple):
    """An attempt that a worker says it holds; `state` is "waiting", "running" or "finished"."""

    attempt: int
    state: str


class WorkerConnected(NamedTuple):
    """A worker's Hello. Amounts in micros."""

    worker: str
    name: str
    amounts: tuple[tuple[str, int], ...]
    async_credits: int
    ahead_credits: int
    address: str
    host: str = ""
    pid: int = 0
    held: tuple[Held, ...] = ()
    objects: tuple[int, ...] = ()
    draining: bool = False
    sync_credits: int = 64


class WorkerDisconnected(NamedTuple):
    """The worker's stream ended; `gone` when it said good-bye and will not come back."""

    worker: str
    reason: str
    gone: bool = False


class AttemptDone(NamedTuple):
    """The attempt returned. `items` are the pickles of a small split list. `cached`: no user code ran."""

    attempt: int
    value: bytes | ObjectValue | BlobValue
    duration: float = 0.0
    preview: str = ""
    truth: bool | None = None
    length: int | None = None
    items: tuple[bytes, ...] = ()
    observe_error: ErrorInfo | None = None
    routes: tuple[int, ...] = ()
    """Per router asked for: the index of the key that the value is; -1: it is none of them."""
    route_text: str = ""
    """Per router with -1, a line that says so, naming value and keys."""
    amount: int | None = None
    """The value in micros."""
    digest: bytes = b""
    cached: bool = False
    iterations: int = 0
    """Steps that a leased loop took before."""


class AttemptFailed(NamedTuple):
    """The attempt raised. `kind` is "raised", "timeout", "unloadable" or "input_lost"."""

    attempt: int
    error: ErrorInfo
    kind: str = "raised"
    retryable: bool = True
    lost_inputs: tuple[int, ...] = ()
    duration: float = 0.0


class AttemptLost(NamedTuple):
    """The attempt's executor died; `innocent` when it was stopped for another attempt's sake."""

    attempt: int
    reason: str
    innocent: bool = False


class AttemptReturned(NamedTuple):
    """The attempt had not started and was given back."""

    attempt: int


class AttemptCancelled(NamedTuple):
    """The attempt was stopped on request."""

    attempt: int
    killed: bool = False


class NextFrame(NamedTuple):
    """A graph that a task has returned, for a run or a node to go on as."""

    graph: Graph
    plan: Plan | None
    """None: it is not known yet, and has to be asked for."""
    key: bytes = b""
    """Names the plan."""
    pins: tuple[bytes, ...] = ()
    """What the shell keeps for it."""
    size: int = 0
    """What it counts as, in bytes."""
    stored: object = None
    """What the store takes of it; the core passes it on unread."""


class AttemptTail(NamedTuple):
    """The attempt returned a target."""

    attempt: int
    frame: NextFrame
    duration: float = 0.0
    preview: str = ""
    iterations: int = 0
    """Steps that a leased loop took before."""


class PlanMade(NamedTuple):
    """The plan that a `PlanWanted` asked for; None: there is none, because of `error`."""

    frame_id: str
    number: int
    plan: Plan | None
    error: str = ""


Report: TypeAlias = Union[
    AttemptDone, AttemptTail, AttemptFailed, AttemptLost, AttemptReturned, AttemptCancelled
]


class ResourceReported(NamedTuple):
    """A resource was set up or torn down; `attempt` is 0 when that was not for one. Seconds."""

    run_id: str
    name: str
    released: bool = False
    reason: str = ""
    attempt: int = 0
    duration: float = 0.0


class LeaseProgress(NamedTuple):
    """A leased loop has taken so many steps beyond its first, and this one runs."""

    attempt: int
    iterations: int
    args: bytes
    node_id: bytes


class WorkerReported(NamedTuple):
    """What a worker said since its last message; `promised`: the last number of an `AskPromise` it keeps."""

    worker: str
    reports: tuple[Report, ...] = ()
    started: tuple[int, ...] = ()
    draining: bool = False
    promised: int = 0
    resources: tuple[ResourceReported, ...] = ()
    closed_runs: tuple[str, ...] = ()
    """Runs whose resources are torn down."""
    leases: tuple[LeaseProgress, ...] = ()
    copies: tuple[int, ...] = ()
    """Objects, by attempt, that it has fetched whole."""


class ConstraintSet(NamedTuple):
    """Somebody sets a limit, which was checked; `ConstraintsAnswered` with the number follows."""

    constraint: Constraint
    request: int


class ConstraintsCleared(NamedTuple):
    """Somebody removes the limits that fit all that is given; `ConstraintsAnswered` follows at once."""

    request: int
    id: str = ""
    scope: str = ""
    type: str = ""


class ConstraintsLoaded(NamedTuple):
    """The limits that held when the last scheduler ended."""

    constraints: tuple[Constraint, ...]


class MessageArrived(NamedTuple):
    """A message for recvs; `payload` is the pickle of their value, which nobody reads on the way.

    A retained one is kept for recvs that come later; an empty one takes it back.
    """

    topic: str
    payload: bytes
    retained: bool = False


class Tick(NamedTuple):
    """Time has passed; comes last in a turn."""


Event: TypeAlias = Union[
    CacheAnswered,
    RosterKnown,
    RunRecovered,
    RunSubmitted,
    PlanMade,
    RunCancelRequested,
    RunForgotten,
    WorkerConnected,
    WorkerDisconnected,
    WorkerReported,
    ConstraintSet,
    ConstraintsCleared,
    ConstraintsLoaded,
    MessageArrived,
    Tick,
]
