"""A scheduler that is killed at sampled points of a run: the run ends right, and nothing is done again."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import Life, fresh

pytestmark = pytest.mark.integration

STEPS = 40
LARGE = 200_000


def noted(path: str, pause: float = 0.02) -> None:
    """Notes which node is executed, a child of a map with its index."""
    info = cs.current_attempt()
    assert info is not None
    child = "" if info.map_index is None else f"[{info.map_index}]"
    note(path, f"{info.node_id}{child}")
    time.sleep(pause)


@cs.task
def one(path: str, value: Any, *before: Any) -> Any:
    noted(path)
    return value


@cs.task
def total(path: str, *values: Any) -> int:
    noted(path)
    return sum(len(value) if isinstance(value, bytes) else value for value in values)


@cs.task
def numbers(path: str, count: int) -> list[int]:
    noted(path)
    return list(range(count))


@cs.task
def square(path: str, number: int) -> int:
    noted(path)
    return number * number


@cs.task
def large(path: str) -> bytes:
    noted(path)
    return b"x" * LARGE


@cs.task
def flaky(path: str) -> int:
    noted(path, 0.0)
    info = cs.current_attempt()
    assert info is not None
    if info.attempt < 3:
        raise LookupError("not yet")
    return 3


@cs.task
def gathered(path: str, *values: Any) -> Any:
    noted(path)
    return loop(path, STEPS, sum(sum(value) if isinstance(value, list) else value for value in values))


@cs.task
def loop(path: str, left: int, value: int) -> Any:
    note(path, f"step{left}")
    time.sleep(0.005)
    return loop(path, left - 1, value + 1) if left else value


def program(path: str) -> Any:
    """A bit of everything, with a loop at its end that a worker goes on with by itself."""
    selector = one(path, "b")
    route: Any = cs.Router(selector, {"a": one(path, 100), "b": one(path, 7, one(path, 6))})
    blob = large(path)
    squares = square.map(path=cs.unmapped(path), number=numbers(path, 4))
    known = square.map(path=[path] * 3, number=[5, 6, 7])
    off = one(path, 9).run_if(one(path, 0))
    piped = cs.pipeline(one(path, 1), [lambda v: total(path, v, 1), lambda v: total(path, v, 1).run_if(off)])
    return gathered(
        path,
        total(path, route, piped),
        total(path, blob, total(path, blob)),
        flaky(path).with_retry(3, delay=0.05),
        squares,
        known,
    )


RESULT = 7 + 2 + 2 * LARGE + 3 + 14 + 110 + STEPS


@pytest.fixture
def life(redis_server: str, tmp_path: Path) -> Iterator[Life]:
    made = Life(fresh(redis_server), tmp_path / "blobs", workers=2, slots=2)
    yield made
    made.kill()


def stored(url: str, run_id: str) -> set[str]:
    """The nodes that have a result in Redis."""
    with redis.Redis.from_url(url) as client:
        keys: Any = client.hkeys(f"cascade:run:{run_id}:results")
    return {key.decode() for key in keys}


def redone(had: set[str], lines: Sequence[str]) -> list[str]:
    """The nodes with results that are noted once more.

    A child of a map over a lazy list has its result under its map's id and its index, any other child under
    an id of its own.
    """
    return [line for line in lines if line in had or line.partition("[")[0] in had]


def test_what_is_executed_again_is_seen() -> None:
    """The check of the tests below can fail, for each kind of node."""
    had = {"aa", "bb", "cc[1]"}
    assert redone(had, ["dd", "dd[0]", "cc[0]", "cc", "step4"]) == []
    assert redone(had, ["dd", "aa"]) == ["aa"], "a call"
    assert redone(had, ["bb[3]"]) == ["bb[3]"], "a child of a map over a list that the client knew"
    assert redone(had, ["cc[0]", "cc[1]"]) == ["cc[1]"], "a child of a map over a lazy list"


def test_results_are_stored_under_what_is_noted(life: Life, redis_server: str, journal: Journal) -> None:
    run_id = f"whole-{secrets.token_hex(4)}"
    with life.connect() as cluster:
        target = [
            one(journal.path, 1),
            square.map(path=[journal.path] * 2, number=[1, 2]),
            square.map(path=cs.unmapped(journal.path), number=numbers(journal.path, 2)),
        ]
        assert cluster.run(target, run_id=run_id) == [1, [1, 4], [0, 1]]
    lines = journal.lines()
    assert len(lines) == 6
    assert redone(stored(redis_server, run_id), lines) == lines


def killed_at(life: Life, url: str, journal: Journal, when: Callable[[], bool]) -> None:
    run_id = f"kill-{secrets.token_hex(4)}"
    before = len(journal.lines())
    with life.connect() as cluster:
        run = cluster.submit(program(journal.path), run_id=run_id, progress=False)
        wait_until(lambda: when() or run.done())
        life.kill_scheduler()
        time.sleep(0.1)  # what runs ends, and cannot be told
        had = stored(url, run_id)
        at = len(journal.lines())
        life.start_scheduler()
        assert run.result(120) == RESULT
    lines = journal.lines()
    told = f"killed after {at - before} tasks: executed again, although they are stored"
    assert redone(had, lines[at:]) == [], told
    counts = Counter(lines[before:])
    steps = [counts[f"step{left}"] for left in range(STEPS + 1)]
    assert min(steps) >= 1, "no step was left out"
    assert max(steps) <= 2, "a loop goes on where it was"


def test_killed_at_five_points(life: Life, redis_server: str, journal: Journal) -> None:
    for tasks in (2, 9, 17, 24, 45):
        before = len(journal.lines())
        killed_at(life, redis_server, journal, lambda n=before + tasks: len(journal.lines()) >= n)  # type: ignore[misc]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_a_hundred_points(life: Life, redis_server: str, journal: Journal) -> None:
    whole = 27 + STEPS
    for number in range(100):
        before = len(journal.lines())
        pause, tasks = number % 3 * 0.007, before + number * whole // 100

        def when(pause: float = pause, tasks: int = tasks) -> bool:
            if len(journal.lines()) < tasks:
                return False
            time.sleep(pause)
            return True

        killed_at(life, redis_server, journal, when)
