"""What can happen. Every event is a named tuple of plain values; the time comes with the turn.

What executors and fetches bring (`payload`) is opaque to the core: it passes it on and never looks inside.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, Union

__all__ = [
    "Assigned",
    "AttemptBegun",
    "BodyKnown",
    "Connected",
    "Disconnected",
    "DrainRequested",
    "Event",
    "ExecutorDied",
    "ExecutorReclaimed",
    "ExecutorReported",
    "ExecutorStarted",
    "InputsFailed",
    "InputsReady",
    "LeaseLooked",
    "MarkMoved",
    "PublishFailed",
    "Published",
    "ResourceChanged",
    "Result",
    "RunClosed",
    "Ticked",
    "WorkReceived",
]


class Connected(NamedTuple):
    """The scheduler answered Hello: what to keep, to drop, and to forget. Seconds."""

    sequence: int = 1
    keep: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    known: tuple[int, ...] = ()
    cancel_grace: float | None = None
    epoch: int = 0


class Disconnected(NamedTuple):
    """The stream is gone; what runs goes on."""


class BodyKnown(NamedTuple):
    """What many assignments share. `profile` names the code whose durations are alike; timeout in seconds."""

    number: int
    run: int
    name: str
    profile: bytes
    asynchronous: bool
    timeout: float | None
    amounts: tuple[tuple[str, int], ...]
    run_id: str = ""
    resources: bool = False
    """It has resources injected: its attempts say themselves when their function is called."""
    policy: bool = False
    """A caching policy is asked first: the same; and what ends without having said so was cached."""


class Assigned(NamedTuple):
    """An attempt to start. `ready`: its inputs are all here. `amounts`: None: those of its body."""

    attempt: int
    body: int
    ahead: bool
    ready: bool
    amounts: tuple[tuple[str, int], ...] | None = None
    leased: bool = False
    """Its executor may go on with its loop by itself."""
    run_id: str = ""
    """Its run, when its body does not say."""
    behind: int = 0
    """It is a follower of this attempt; see `followers`. It is not ready then."""


class WorkReceived(NamedTuple):
    """One message of the scheduler, in the order in which its parts are taken.

    `promise` is to be reported when nothing that is to be given back can start any more; 0: nothing is asked.
    """

    sequence: int
    acked_through: int
    bodies: tuple[BodyKnown, ...] = ()
    assigned: tuple[Assigned, ...] = ()
    retract: tuple[int, ...] = ()
    cancel: tuple[int, ...] = ()
    ended_runs: tuple[int, ...] = ()
    promise: int = 0
    close_runs: tuple[str, ...] = ()
    """Runs whose resources are to go, which is to be reported."""
    over: tuple[str, ...] = ()
    """The ids of the runs that have ended."""
    recall: tuple[int, ...] = ()
    """Leases to give back."""
    forget_bodies: tuple[int, ...] = ()


class MarkMoved(NamedTuple):
    """A message of the scheduler without work."""

    sequence: int
    acked_through: int


class InputsReady(NamedTuple):
    """All inputs of a waiting attempt are here."""

    attempt: int


class InputsFailed(NamedTuple):
    """An input of a waiting attempt cannot be had."""

    attempt: int
    payload: object


class ExecutorStarted(NamedTuple):
    """An executor says that it is there."""

    executor: int


class ExecutorDied(NamedTuple):
    """An executor's process has ended. `unread`: attempts that were written to it and never taken."""

    executor: int
    reason: str
    unread: tuple[int, ...] = ()


class Result(NamedTuple):
    """What an executor says of one attempt.

    `size`: bytes that the payload takes in a report. `stopped`: user code was told to stop before it ended.
    `publish`: the value has to be stored elsewhere before anybody is told of it. `tail`: it is a target, with
    which the run or the node goes on.
    """

    attempt: int
    ok: bool
    payload: object
    duration_ns: int
    size: int = 0
    stopped: bool = False
    publish: bool = False
    tail: bool = False


class ExecutorReported(NamedTuple):
    """Attempts that an executor has ended, in order."""

    executor: int
    results: list[Result]


class AttemptBegun(NamedTuple):
    """What an attempt needs is set up, its caching policy has no value, and its function is called."""

    executor: int
    attempt: int


class ResourceChanged(NamedTuple):
    """An executor has set up a resource, or torn it down. `number` is the executor's own."""

    executor: int
    attempt: int
    number: int
    run_id: str
    name: str
    scope: int
    released: bool
    reason: str
    duration_ns: int


class RunClosed(NamedTuple):
    """An executor has torn down what was set up for a run."""

    executor: int
    run_id: str


class LeaseLooked(NamedTuple):
    """When the present step of a leased attempt began, in the time of the turn; None: with the attempt."""

    attempt: int
    began: float | None


class ExecutorReclaimed(NamedTuple):
    """What was written to an executor and not yet taken by it was got back."""

    executor: int
    attempts: tuple[int, ...]


class Published(NamedTuple):
    """The value of an attempt is stored; `payload` says where."""

    attempt: int
    payload: object


class PublishFailed(NamedTuple):
    """The value of an attempt could not be stored."""

    attempt: int
    payload: object


class DrainRequested(NamedTuple):
    """Take no new work, and end when what runs has ended, or after so many seconds."""

    within: float


class Ticked(NamedTuple):
    """Time has passed."""


Event: TypeAlias = Union[
    Connected,
    Disconnected,
    WorkReceived,
    MarkMoved,
    InputsReady,
    InputsFailed,
    ExecutorStarted,
    ExecutorDied,
    ExecutorReported,
    AttemptBegun,
    ResourceChanged,
    RunClosed,
    ExecutorReclaimed,
    LeaseLooked,
    Published,
    PublishFailed,
    DrainRequested,
    Ticked,
]
