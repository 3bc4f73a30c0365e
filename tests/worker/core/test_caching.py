"""Attempts that ask a caching policy first: they have begun only when their executor says so."""

from __future__ import annotations

import pytest

from cascade_worker.core import events
from cascade_worker.core.commands import EndingKind
from tests.worker.core.bench import Bench


def started(bench: Bench) -> tuple[int, ...]:
    """The starts in the next message."""
    told = bench.core.flush(force=True)
    assert told is not None
    return told.started


def begun(bench: Bench, attempt: int) -> events.AttemptBegun:
    """What the attempt's executor says when its function is called."""
    return events.AttemptBegun(bench.state.attempts[attempt].executor.id, attempt)


def test_an_attempt_begins_when_its_policy_has_nothing(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body(policy=True))
    assert started(bench) == (), "its policy is being asked"
    bench.turn(begun(bench, attempt))
    assert started(bench) == (attempt,)


@pytest.mark.parametrize("began", [True, False])
def test_a_value_without_a_beginning_was_cached(bench: Bench, began: bool) -> None:
    (attempt,), _ = bench.assign(bench.body(policy=True))
    if began:
        bench.turn(begun(bench, attempt))
    bench.end(attempt)
    ending = bench.endings()[attempt]
    assert (ending.kind, ending.flag) == (EndingKind.DONE, not began)


def test_a_cached_value_may_have_to_be_published(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body(policy=True))
    bench.end(attempt, publish=True)
    bench.turn(events.Published(attempt, "blob"))
    assert bench.endings()[attempt].flag


def test_a_failure_is_not_cached(bench: Bench) -> None:
    (attempt,), _ = bench.assign(bench.body(policy=True))
    bench.turn(begun(bench, attempt))
    bench.end(attempt, ok=False)
    assert not bench.endings()[attempt].flag


def test_one_that_was_written_ahead_may_begin_before_the_one_before_it_is_told(bench: Bench) -> None:
    body = bench.body(policy=True, expected=0.0001)
    (one_, two), _ = bench.assign(body, 2, ahead=True)
    assert bench.phase(two) == "SENT"
    bench.turn(begun(bench, one_))
    bench.turn(begun(bench, two))
    bench.end(one_)
    assert started(bench) == (two,)
    bench.end(two)
    assert not bench.endings()[two].flag


def test_after_a_reconnect_only_what_has_begun_is_told(two: Bench) -> None:
    (asks, runs), _ = two.assign(two.body(policy=True), 2)
    two.turn(begun(two, runs))
    two.turn(events.Disconnected())
    two.connect(keep=(asks, runs))
    assert started(two) == (runs,)
