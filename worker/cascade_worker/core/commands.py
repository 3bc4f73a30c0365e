"""What the shell must now do. Every command is a named tuple of plain values."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias, Union

__all__ = [
    "CloseExecutor",
    "CloseRun",
    "Command",
    "Discard",
    "EndSession",
    "Ending",
    "EndingKind",
    "Exit",
    "FetchInputs",
    "Forget",
    "KillExecutor",
    "LookAtLease",
    "Publish",
    "RecallLease",
    "Reclaim",
    "ResourceNews",
    "SendReports",
    "SendTasks",
    "StartExecutor",
    "StopAttempt",
]


class EndingKind(IntEnum):
    """How an attempt ended."""

    DONE = 1
    FAILED = 2
    TIMED_OUT = 3
    LOST = 4
    RETURNED = 5
    CANCELLED = 6
    INPUT_LOST = 7


class Ending(NamedTuple):
    """How one attempt ended, as it is reported and kept until the scheduler has it.

    `payload` is what the executor said, for DONE, FAILED and TIMED_OUT. `reason` is text for people, for
    TIMED_OUT and LOST. `flag` is: cached, for DONE; killed, for CANCELLED; innocent, for LOST. `size`: bytes
    of the payload.
    """

    kind: EndingKind
    payload: object = None
    reason: str = ""
    flag: bool = False
    duration_ns: int = 0
    size: int = 0


class FetchInputs(NamedTuple):
    """Get the inputs of a waiting attempt. `made`: of a follower, what an executor said of the open one."""

    attempt: int
    made: object = None


class SendTasks(NamedTuple):
    """Write attempts to an executor, in order."""

    executor: int
    attempts: tuple[int, ...]


class StartExecutor(NamedTuple):
    """Start an executor; tasks may be written to it at once."""

    executor: int
    asynchronous: bool


class StopAttempt(NamedTuple):
    """Tell the user code of a running attempt to stop."""

    executor: int
    attempt: int
    asynchronous: bool


class RecallLease(NamedTuple):
    """Have a leased attempt take no further step by itself; executor 0: it has not been written to one."""

    executor: int
    attempt: int
    asynchronous: bool


class LookAtLease(NamedTuple):
    """Look when the present step of a leased attempt began; `LeaseLooked` has to follow."""

    executor: int
    attempt: int


class KillExecutor(NamedTuple):
    """End an executor and all its children by force."""

    executor: int


class CloseExecutor(NamedTuple):
    """Let an idle executor tear down its resources, within seconds, and end."""

    executor: int
    grace: float = 5.0


class CloseRun(NamedTuple):
    """Have an executor tear down what was set up for a run, within seconds; `RunClosed` has to follow."""

    executor: int
    run_id: str
    grace: float


class ResourceNews(NamedTuple):
    """A resource was set up or torn down, as it is reported."""

    run_id: str
    name: str
    released: bool
    reason: str
    attempt: int
    duration_ns: int


class Reclaim(NamedTuple):
    """Get back what an executor has not yet taken; `ExecutorReclaimed` has to follow."""

    executor: int


class Publish(NamedTuple):
    """Store an attempt's value elsewhere; `Published` or `PublishFailed` has to follow."""

    attempt: int
    payload: object


class Forget(NamedTuple):
    """These attempts are off the books: drop what is kept for them, but not their objects."""

    attempts: tuple[int, ...]


class Discard(NamedTuple):
    """Nobody will ever ask for what this attempt made."""

    attempt: int


class SendReports(NamedTuple):
    """What is said to the scheduler as one message, when one can be sent."""

    sequence: int
    acked_through: int
    started: tuple[int, ...]
    endings: tuple[tuple[int, Ending], ...]
    draining: bool
    promised: int = 0
    resources: tuple[ResourceNews, ...] = ()
    closed_runs: tuple[str, ...] = ()


class EndSession(NamedTuple):
    """The scheduler said what cannot be: begin a new session, in which both say what they know."""

    reason: str


class Exit(NamedTuple):
    """The worker has drained; end it."""


Command: TypeAlias = Union[
    FetchInputs,
    SendTasks,
    StartExecutor,
    StopAttempt,
    RecallLease,
    LookAtLease,
    KillExecutor,
    CloseExecutor,
    CloseRun,
    Reclaim,
    Publish,
    Forget,
    Discard,
    EndSession,
    Exit,
]
