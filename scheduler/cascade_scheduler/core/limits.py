"""Limits set from outside while runs go on: what each of them says, and what has to be counted for it.

A `Constraint` is what somebody asked for; a `Limit` is one that holds, with the attempts that run under it or
its bucket of tokens. There is one per scope and type: the last one set wins, and takes over what the one
before had counted, so that setting a limit again and again lets nothing slip through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

__all__ = [
    "CONCURRENCY",
    "PAUSE",
    "RATE_LIMIT",
    "Constraint",
    "ConstraintInvalid",
    "Limit",
    "Limits",
    "checked",
]

PAUSE, CONCURRENCY, RATE_LIMIT = "pause", "concurrency", "rate_limit"
TYPES = (PAUSE, CONCURRENCY, RATE_LIMIT)

LIMITS_MAX = 1_000
TEXT_CHARS_MAX = 500
LIMIT_MAX = 2**31 - 1
RATE_MAX = 1e9
MEMO_MAX = 10_000
LATE_SECONDS = 0.01
"""A node that waits for a token and gets its turn so much late has not lost that time: alarms are never
exact, and a rate of 100/s would become one of 90/s."""


class Constraint(NamedTuple):
    """What somebody asked for. Rate in starts per second, `expires_at` in seconds since the Unix epoch."""

    id: str
    scope: str
    type: str
    limit: int = 0
    rate: float = 0.0
    capacity: float = 1.0
    expires_at: float | None = None


class ConstraintInvalid(ValueError):
    """The constraint makes no sense; the text says why and what would."""


def checked(constraint: Constraint, now: float) -> Constraint:
    """The constraint with its id, if it makes sense.

    Raises:
        ConstraintInvalid: it does not.
    """
    scope, kind = constraint.scope, constraint.type
    _check_text("scope", scope)
    if scope != "global" and not (scope.startswith(("task:", "run:")) and scope.partition(":")[2]):
        raise ConstraintInvalid(f"the scope {scope!r} is none of 'global', 'task:<glob>' and 'run:<id>'")
    if kind not in TYPES:
        raise ConstraintInvalid(f"the type {kind!r} is none of {', '.join(TYPES)}")
    _check_numbers(constraint)
    if constraint.expires_at is not None:
        if not math.isfinite(constraint.expires_at):
            raise ConstraintInvalid(f"expires_at is {constraint.expires_at!r}: give a point in time, or none")
        if constraint.expires_at <= now:
            raise ConstraintInvalid("it has expired already: give a time to live of more than 0")
    if constraint.id:
        _check_text("id", constraint.id)
        return constraint
    return constraint._replace(id=f"{kind}:{scope}")


def _check_text(what: str, text: str) -> None:
    if not text or len(text) > TEXT_CHARS_MAX or not text.isprintable():
        raise ConstraintInvalid(
            f"the {what} {text[:80]!r} must have 1 to {TEXT_CHARS_MAX} printable characters"
        )


def _check_numbers(constraint: Constraint) -> None:
    kind = constraint.type
    if kind == CONCURRENCY:
        if not 1 <= constraint.limit <= LIMIT_MAX:
            raise ConstraintInvalid(
                f"the limit is {constraint.limit}: say how many may run at a time, 1 or more; "
                "to let nothing start, set a pause"
            )
    elif constraint.limit:
        raise ConstraintInvalid(f"a {kind} has no limit, which is for concurrency alone")
    if kind == RATE_LIMIT:
        if not (math.isfinite(constraint.rate) and 0 < constraint.rate <= RATE_MAX):
            raise ConstraintInvalid(
                f"the rate is {constraint.rate!r}: say how many may start per second, more than 0"
            )
        if not (math.isfinite(constraint.capacity) and 1 <= constraint.capacity <= RATE_MAX):
            raise ConstraintInvalid(
                f"the capacity is {constraint.capacity!r}: say how many may start at once after a quiet "
                "time, 1 or more"
            )
    elif constraint.rate:
        raise ConstraintInvalid(f"a {kind} has no rate, which is for rate_limit alone")


class Limit:
    """A constraint that holds."""

    __slots__ = ("_due", "_glob", "_level", "_since", "_used", "constraint", "running")

    def __init__(self, constraint: Constraint, now: float) -> None:
        self.constraint = constraint
        self.running = 0
        """Attempts on the books that count for it."""
        self._glob = constraint.scope.partition(":")[2] if constraint.scope.startswith("task:") else ""
        # The bucket held `_level` tokens at `_since`, and `_used` were taken from then on. Counted in whole
        # tokens from one point in time, so that no rounding adds up.
        self._level = constraint.capacity
        self._since = now
        self._used = 0
        self._due = 0.0
        """When the token comes that somebody waits for; 0.0: nobody has waited."""

    def replace(self, constraint: Constraint, now: float) -> None:
        """Takes the place of the one before, at once; what is in the bucket stays, up to the new capacity."""
        if constraint.type == RATE_LIMIT:
            self._level = min(self._tokens(now), constraint.capacity)
            self._since, self._used, self._due = now, 0, 0.0
        self.constraint = constraint

    def covers(self, run_id: str, task: str) -> bool:
        """Whether nodes of this task in this run stand under it."""
        if self._glob:
            return fnmatchcase(task, self._glob)
        scope = self.constraint.scope
        return scope == "global" or scope == f"run:{run_id}"

    def permits(self, now: float) -> bool:
        """Whether one more may start now."""
        constraint = self.constraint
        if constraint.type == CONCURRENCY:
            return self.running < constraint.limit
        if constraint.type == RATE_LIMIT:
            self._spill(now)
            return self._next_at() <= now
        return False

    def waited_for(self) -> float | None:
        """Notes that somebody waits; gives when the next token comes, for a rate limit."""
        if self.constraint.type != RATE_LIMIT:
            return None
        self._due = self._next_at()
        return self._due

    def take(self) -> None:
        """One more has started."""
        self.running += 1
        self._used += 1

    def release(self) -> None:
        """An attempt that counted for it is off the books."""
        self.running -= 1

    def give_back(self) -> None:
        """It had not started after all: its token can be had again."""
        self._used -= 1

    def _tokens(self, now: float) -> float:
        return self._level + (now - self._since) * self.constraint.rate - self._used

    def _next_at(self) -> float:
        missing = 1 - self._level + self._used
        return self._since if missing <= 0 else self._since + missing / self.constraint.rate

    def _spill(self, now: float) -> None:
        """What comes when the bucket is full is lost, but for what somebody waited for a moment ago."""
        capacity, rate = self.constraint.capacity, self.constraint.rate
        full_at = self._since + (capacity - self._level + self._used) / rate
        if full_at < now and now - self._due > LATE_SECONDS:
            self._level, self._since, self._used = capacity, now, 0


class Limits:
    """All limits that hold, in the order in which they were set first."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Limit] = {}
        self._memo: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self.expires_at: float | None = None
        """When the next one ends by itself."""

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Limit]:
        return iter(self._by_key.values())

    def get(self, scope: str, kind: str) -> Limit | None:
        """The one limit of a scope and type."""
        return self._by_key.get((scope, kind))

    def set(self, constraint: Constraint, now: float) -> tuple[Limit, bool, list[Limit]]:
        """Lets a constraint hold; gives its limit, whether that is a new one, and those that it removed.

        It takes the place of the one of its scope and type, and of any other with its id.
        """
        key = (constraint.scope, constraint.type)
        found = self._by_key.get(key)
        removed = [limit for limit in self.find(id=constraint.id) if limit is not found]
        for limit in removed:
            self._remove(limit)
        fresh = found is None
        if found is None:
            found = self._by_key[key] = Limit(constraint, now)
            self._memo.clear()
        else:
            found.replace(constraint, now)
        self._look_at_expiry()
        return found, fresh, removed

    def find(self, *, id: str = "", scope: str = "", kind: str = "") -> list[Limit]:
        """Those that fit all that is given."""
        return [
            limit
            for limit in self._by_key.values()
            if id in ("", limit.constraint.id)
            and scope in ("", limit.constraint.scope)
            and kind in ("", limit.constraint.type)
        ]

    def remove(self, limits: Iterable[Limit]) -> None:
        """Lets these hold no longer."""
        for limit in limits:
            self._remove(limit)
        self._look_at_expiry()

    def expired(self, now: float) -> list[Limit]:
        """Those whose time is over."""
        if self.expires_at is None or self.expires_at > now:
            return []
        return [
            limit
            for limit in self._by_key.values()
            if limit.constraint.expires_at is not None and limit.constraint.expires_at <= now
        ]

    def of(self, run_id: str, task: str) -> tuple[Limit, ...]:
        """The limits under which nodes of a task of a run stand."""
        if not self._by_key:
            return ()
        key = (run_id, task)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            found = self._memo[key] = tuple(
                limit for limit in self._by_key.values() if limit.covers(run_id, task)
            )
        return found

    @property
    def by_task(self) -> bool:
        """Some limit looks at tasks' names, so that nodes of one run may differ."""
        return any(limit.constraint.scope.startswith("task:") for limit in self._by_key.values())

    def _remove(self, limit: Limit) -> None:
        del self._by_key[limit.constraint.scope, limit.constraint.type]
        self._memo.clear()

    def _look_at_expiry(self) -> None:
        times = [limit.constraint.expires_at for limit in self._by_key.values()]
        self.expires_at = min((at for at in times if at is not None), default=None)
