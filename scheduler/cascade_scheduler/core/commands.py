"""What the shell must now do. Every command is a named tuple of plain values.

Commands to clients (`TargetValue`, `RunEnded`) and the acknowledgement of the reports that led to them wait
until the records of the same turn (`Save…`) are in the store; assignments do not wait.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.graph import Graph, JumpTable, Spec
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue, Value

__all__ = [
    "StoreCached",
    "LookUpCached",
    "AskPromise",
    "Assign",
    "CancelAttempt",
    "CloseRun",
    "Command",
    "ConstraintsAnswered",
    "DropConstraint",
    "DropWorker",
    "EventRecord",
    "FrameGone",
    "LoopCounts",
    "PlanWanted",
    "RecallLease",
    "ReleaseObject",
    "RetractAttempt",
    "RunEnded",
    "RunRefused",
    "SaveAttempt",
    "SaveCancel",
    "SaveCheckpoint",
    "SaveConstraint",
    "SaveDue",
    "SaveFacts",
    "SaveFailure",
    "SaveFrame",
    "SaveOutcome",
    "SaveResult",
    "SaveSkip",
    "SaveWorker",
    "TargetValue",
    "WelcomeWorker",
    "WorkerGone",
]


class Assign(NamedTuple):
    """Start an attempt on a worker."""

    worker: str
    attempt: int
    run_id: str
    node: int
    spec: Spec
    function: bytes
    try_: int
    args: bytes
    args_blob: BlobValue | None
    inputs: tuple[Value, ...]
    ahead: bool
    observe: int
    publish: bool
    node_id: str
    map_index: int
    amounts: tuple[tuple[str, int], ...] | None = None
    """What the worker has to give, when that is not what the spec says."""
    route_keys: tuple[bytes, ...] = ()
    """Per router that the value may select a route of: the pickled tuple of keys."""
    observe_only: bool = False
    """No user code: only observe the first input."""
    tail: bool = False
    """The value may be the target's as it is."""
    frame_id: str = ""
    """The nested frame that the node is in; empty: none."""
    whole: bool = False
    """No user code: the value is that of the first input, put together."""
    overrides: bytes = b""
    """A pickle that is laid over the arguments."""
    jump: JumpTable | None = None
    """Where jumps lead."""
    lease: bool = False
    """The worker goes on with the loop by itself."""
    behind: int = 0
    """It is a follower of this attempt, and waits for its value; see `followers`."""
    step: int = 0
    """Of a loop: how many were taken before."""
    within: str = ""
    """Names a nested frame, the same whenever it is made again."""


class LookUpCached(NamedTuple):
    """Look a value key up in the cluster's cache; `CacheAnswered` has to follow, within about a second."""

    frame_id: str
    node: int
    number: int
    key: bytes


class StoreCached(NamedTuple):
    """Keep a value in the cluster's cache; a failure has no effect."""

    task: str
    key: bytes
    value: bytes | BlobValue


class RetractAttempt(NamedTuple):
    """Give an attempt back when it has not started."""

    worker: str
    attempt: int


class CancelAttempt(NamedTuple):
    """Stop an attempt."""

    worker: str
    attempt: int


class CloseRun(NamedTuple):
    """Have a worker tear down the resources of a run, and say when that is done."""

    worker: str
    run_id: str


class ReleaseObject(NamedTuple):
    """Nobody needs the object any more."""

    worker: str
    attempt: int


class AskPromise(NamedTuple):
    """Have the worker say with this number that nothing it was asked to give back will start any more."""

    worker: str
    number: int


class ConstraintsAnswered(NamedTuple):
    """A request about limits is settled: those that were set or removed, or why none was."""

    request: int
    constraints: tuple[Constraint, ...]
    error: str = ""


class WelcomeWorker(NamedTuple):
    """Answer a worker's Hello: what to keep, drop, only forget, and which objects to release."""

    worker: str
    keep: tuple[int, ...]
    drop: tuple[int, ...]
    known: tuple[int, ...]
    release: tuple[int, ...]


class WorkerGone(NamedTuple):
    """The worker is off the books; a session it may still have must end."""

    worker: str
    reason: str


class RunRefused(NamedTuple):
    """The run was not taken; `code` is "infeasible"."""

    run_id: str
    code: str
    message: str


class TargetValue(NamedTuple):
    """A value that the target's value is made of."""

    run_id: str
    node: int
    value: bytes | ObjectValue | BlobValue


class RunEnded(NamedTuple):
    """The run's last word; `state` is "succeeded", "failed" or "cancelled"."""

    run_id: str
    state: str
    error: ErrorInfo | None
    failed_task: str
    skip_reason: str
    skipped_node: int
    skipped_dependency: str
    duration: float


class EventRecord(NamedTuple):
    """An event of SEMANTICS §12; `kind` is its name. Times in seconds."""

    run_id: str
    kind: str
    at: float
    node: int = -1
    task: str = ""
    status: str = ""
    reason: str = ""
    error: str = ""
    preview: str = ""
    worker: str = ""
    duration: float = 0.0
    attempt: int = 0
    max_attempts: int = 0
    delay: float = 0.0
    node_id: str = ""
    """The node's key, where its number says nothing: in all frames but a run's first."""
    iterations: int = 0
    resource: str = ""
    """The name of a resource."""


class RecallLease(NamedTuple):
    """A leased attempt is to take no further step by itself."""

    worker: str
    attempt: int


class LoopCounts(NamedTuple):
    """How far a loop has come: nodes of earlier frames, and steps."""

    total: int = 0
    done: int = 0
    skipped: int = 0
    steps: int = 0
    own: int = 0
    """Of these steps, those that were none of nested graphs."""


class SaveCheckpoint(NamedTuple):
    """A leased loop has come so far: the node of its frame has other arguments now."""

    run_id: str
    number: int
    node_id: bytes
    args: bytes
    iterations: int = 0
    """Steps of the lease."""
    counts: LoopCounts = LoopCounts()


class PlanWanted(NamedTuple):
    """The plan of a frame is to be made; `PlanMade` has to follow."""

    frame_id: str
    number: int
    graph: Graph
    key: bytes


class FrameGone(NamedTuple):
    """A frame is no longer needed, nor what the shell kept for it."""

    pins: tuple[bytes, ...]
    size: int


class SaveFrame(NamedTuple):
    """The run goes on as another graph: what was saved of the last one is void."""

    run_id: str
    number: int
    stored: object
    counts: LoopCounts = LoopCounts()


class SaveAttempt(NamedTuple):
    """The node's current attempt, so that a restarted scheduler knows it."""

    run_id: str
    node: int
    """Of a map's child: the map."""
    attempt: int
    try_: int
    worker: str
    child: int = -1
    """Of a map's child: which."""
    behind: int = 0
    """It was sent as a follower of this attempt: it counts if that made the accepted value of its input."""


class SaveDue(NamedTuple):
    """The node waits until a time, between two tries, or because it is a wait or recv."""

    run_id: str
    node: int
    child: int
    """As of `SaveAttempt`."""
    tries: int
    """So many have failed."""
    at: float
    """Seconds since the Unix epoch."""


class SaveFacts(NamedTuple):
    """All that has been observed of a node's value; `key` as of `SaveResult`."""

    run_id: str
    node: int
    key: str
    facts: Facts


class SaveFailure(NamedTuple):
    """A node has failed for good; `node` and `child` as of `SaveAttempt`."""

    run_id: str
    node: int
    child: int
    error: ErrorInfo
    task: str


class SaveCancel(NamedTuple):
    """The run is being cancelled."""

    run_id: str


class SaveWorker(NamedTuple):
    """A worker is on the books. Amounts in micros."""

    worker: str
    name: str
    amounts: tuple[tuple[str, int], ...]


class DropWorker(NamedTuple):
    """A worker is off the books."""

    worker: str


class SaveResult(NamedTuple):
    """A node's accepted result; `key` is its field in the results hash."""

    run_id: str
    node: int
    key: str
    attempt: int
    value: bytes | ObjectValue | BlobValue
    truth: bool | None = None
    length: int | None = None


class SaveSkip(NamedTuple):
    """A node was skipped; `key` is its field in the skips hash."""

    run_id: str
    node: int
    key: str
    reason: str


class SaveConstraint(NamedTuple):
    """A limit holds."""

    constraint: Constraint


class DropConstraint(NamedTuple):
    """A limit holds no longer."""

    id: str


class SaveOutcome(NamedTuple):
    """The run has ended."""

    run_id: str
    state: str
    error: str


Command: TypeAlias = Union[
    StoreCached,
    LookUpCached,
    Assign,
    RetractAttempt,
    CancelAttempt,
    CloseRun,
    ReleaseObject,
    AskPromise,
    WelcomeWorker,
    WorkerGone,
    ConstraintsAnswered,
    RunRefused,
    TargetValue,
    RunEnded,
    EventRecord,
    PlanWanted,
    FrameGone,
    RecallLease,
    SaveFrame,
    SaveCheckpoint,
    SaveAttempt,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveCancel,
    SaveResult,
    SaveSkip,
    SaveOutcome,
    SaveConstraint,
    DropConstraint,
    SaveWorker,
    DropWorker,
]
