"""Leased loops when something happens to them: deaths, limits, drains. They mean what slow ones mean."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note

pytestmark = pytest.mark.integration

TIMEOUT = 60
STEPS = 2500


@pytest.fixture
def cluster() -> Iterator[cs.Cluster]:
    """One of its own, with two workers of one slot."""
    with cs.connect(None, workers=2, slots=1) as made:
        yield made


@cs.task
def paced(n: int, path: str) -> Any:
    """Takes about a millisecond a step, and says where."""
    note(path, f"{n}:{os.getppid()}")
    time.sleep(0.001)
    return "end" if n == 0 else paced(n - 1, path)


@cs.task
def endless(n: int, path: str, flag: str) -> Any:
    """Ends when somebody has made the flag."""
    note(path, n)
    time.sleep(0.001)
    return "end" if os.path.exists(flag) else endless(n + 1, path, flag)


@cs.task
def dies_once(n: int, path: str) -> Any:
    if n == STEPS // 4 and not os.path.exists(path + ".died"):
        note(path + ".died", "")
        os.kill(os.getpid(), signal.SIGKILL)
    note(path, str(n))
    time.sleep(0.001)
    return "end" if n == 0 else dies_once(n - 1, path)


@cs.task
def add(a: int, b: int) -> int:
    return a + b


def until(journal: Journal, lines: int) -> list[str]:
    deadline = time.monotonic() + TIMEOUT
    while len(found := journal.lines()) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def is_held(run: cs.Run[Any]) -> bool:
    """A limit holds the loop up: no step is under way."""
    events = run.events(follow=False)
    return any(getattr(event, "reason", "") == "ConstraintViolation" for event in events)


def went_on(visits: Counter[int]) -> None:
    """Every step was taken, and those before the last checkpoint once."""
    assert set(visits) == set(range(STEPS + 1))
    again = [n for n, count in visits.items() if count > 1]
    assert len(again) < STEPS / 2, f"{len(again)} steps were taken again"
    assert visits[STEPS] == 1, "it did not begin anew"


def test_a_loop_goes_on_from_its_checkpoint_when_its_executor_dies(
    cluster: cs.Cluster, journal: Journal
) -> None:
    assert cluster.run(dies_once(STEPS, journal.path), timeout=TIMEOUT) == "end"
    assert cluster.status().leases > 0
    went_on(Counter(map(int, journal.lines())))


def test_a_loop_goes_on_from_its_checkpoint_when_its_worker_dies(
    cluster: cs.Cluster, journal: Journal
) -> None:
    run = cluster.submit(paced(STEPS, journal.path))
    until(journal, STEPS // 2)
    [victim] = [worker for worker in cluster.workers() if worker.running]
    os.kill(victim.pid, signal.SIGKILL)
    assert run.result(TIMEOUT) == "end"
    went_on(Counter(int(line.split(":")[0]) for line in journal.lines()))


def test_a_pause_holds_a_leased_loop(cluster: cs.Cluster, journal: Journal, tmp_path: Path) -> None:
    end = tmp_path / "end"
    run = cluster.submit(endless(0, journal.path, str(end)))
    until(journal, 200)
    cluster.pause("task:endless")
    wait_until(lambda: is_held(run))
    held = len(journal.lines())
    time.sleep(0.5)
    assert len(journal.lines()) == held
    assert cluster.run(add(1, 2), timeout=TIMEOUT) == 3
    assert len(journal.lines()) == held
    cluster.resume("task:endless")
    until(journal, held + 200)
    end.touch()
    assert run.result(TIMEOUT) == "end"
    steps = [int(line) for line in journal.lines()]
    assert steps == list(range(len(steps))), "no step was lost or taken twice"


def test_a_rate_holds_for_every_step(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(endless(0, journal.path, "never"))
    until(journal, 200)
    cluster.set_rate_limit("task:endless", 20)
    wait_until(lambda: is_held(run))
    before, began = len(journal.lines()), time.monotonic()
    until(journal, before + 10)
    time.sleep(0.5)
    taken = len(journal.lines()) - before
    assert taken <= 20 * (time.monotonic() - began) + 2
    run.cancel()


def test_a_loop_moves_to_another_worker_when_its_own_drains(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(paced(STEPS, journal.path))
    until(journal, 300)
    [victim] = [worker for worker in cluster.workers() if worker.running]
    os.kill(victim.pid, signal.SIGTERM)
    assert run.result(TIMEOUT) == "end"
    rows = [line.split(":") for line in journal.lines()]
    assert [int(row[0]) for row in rows] == list(range(STEPS, -1, -1)), "no step was lost or taken twice"
    assert len({row[1] for row in rows}) > 1


def test_loops_share_a_slot(cluster: cs.Cluster, journal: Journal) -> None:
    """Three loops on two slots all get on."""
    runs = [cluster.submit(paced(STEPS - number, journal.path)) for number in range(3)]
    time.sleep(2.0)
    begun = Counter(int(line.split(":")[0]) for line in journal.lines())
    assert {STEPS, STEPS - 1, STEPS - 2} <= set(begun)
    assert all(run.result(TIMEOUT) == "end" for run in runs)
