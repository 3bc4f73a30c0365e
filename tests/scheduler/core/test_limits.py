"""What a limit says, and the books of a bucket of tokens."""

from __future__ import annotations

import math

import pytest

from cascade_scheduler.core.limits import (
    CONCURRENCY,
    LATE_SECONDS,
    PAUSE,
    RATE_LIMIT,
    Constraint,
    ConstraintInvalid,
    Limit,
    Limits,
    checked,
)

T = 1_763_700_000.0


def rate(per_second: float, capacity: float = 1.0) -> Limit:
    constraint = Constraint("r", "global", RATE_LIMIT, rate=per_second, capacity=capacity)
    return Limit(constraint, T)


def starts(limit: Limit, now: float, most: int = 1_000) -> int:
    count = 0
    while count < most and limit.permits(now):
        limit.take()
        count += 1
    return count


def test_ten_a_minute_is_one_every_six_seconds() -> None:
    limit = rate(10 / 60)
    assert starts(limit, T) == 1
    assert starts(limit, T + 5.999) == 0
    assert limit.waited_for() == T + 6
    assert starts(limit, T + 6) == 1
    assert starts(limit, T + 11.999) == 0
    assert starts(limit, T + 12) == 1


@pytest.mark.parametrize("per_second", [10 / 60, 3.0, 7.0, 300 / 3600, 1000.0])
def test_no_rounding_adds_up(per_second: float) -> None:
    limit = rate(per_second)
    now = T
    for _ in range(20_000):
        assert limit.permits(now)
        limit.take()
        assert not limit.permits(math.nextafter(now, 0))
        at = limit.waited_for()
        assert at is not None
        assert at > now
        now = at
    assert now == pytest.approx(T + 20_000 / per_second, abs=1e-5)


def test_a_bucket_holds_no_more_than_its_capacity() -> None:
    limit = rate(5.0, capacity=2)
    assert starts(limit, T) == 2
    assert starts(limit, T + 0.2) == 1
    assert starts(limit, T + 1000) == 2
    assert starts(limit, T + 1000.19) == 0
    assert starts(limit, T + 1000.2) == 1


def test_a_capacity_may_be_broken() -> None:
    limit = rate(1.0, capacity=1.5)
    assert starts(limit, T) == 1
    assert starts(limit, T + 0.49) == 0
    assert starts(limit, T + 0.5) == 1


def test_who_waits_loses_nothing_when_the_alarm_is_a_little_late() -> None:
    limit = rate(100.0)
    assert starts(limit, T) == 1
    now = T
    for _ in range(1_000):
        due = limit.waited_for()
        assert due is not None
        now = due + 0.0007
        assert starts(limit, now) == 1
    assert now == pytest.approx(T + 10, abs=0.01)


def test_who_is_much_too_late_or_did_not_wait_gets_no_more_for_it() -> None:
    limit = rate(100.0)
    assert starts(limit, T) == 1
    assert starts(limit, T + 0.0107) == 1  # nobody had waited
    assert starts(limit, T + 0.0205) == 0
    due = limit.waited_for()
    assert due is not None
    assert starts(limit, due + 2 * LATE_SECONDS) == 1


def test_a_rate_above_what_alarms_can_do_is_kept_up_with() -> None:
    limit = rate(5_000.0)
    total = starts(limit, T)
    now = T
    for _ in range(1_000):
        limit.waited_for()
        now += 0.001
        total += starts(limit, now)
    assert 4_900 <= total <= 5_001


def test_a_token_that_is_given_back_can_be_had_again() -> None:
    limit = rate(1.0)
    assert starts(limit, T) == 1
    limit.give_back()
    assert starts(limit, T) == 1
    assert starts(limit, T + 0.5) == 0


def test_tokens_given_back_late_do_not_overflow() -> None:
    limit = rate(1.0)
    assert starts(limit, T) == 1
    assert starts(limit, T + 100) == 1
    limit.give_back()
    limit.give_back()
    assert starts(limit, T + 200) == 1


def test_a_limit_that_takes_the_place_of_another_takes_over_its_bucket() -> None:
    limit = rate(1.0)
    assert starts(limit, T) == 1
    limit.replace(Constraint("r", "global", RATE_LIMIT, rate=1.0), T + 0.5)
    assert starts(limit, T + 0.5) == 0, "to set it again fills no bucket"
    assert starts(limit, T + 1.0) == 1
    limit.replace(Constraint("r", "global", RATE_LIMIT, rate=100.0, capacity=5), T + 1.0)
    assert starts(limit, T + 1.01) == 1, "the new rate holds at once"
    assert starts(limit, T + 1.06) == 5
    limit.replace(Constraint("r", "global", RATE_LIMIT, rate=100.0, capacity=2), T + 9.0)
    assert starts(limit, T + 9.0) == 2


@pytest.mark.parametrize(
    ("scope", "task", "run", "covered"),
    [
        ("global", "a", "r", True),
        ("task:a", "a", "r", True),
        ("task:a", "ab", "r", False),
        ("task:a*", "ab", "r", True),
        ("task:A*", "ab", "r", False),
        ("task:[ab]", "b", "r", True),
        ("run:r", "a", "r", True),
        ("run:r", "a", "r2", False),
        ("run:r*", "a", "r2", False),
    ],
)
def test_whom_a_scope_covers(scope: str, task: str, run: str, covered: bool) -> None:
    assert Limit(Constraint("i", scope, PAUSE), T).covers(run, task) is covered


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        (Constraint("", "everything", PAUSE), "scope"),
        (Constraint("", "task:", PAUSE), "scope"),
        (Constraint("", "run:", PAUSE), "scope"),
        (Constraint("", "", PAUSE), "scope"),
        (Constraint("", "task:" + "x" * 1000, PAUSE), "scope"),
        (Constraint("", "task:a\nb", PAUSE), "scope"),
        (Constraint("", "global", "stop"), "type"),
        (Constraint("", "global", CONCURRENCY), "the limit is 0"),
        (Constraint("", "global", CONCURRENCY, limit=-1), "the limit is -1"),
        (Constraint("", "global", CONCURRENCY, limit=1, rate=1.0), "no rate"),
        (Constraint("", "global", PAUSE, limit=1), "no limit"),
        (Constraint("", "global", RATE_LIMIT), "the rate is 0"),
        (Constraint("", "global", RATE_LIMIT, rate=-1.0), "the rate is -1"),
        (Constraint("", "global", RATE_LIMIT, rate=math.nan), "the rate is nan"),
        (Constraint("", "global", RATE_LIMIT, rate=math.inf), "the rate is inf"),
        (Constraint("", "global", RATE_LIMIT, rate=1.0, capacity=0.5), "the capacity is 0.5"),
        (Constraint("", "global", RATE_LIMIT, rate=1.0, capacity=math.nan), "the capacity is nan"),
        (Constraint("", "global", PAUSE, expires_at=T - 1), "expired"),
        (Constraint("", "global", PAUSE, expires_at=math.nan), "expires_at"),
        (Constraint("a\x00b", "global", PAUSE), "id"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(constraint: Constraint, told: str) -> None:
    with pytest.raises(ConstraintInvalid, match=told):
        checked(constraint, T)


def test_an_id_is_made_of_type_and_scope_unless_it_is_given() -> None:
    assert checked(Constraint("", "task:f", PAUSE), T).id == "pause:task:f"
    assert checked(Constraint("mine", "task:f", PAUSE), T).id == "mine"


def test_one_limit_per_scope_and_type_and_per_id() -> None:
    limits = Limits()
    one, fresh, removed = limits.set(Constraint("x", "global", CONCURRENCY, limit=1), T)
    assert fresh
    assert not removed
    again, fresh, removed = limits.set(Constraint("y", "global", CONCURRENCY, limit=2), T)
    assert again is one
    assert not fresh
    assert not removed
    assert [limit.constraint.id for limit in limits] == ["y"]
    other, fresh, removed = limits.set(Constraint("y", "task:f", PAUSE), T)
    assert fresh
    assert removed == [one]
    assert list(limits) == [other]


def test_limits_are_found_by_what_is_given() -> None:
    limits = Limits()
    for scope in ("global", "task:f"):
        for kind in (PAUSE, CONCURRENCY):
            limits.set(Constraint(f"{kind}:{scope}", scope, kind), T)
    assert len(limits.find()) == 4
    assert len(limits.find(scope="global")) == 2
    assert len(limits.find(kind=PAUSE)) == 2
    assert [limit.constraint.id for limit in limits.find(scope="task:f", kind=PAUSE)] == ["pause:task:f"]
    assert not limits.find(id="nothing")


def test_limits_know_when_the_next_one_ends() -> None:
    limits = Limits()
    limits.set(Constraint("a", "global", PAUSE, expires_at=T + 5), T)
    limits.set(Constraint("b", "task:f", PAUSE, expires_at=T + 3), T)
    limits.set(Constraint("c", "task:g", PAUSE), T)
    assert limits.expires_at == T + 3
    assert not limits.expired(T + 2.9)
    over = limits.expired(T + 3)
    assert [limit.constraint.id for limit in over] == ["b"]
    limits.remove(over)
    assert limits.expires_at == T + 5
    limits.remove(list(limits))
    assert limits.expires_at is None
