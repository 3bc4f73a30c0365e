"""The protocol of every store, and the records that it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, Union, runtime_checkable

from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.commands import (
    DropConstraint,
    DropWorker,
    LoopCounts,
    SaveAttempt,
    SaveCancel,
    SaveCheckpoint,
    SaveConstraint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
    SaveWorker,
)
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue

__all__ = [
    "Batch",
    "Place",
    "PromptStore",
    "Record",
    "RunAnswered",
    "RunCreated",
    "RunDropped",
    "RunEnding",
    "RunEvents",
    "RunImporting",
    "RunResumed",
    "RunRenewed",
    "RunStore",
    "Standing",
    "StoreError",
    "StoreGarbage",
    "StoreFenced",
    "StoreGap",
    "StoreUnavailable",
    "StoredAnswer",
    "StoredAttempt",
    "StoredDue",
    "StoredFailure",
    "StoredFrame",
    "StoredFunction",
    "StoredHead",
    "StoredJump",
    "StoredResult",
    "StoredRun",
    "StoredWorker",
    "without_superseded",
]


class StoreError(Exception):
    """A store that cannot be used as it is; the message names it and the remedy."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now; trying again may help."""


class StoreFenced(StoreError):
    """Another scheduler has taken the store over; this one may not go on."""


class StoreGap(StoreError):
    """The store has lost what it had acknowledged; what is still held has to be written again."""


class StoredFunction(NamedTuple):
    """A function that a run needs, with its body."""

    cid: bytes
    name: str
    body: bytes
    code_hash: bytes


class StoredFrame(NamedTuple):
    """The graph that a run has gone on as: one raw message, and its end."""

    chunk: bytes
    end: bytes
    functions: tuple[StoredFunction, ...]


class StoredJump(NamedTuple):
    """The run has gone to a node of the graph that is stored: names and a pickle of replaced arguments."""

    target: int
    names: tuple[str, ...]
    overrides: bytes


class RunCreated(NamedTuple):
    """A run was taken: all that is needed to begin it again. `chunks` are the graph's raw messages."""

    run_id: str
    name: str
    on_failure: str
    logs: bool
    submitted: float
    target_id: str
    node_count: int
    params_digest: bytes
    template_id: bytes
    chunks: tuple[bytes, ...]
    end: bytes
    functions: tuple[StoredFunction, ...]
    pools: tuple[tuple[str, int], ...] = ()
    resumed: bool = False
    """It goes on with the results that are stored under its id: they stay, and all else goes."""
    params: bytes = b""
    """A pickled dict, for the workers."""
    cancel_on_disconnect: bool = False
    disconnect_grace: float = 0.0
    """Seconds."""
    imported: bool = False
    """It comes from elsewhere and is over: what `RunImporting` began is there, and is seen from now on."""


class RunImporting(NamedTuple):
    """Records of a run from elsewhere follow; nobody sees them before its `RunCreated` ends them."""

    run_id: str


class RunResumed(NamedTuple):
    """A run that had ended goes on in the graph that is stored; results stay, with what was observed."""

    run_id: str
    at: float
    """Seconds since the Unix epoch."""


class RunAnswered(NamedTuple):
    """A run has ended, and so it did: what clients are told once more after a restart.

    `finish` is the message that says so; `keys` are those of the results that the target's value is made of,
    by the numbers that the message has for them.
    """

    run_id: str
    finish: bytes
    keys: tuple[tuple[int, str], ...]


class RunEnding(NamedTuple):
    """A run has ended: its results are all there, and the next batch says how it did."""

    run_id: str


class RunEvents(NamedTuple):
    """Events of a run, packed, under the first one's id; `dropped` names pieces past the bound."""

    run_id: str
    first: int
    payload: bytes
    dropped: tuple[int, ...] = ()
    whole: bool = False
    """The run has ended, and these are all its events."""


class RunRenewed(NamedTuple):
    """A run goes on: its time to live begins anew. `at` in seconds since the Unix epoch."""

    run_id: str
    at: float


class Standing(NamedTuple):
    """What belongs to no run: these limits hold and these workers are on the books, and no others."""

    constraints: tuple[SaveConstraint, ...]
    workers: tuple[SaveWorker, ...]


class RunDropped(NamedTuple):
    """A run was refused after all, or is no longer wanted."""

    run_id: str


Record: TypeAlias = Union[
    RunCreated,
    RunImporting,
    RunResumed,
    RunEnding,
    RunEvents,
    RunRenewed,
    RunDropped,
    RunAnswered,
    SaveAttempt,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveCancel,
    SaveFrame,
    SaveCheckpoint,
    SaveResult,
    SaveSkip,
    SaveOutcome,
    SaveConstraint,
    DropConstraint,
    SaveWorker,
    DropWorker,
    Standing,
]

_OF_FRAME = (
    SaveAttempt,
    SaveCheckpoint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveResult,
    SaveSkip,
)


def without_superseded(records: Sequence[Record]) -> Sequence[Record]:
    """The records without those that a later frame of their run makes void. A jump leaves the graph there."""
    last: dict[str, int] = {}
    graph: dict[str, int] = {}
    for position, record in enumerate(records):
        if type(record) is SaveFrame:
            last[record.run_id] = position
            if isinstance(record.stored, StoredFrame):
                graph[record.run_id] = position
    if not last:
        return records
    graphs = frozenset(graph.values())
    kept: list[Record] = []
    for position, record in enumerate(records):
        void = isinstance(record, _OF_FRAME) and position < last.get(getattr(record, "run_id", ""), 0)
        if not void or position in graphs:
            kept.append(record)
    return kept


class Batch(NamedTuple):
    """Records that land together. Numbered from 1 within an epoch, without gaps."""

    number: int
    records: Sequence[Record]


class StoredResult(NamedTuple):
    """A result that was accepted."""

    attempt: int
    value: bytes | ObjectValue | BlobValue
    truth: bool | None = None
    length: int | None = None


class StoredAttempt(NamedTuple):
    """A node's last attempt."""

    attempt: int
    try_: int
    worker: str
    behind: int = 0
    """It was sent as a follower of this attempt."""


class StoredDue(NamedTuple):
    """A node waits until a time; so many of its tries have failed."""

    tries: int
    at: float


class StoredFailure(NamedTuple):
    """A node has failed; `task` names the task that raised."""

    error: ErrorInfo
    task: str


class StoredAnswer(NamedTuple):
    """How a run ended, as in `RunAnswered`."""

    finish: bytes
    keys: tuple[tuple[int, str], ...]


class StoredWorker(NamedTuple):
    """A worker that the last scheduler knew. Amounts in micros."""

    worker: str
    name: str
    amounts: tuple[tuple[str, int], ...]


class StoreGarbage(NamedTuple):
    """What nobody can use any more."""

    runs: Mapping[str, int]
    """Runs that the index does not name, or of which an import was not finished: how many keys each has."""
    bytes: int
    """What these keys take in memory."""
    entries: Sequence[str]
    """Runs that the index names, and of which nothing is left."""
    named: int
    """Other runs that the index names."""


class StoredHead(NamedTuple):
    """A run in short. Times in seconds since the Unix epoch."""

    run_id: str
    name: str
    state: str
    error: str
    submitted: float


Place: TypeAlias = tuple[int, int]
"""A node of a graph: its number, or a map's and the index of its child; else the index is -1."""


@dataclass(slots=True)
class StoredRun:
    """A run as a restarted scheduler finds it. `state` is "running" or how it ended.

    When the run had gone on as a returned target, graph and functions of `created` are those of that frame.
    """

    created: RunCreated
    state: str = "running"
    error: str = ""
    results: dict[str, StoredResult] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    attempts: dict[int, StoredAttempt] = field(default_factory=dict)
    events: Mapping[int, bytes] = field(default_factory=dict)
    frame: int = 0
    """How many frames there were before the present one."""
    checkpoint: tuple[bytes, bytes] | None = None
    """Of a leased loop: the structural id and the arguments with which its node goes on."""
    jump: StoredJump | None = None
    """How the present frame was entered, when by a jump."""
    children: dict[Place, StoredAttempt] = field(default_factory=dict)
    """The last attempts of maps' children."""
    dues: dict[Place, StoredDue] = field(default_factory=dict)
    """Nodes that wait for a time, and have no attempt under way."""
    facts: dict[str, Facts] = field(default_factory=dict)
    """What was observed, by the keys of results, where that is more than truth and length."""
    failures: dict[Place, StoredFailure] = field(default_factory=dict)
    cancelled: bool = False
    """It was being cancelled."""
    answer: StoredAnswer | None = None
    counts: LoopCounts = field(default_factory=LoopCounts)
    """How far a loop had come."""
    iterations: int = 0
    """Steps of the lease at the checkpoint."""


class RunStore(Protocol):
    """Where runs are remembered. One batch is in flight at a time.

    A batch that was landed once lands again without any effect, so one whose answer was lost can simply be
    sent again.
    """

    @property
    def url(self) -> str:
        """The store as people may see it: without its password."""

    @property
    def immediate(self) -> bool:
        """`commit` never waits, and nothing survives the process."""

    async def open(self) -> int:
        """Connects, and begins a new epoch, whoever led before; returns it.

        Raises:
            StoreError: the store is not there, or is not one; names the URL and the remedy.
        """

    def load(self) -> AsyncIterator[StoredRun]:
        """Every run that is remembered, one at a time, oldest first."""

    async def heads(self) -> Sequence[StoredHead]:
        """All runs that are remembered, in short, oldest first.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    async def roster(self) -> Sequence[StoredWorker]:
        """The workers that were on the books of the last scheduler.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    async def load_run(self, run_id: str) -> StoredRun | None:
        """One run; None when it is not remembered, or cannot be trusted.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    async def constraints(self) -> Sequence[Constraint]:
        """The limits that were set and not removed, those whose time is over among them.

        Raises:
            StoreError: the store cannot be read.
        """

    async def garbage(self, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """Deletes what nobody can use any more, and says what it was.

        Args:
            spare: runs that are being written.
            dry_run: only says so.

        Raises:
            StoreUnavailable: the store cannot be reached now.
        """

    def apply(self, batch: Batch) -> None:
        """`commit` of an immediate store."""

    async def commit(self, batch: Batch) -> None:
        """Lands a batch.

        Raises:
            StoreUnavailable: it may or may not have landed; send it again.
            StoreFenced: it has not landed and never will.
            StoreGap: it has not landed, since what was acknowledged before it is gone.
        """

    async def close(self) -> None:
        """Lets go of connections."""


@runtime_checkable
class PromptStore(Protocol):
    """A `RunStore` that can also take a batch without a task that waits for it."""

    def prepare(self, records: Sequence[Record]) -> None:
        """The next batch will have these records, behind those of which that was said since the last one.

        Nothing depends on it: it lets work be done while nobody waits for it.
        """

    def begin(self, batch: Batch, then: Callable[[bool], None]) -> bool:
        """Sends a batch now, and returns whether it was sent; if not, it is to be landed by `commit`.

        Args:
            batch: as for `commit`.
            then: called later with whether it has landed; where that is not known, `commit` is to land it, or
                says why it cannot.
        """

    def settle(self) -> None:
        """Notes that what was begun has landed: before the next batch, and nobody waits for it."""
