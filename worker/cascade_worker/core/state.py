"""What the worker knows: attempts, executors, amounts, and what the scheduler still has to be told."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from cascade_worker.core.commands import Ending, ResourceNews

__all__ = ["Attempt", "Body", "Executor", "Holding", "Limits", "Phase", "Profile", "State", "Timer", "Wanted"]


_TIMERS_MAX = 1024


class Phase(IntEnum):
    """Where an attempt stands."""

    WAITING = 1
    """Not started: inputs are being fetched, amounts or an executor are not free."""
    SENT = 2
    """Written to an executor behind another attempt; it can be got back as long as it was not taken."""
    RUNNING = 3
    """In an executor."""
    STORING = 4
    """Returned; its value is being published. It still holds its amounts."""
    FINISHED = 5
    """Ended; kept until the scheduler acknowledges the report."""


class Wanted(IntEnum):
    """Why an attempt is to end before it has ended."""

    NOTHING = 0
    RETRACT = 1
    """Give it back if it has not started."""
    TIMEOUT = 2
    CANCEL = 3
    DROP = 4
    """The scheduler does not want to hear of it again."""


# Looking a member up on its class takes longer than most of what is done with it.
_WAITING: Final = Phase.WAITING
_NOTHING: Final = Wanted.NOTHING


class Timer(IntEnum):
    """What a timer is for."""

    DEADLINE = 1
    KILL = 2
    IDLE = 3
    START = 4
    DRAIN = 5
    BIRTH = 6
    CLOSE = 7


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one worker. Times in seconds.

    Attributes:
        slots: executors that are kept warm.
        executors_max: most sync executors at once.
        async_max: most attempts in the async executor at once.
        ahead_max: most attempts written to an executor behind the one that it runs.
        ahead_seconds: most time that these are expected to take together.
        overrun: when the attempt ahead takes longer, those behind it are got back.
        idle: executors beyond `slots` end after so much idleness.
        birth: an executor that has not come up after so long is killed.
        start_failures_max: executors that may die in a row before they come up.
        start_delay: from such a death to the next try.
        started_delay: how long a start may wait for a message that goes anyway.
        report_bytes_max: payload of one message to the scheduler.
        scheduler_returns: one that is gone may come back, and take the reports that it had not acknowledged.
    """

    slots: int = 1
    executors_max: int = 8
    async_max: int = 1000
    ahead_max: int = 64
    ahead_seconds: float = 0.002
    overrun: float = 0.02
    idle: float = 30.0
    birth: float = 60.0
    start_failures_max: int = 3
    start_delay: float = 0.5
    started_delay: float = 0.005
    report_bytes_max: int = 768 * 1024
    scheduler_returns: bool = True


class Profile:
    """How long attempts of one code take; shared by all bodies of that code."""

    __slots__ = ("expected",)

    def __init__(self) -> None:
        self.expected: float | None = None
        """Seconds, a moving average; None: nothing is known."""

    def observe(self, seconds: float) -> None:
        """Takes one more duration in. A rise counts more than a fall: being wrong there costs waiting."""
        if self.expected is None:
            self.expected = seconds
        else:
            weight = 0.5 if seconds > self.expected else 0.1
            self.expected += weight * (seconds - self.expected)


class Body:
    """What many assignments share."""

    __slots__ = (
        "amounts",
        "asynchronous",
        "name",
        "policy",
        "profile",
        "resources",
        "run",
        "run_id",
        "timeout",
    )

    def __init__(
        self,
        run: int,
        name: str,
        profile: Profile,
        asynchronous: bool,
        timeout: float | None,
        amounts: tuple[tuple[str, int], ...],
        run_id: str = "",
        resources: bool = False,
        policy: bool = False,
    ) -> None:
        self.run = run
        self.run_id = run_id
        self.resources = resources
        """Its attempts say themselves when their function is called."""
        self.policy = policy
        """The same, because a caching policy is asked first."""
        self.name = name
        self.profile = profile
        self.asynchronous = asynchronous
        self.timeout = timeout
        self.amounts = amounts


class Attempt:
    """One attempt that the worker holds."""

    __slots__ = (
        "amounts",
        "begun",
        "body",
        "charged",
        "duration_ns",
        "ending",
        "executor",
        "follower",
        "follows",
        "id",
        "leased",
        "phase",
        "ready",
        "run_id",
        "sequence",
        "started_at",
        "stepping",
        "tail",
        "wanted",
    )

    def __init__(
        self,
        attempt: int,
        body: Body,
        charged: bool,
        ready: bool,
        amounts: tuple[tuple[str, int], ...] | None = None,
        run_id: str = "",
    ) -> None:
        self.id = attempt
        self.body = body
        self.run_id = run_id or body.run_id
        self.amounts = body.amounts if amounts is None else amounts
        """What it holds while it runs."""
        self.charged = charged
        """It holds its amounts."""
        self.ready = ready
        """Its inputs are here."""
        self.phase: Phase = _WAITING
        self.wanted: Wanted = _NOTHING
        self.leased = False
        """Its executor may go on with its loop by itself, until it is recalled."""
        self.stepping = False
        """It was leased when it was written to its executor: its timeout is of each step."""
        self.executor: Executor | None = None
        """Where it was written to, in SENT and RUNNING."""
        self.started_at = -1.0
        """When it began to run, last; negative: it has not."""
        self.begun = not (body.resources or body.policy)
        """Its function is called as soon as the executor has it; else not before the executor says so."""
        self.duration_ns = 0
        """How long user code ran; only in STORING."""
        self.ending: Ending | None = None
        """Only in FINISHED."""
        self.sequence = 0
        """The message of this session that carries its report; 0: none yet."""
        self.follows: Attempt | None = None
        """The attempt whose value its open input is; it waits, in no line, for that to end."""
        self.follower: Attempt | None = None
        """The one that follows this one."""
        self.tail = False
        """What it returned is a target."""

    @property
    def is_begun(self) -> bool:
        """Its function was called, and has not been told to have ended."""
        return self.begun and self.started_at >= 0 and self.phase in (Phase.RUNNING, Phase.STORING)


class Holding(NamedTuple):
    """A resource that an executor holds."""

    run_id: str
    """The run for which it was set up."""
    name: str
    scope: int
    attempt: int


class Executor:
    """One child process."""

    __slots__ = (
        "asynchronous",
        "close_by",
        "closing",
        "closing_run",
        "holds",
        "id",
        "idle_since",
        "overrun",
        "pipe",
        "reclaiming",
        "running",
        "started",
        "to_close",
        "victim",
    )

    def __init__(self, executor: int, asynchronous: bool) -> None:
        self.id = executor
        self.asynchronous = asynchronous
        self.started = False
        """It has said that it is there."""
        self.pipe: deque[Attempt] = deque()
        """Sync: what was written to it and has not ended, in order; the first runs, the others are SENT."""
        self.running: dict[int, Attempt] = {}
        """Async: what was written to it and has not ended."""
        self.idle_since = 0.0
        self.reclaiming = False
        """`Reclaim` was commanded and not yet answered: nothing may be written."""
        self.overrun = False
        """The running attempt takes longer than thought: nothing is written behind it."""
        self.victim: Attempt | None = None
        """It is being killed for this attempt's sake."""
        self.closing = False
        """It was told to end; its death is no loss."""
        self.holds: dict[int, Holding] = {}
        """Resources that are set up in it, by its own numbers."""
        self.to_close: dict[str, None] = {}
        """Runs whose resources it is to tear down as soon as it can."""
        self.closing_run = ""
        """The run whose resources it tears down; sync executors alone."""
        self.close_by = 0.0
        """When it is killed, if it still tears down then."""


@dataclass(slots=True)
class State:
    """Everything."""

    limits: Limits
    total: dict[str, int]
    """What the worker has, in micros."""
    free: dict[str, int]
    """What is not charged; below zero when the scheduler, knowing less, started more than fits."""
    cancel_grace: float = 5.0
    attempts: dict[int, Attempt] = field(default_factory=dict)
    queue: deque[Attempt] = field(default_factory=deque)
    """Sent ahead and not charged, in order. Amounts go to its first; nobody overtakes it."""
    ready: deque[Attempt] = field(default_factory=deque)
    """Charged, inputs here, waiting for an executor."""
    async_ready: deque[Attempt] = field(default_factory=deque)
    """The same, for async attempts: they wait for a place in the async executor."""
    executors: dict[int, Executor] = field(default_factory=dict)
    idle: list[Executor] = field(default_factory=list)
    """Sync executors with an empty pipe; the last used is the last, and the first to be used again."""
    sync_count: int = 0
    """Sync executors that are not closing."""
    async_executor: Executor | None = None
    bodies: dict[int, Body] = field(default_factory=dict)
    """Of this session, by number."""
    run_bodies: dict[int, list[int]] = field(default_factory=dict)
    """Numbers of those that are of one run, by its number."""
    profiles: dict[bytes, Profile] = field(default_factory=dict)
    next_executor: int = 1
    start_failures: int = 0
    start_blocked: bool = False
    """Executors die before they come up; a timer says when to try again."""
    timers: list[tuple[float, int, Timer, int]] = field(default_factory=list)
    """A heap of (when, number, what for, attempt or executor); entries whose reason is gone do nothing."""
    timer_count: int = 0
    timers_max: int = _TIMERS_MAX
    """Above it, timers whose reason is gone are dropped."""
    watch_at: float | None = None
    """When to look for executors whose running attempt holds up others."""
    connected: bool = False
    next_sequence: int = 1
    received: int = 0
    """The scheduler's messages up to here were taken."""
    told_received: int = 0
    started: list[Attempt] = field(default_factory=list)
    """Started since the last message."""
    tell_started_at: float | None = None
    """When `started` deserves a message of its own; until then their reports may come, and save it."""
    starts_due: bool = False
    """That time has come."""
    news: list[ResourceNews] = field(default_factory=list)
    """Resources that were set up or torn down since the last message."""
    news_told: int = 0
    """The last message of this session that had news of resources."""
    acked: int = 0
    """The scheduler has this worker's messages up to here."""
    closings: dict[str, dict[int, None]] = field(default_factory=dict)
    """Runs whose resources are torn down, with the executors that have not done so."""
    closed_runs: list[str] = field(default_factory=list)
    """Runs that are torn down, since the last message."""
    epoch: int = 0
    """Of the scheduler."""
    unreported: list[Attempt] = field(default_factory=list)
    """Finished, and in no message of this session."""
    unacknowledged: deque[tuple[int, list[Attempt]]] = field(default_factory=deque)
    """Messages with reports, by number, until the scheduler's mark covers them."""
    promises: list[tuple[int, list[Attempt], list[Executor]]] = field(default_factory=list)
    """Numbers to be promised, in order; for each the attempts that an executor has yet to give back, and the
    executors that have yet to come up and start what they were given."""
    promised: int = 0
    """The last number of this session of which all is given back."""
    told_promised: int = 0
    forgotten: list[int] = field(default_factory=list)
    following: list[tuple[Attempt, object]] = field(default_factory=list)
    """Followers whose open input was made in this turn, and what was said of it."""
    draining: bool = False
    told_draining: bool = False
    drain_by: float = 0.0
    drain_expired: bool = False
    """What ran was killed."""
    leave_at: float | None = None
    """When to end without acknowledgements."""
    exited: bool = False

    def fits(self, amounts: tuple[tuple[str, int], ...]) -> bool:
        """Whether amounts are free now."""
        free = self.free
        for name, micros in amounts:  # noqa: SIM110 - all() with a generator takes three times as long
            if free.get(name, 0) < micros:
                return False
        return True

    def never_fits(self, amounts: tuple[tuple[str, int], ...]) -> bool:
        """Whether amounts are more than the worker has."""
        return any(self.total.get(name, 0) < micros for name, micros in amounts)

    def charge(self, attempt: Attempt) -> None:
        """Takes an attempt's amounts."""
        attempt.charged = True
        free = self.free
        for name, micros in attempt.amounts:
            free[name] = free.get(name, 0) - micros

    def release(self, attempt: Attempt) -> None:
        """Gives an attempt's amounts back, if it holds them."""
        if attempt.charged:
            attempt.charged = False
            free = self.free
            for name, micros in attempt.amounts:
                free[name] += micros

    def set_timer(self, when: float, what: Timer, subject: int = 0) -> None:
        """Asks for a tick at a time."""
        self.timer_count += 1
        heapq.heappush(self.timers, (when, self.timer_count, what, subject))
        if len(self.timers) > self.timers_max:
            self._prune_timers()

    def _prune_timers(self) -> None:
        """Drops timers of attempts that have ended: long timeouts of short tasks would pile up otherwise."""
        self.timers = [timer for timer in self.timers if self._still_matters(timer[2], timer[3])]
        heapq.heapify(self.timers)
        self.timers_max = max(_TIMERS_MAX, 2 * len(self.timers))

    def _still_matters(self, what: Timer, subject: int) -> bool:
        if what in (Timer.DEADLINE, Timer.KILL):
            attempt = self.attempts.get(subject)
            return attempt is not None and attempt.phase == Phase.RUNNING
        return what in (Timer.START, Timer.DRAIN) or subject in self.executors

    def profile_of(self, key: bytes) -> Profile:
        """The durations of a code; the oldest of many is forgotten."""
        found = self.profiles.get(key)
        if found is None:
            if len(self.profiles) >= 4096:
                del self.profiles[next(iter(self.profiles))]
            found = self.profiles[key] = Profile()
        return found
