"""Followers: attempts that wait for another one's value, and go on by themselves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from cascade_worker.core import commands, events
from cascade_worker.core.commands import EndingKind
from tests.worker.core.bench import CPU, Bench, every, one


def follow(bench: Bench, body: int, behind: int) -> int:
    """Assigns a follower."""
    bench.attempts += 1
    attempt = bench.attempts
    bench.work(assigned=(events.Assigned(attempt, body, True, False, behind=behind),))
    return attempt


def chain(bench: Bench, length: int) -> list[int]:
    """An attempt that runs, and those that follow it, one after the other."""
    body = bench.body()
    made, _ = bench.assign(body)
    for _ in range(length - 1):
        made.append(follow(bench, body, made[-1]))
    return made


def fetched(bench: Bench, out: list[commands.Command], attempt: int, made: object) -> list[commands.Command]:
    """The follower's input is got from what was said of it; what the core says then."""
    assert every(out, commands.FetchInputs) == [commands.FetchInputs(attempt, made)]
    return bench.turn(events.InputsReady(attempt))


def sent(out: list[commands.Command]) -> list[int]:
    return [attempt for command in every(out, commands.SendTasks) for attempt in command.attempts]


def test_a_follower_goes_on_with_the_value_when_that_is_there(bench: Bench) -> None:
    first, second = chain(bench, 2)
    assert bench.phase(second) == "WAITING"
    out = bench.end(first)
    assert sent(fetched(bench, out, second, ("payload", first))) == [second]
    assert list(bench.endings()) == [first]
    bench.end(second)
    assert list(bench.endings()) == [second]


def test_a_chain_goes_on_without_the_scheduler_and_is_reported_in_order(bench: Bench) -> None:
    attempts = chain(bench, 4)
    for before, after in pairwise(attempts):
        assert sent(fetched(bench, bench.end(before), after, ("payload", before))) == [after]
    bench.end(attempts[-1])
    assert list(bench.endings()) == attempts


@pytest.mark.parametrize(
    "how",
    [{"ok": False}, {"tail": True}, {"tail": True, "publish": True}],
    ids=["failed", "tail", "stored tail"],
)
def test_without_a_value_all_that_follows_is_forgotten_silently(bench: Bench, how: dict[str, Any]) -> None:
    first, second, third = chain(bench, 3)
    out = bench.end(first, **how)
    if "publish" in how:
        out = bench.turn(events.Published(first, "stored"))
    assert one(out, commands.Forget).attempts == (second, third)
    assert [bench.phase(attempt) for attempt in (second, third)] == ["gone", "gone"]
    assert list(bench.endings()) == [first]


def test_a_value_that_is_stored_elsewhere_is_waited_for(bench: Bench) -> None:
    first, second = chain(bench, 2)
    assert every(bench.end(first, publish=True), commands.FetchInputs) == []
    fetched(bench, bench.turn(events.Published(first, "blob")), second, "blob")


def test_the_death_of_its_executor_takes_the_followers_along(bench: Bench) -> None:
    first, second = chain(bench, 2)
    executor = bench.state.attempts[first].executor.id
    bench.turn(events.ExecutorDied(executor, "killed", ()))
    assert bench.phase(second) == "gone"
    assert [ending.kind for ending in bench.endings().values()] == [EndingKind.LOST]


@pytest.mark.parametrize(
    ("wish", "kind"), [("retract", EndingKind.RETURNED), ("cancel", EndingKind.CANCELLED)]
)
def test_a_follower_is_given_back_and_the_rest_of_the_chain_with_it(
    bench: Bench, wish: str, kind: EndingKind
) -> None:
    first, second, third = chain(bench, 3)
    bench.work(**{wish: (second, third)}, promise=1)
    sent_ = bench.flush()
    assert sent_ is not None
    assert [(attempt, ending.kind) for attempt, ending in sent_.endings] == [(second, kind)]
    assert sent_.promised == 1
    assert bench.phase(third) == "gone"
    assert every(bench.end(first), commands.FetchInputs) == []


def test_what_has_started_is_not_given_back(bench: Bench) -> None:
    first, second, third = chain(bench, 3)
    fetched(bench, bench.end(first), second, ("payload", first))
    bench.work(retract=(second, third))
    assert bench.phase(second) == "RUNNING"
    assert {a: e.kind for a, e in bench.endings().items()} == {
        first: EndingKind.DONE,
        third: EndingKind.RETURNED,
    }


def test_a_follower_overtakes_nothing_that_was_sent_ahead(bench: Bench) -> None:
    first, second = chain(bench, 2)
    (other,), _ = bench.assign(bench.body("other"), ahead=True)
    out = bench.end(first)
    assert sent(out) == [other]
    fetched(bench, out, second, ("payload", first))
    assert sent(bench.end(other)) == [second]


def test_a_follower_of_what_has_ended_goes_on_at_once(bench: Bench) -> None:
    body = bench.body()
    (first,), _ = bench.assign(body)
    bench.end(first)
    bench.flush()
    bench.attempts += 1
    second = bench.attempts
    out = bench.work(assigned=(events.Assigned(second, body, True, False, behind=first),))
    assert sent(fetched(bench, out, second, ("payload", first))) == [second]


def test_a_follower_of_what_has_failed_is_forgotten(bench: Bench) -> None:
    body = bench.body()
    (first,), _ = bench.assign(body)
    bench.end(first, ok=False)
    assert bench.phase(follow(bench, body, first)) == "gone"
    assert list(bench.endings()) == [first]


def test_a_follower_of_an_unknown_attempt_is_given_back(bench: Bench) -> None:
    second = follow(bench, bench.body(), 77)
    assert [ending.kind for ending in bench.endings().values()] == [EndingKind.RETURNED]
    assert bench.phase(second) == "FINISHED"


def test_a_draining_worker_gives_followers_back(bench: Bench) -> None:
    first, second, third = chain(bench, 3)
    bench.turn(events.DrainRequested(60.0))
    assert {a: e.kind for a, e in bench.endings().items()} == {second: EndingKind.RETURNED}
    assert bench.phase(third) == "gone"
    assert bench.phase(first) == "RUNNING"


def test_followers_outlive_a_session(bench: Bench) -> None:
    first, second = chain(bench, 2)
    bench.turn(events.Disconnected())
    out = bench.end(first)
    fetched(bench, out, second, ("payload", first))
    held = [attempt for attempt, _ in bench.core.held()]
    assert held == [first, second]
    bench.connect(keep=(first, second))
    assert list(bench.endings()) == [first]


def test_followers_that_are_not_wanted_any_more_are_dropped(bench: Bench) -> None:
    first, second, third = chain(bench, 3)
    bench.turn(events.Disconnected())
    bench.connect(keep=(first,), drop=(second, third))
    assert [bench.phase(attempt) for attempt in (first, second, third)] == ["RUNNING", "gone", "gone"]
    assert every(bench.end(first), commands.FetchInputs) == []


def test_a_follower_may_need_less_than_what_it_follows(bench: Bench) -> None:
    body, less = bench.body(), bench.body("less", amounts=(("cpu", CPU // 2),))
    (first,), _ = bench.assign(body)
    second = follow(bench, less, first)
    fetched(bench, bench.end(first), second, ("payload", first))
    assert bench.state.free["cpu"] == CPU // 2


@pytest.mark.parametrize("expected", [0.0005, 0.5, None])
def test_reports_of_tiny_followers_are_gathered(bench: Bench, expected: float | None) -> None:
    first, _ = chain(bench, 2)
    bench.state.attempts[first].body.profile.expected = expected
    assert bench.core.streaming == (expected == 0.0005)
    bench.end(first)
    assert not bench.core.streaming, "the last one is reported at once"
