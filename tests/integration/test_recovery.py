"""A scheduler that dies and comes back goes on with all runs by itself: real processes, a real Redis."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import Life, fresh, kill

pytestmark = pytest.mark.integration

NewLife = Callable[..., Life]


@pytest.fixture
def new_life(redis_server: str, tmp_path: Path) -> Iterator[NewLife]:
    """Starts a scheduler and workers."""
    lives: list[Life] = []
    url = fresh(redis_server)

    def start(**options: Any) -> Life:
        lives.append(Life(url, tmp_path / "blobs", **options))
        return lives[-1]

    yield start
    for life in lives:
        life.kill()


@cs.task
def step(path: str, name: str, *before: Any) -> int:
    note(path, name)
    return 1 + int(sum(before))


@cs.task
def gate(path: str, name: str, flag: str, *before: int) -> int:
    """Blocks until somebody has made the flag."""
    note(path, name)
    while not os.path.exists(flag):
        time.sleep(0.02)
    return 1 + sum(before)


@cs.task
def large(path: str, name: str) -> bytes:
    note(path, name)
    return b"x" * (1 << 20)


@cs.task
def size(path: str, name: str, value: bytes, *after: Any) -> int:
    note(path, name)
    return len(value)


@cs.task
def fails(path: str, name: str, flag: str) -> int:
    note(path, name)
    while not os.path.exists(flag):
        time.sleep(0.02)
    raise LookupError(name)


@cs.task
def flaky(path: str, name: str) -> int:
    note(path, name)
    if cs.current_attempt().attempt < 3:
        raise LookupError(name)
    return 5


def began(cluster: cs.Cluster, run_id: str) -> int:
    """How many attempts have begun, and are stored: events are told when they and all before them are."""
    kinds = [event.kind for event in cluster.events(run_id, follow=False)]
    return kinds.count("TaskExecutionStarted")


def name() -> str:
    return f"run-{secrets.token_hex(4)}"


def test_who_waits_for_a_result_gets_it_and_nothing_runs_twice(
    new_life: NewLife, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    life = new_life()
    p = journal.path
    target = gate(p, "gate", str(flag), step(p, "a"), size(p, "size", large(p, "large")))
    with life.connect() as cluster:
        run = cluster.submit(target, run_id=name(), progress=False)
        wait_until(lambda: began(cluster, run.id) == 4)
        life.kill_scheduler()
        flag.touch()  # the gate ends while nobody is there to hear of it
        life.start_scheduler()
        assert run.result(60) == 2 + (1 << 20)
        kinds = Counter(event.kind for event in run.events())
    assert sorted(journal.lines()) == ["a", "gate", "large", "size"]
    assert kinds == {
        "RunStarted": 1,
        "TaskExecutionStarted": 4,
        "TaskExecutionFinished": 4,
        "RunFinished": 1,
    }


def test_an_object_that_its_worker_has_kept_is_not_made_again(
    new_life: NewLife, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    life = new_life()
    p = journal.path
    blocked = gate(p, "gate", str(flag))
    with life.connect() as cluster:
        run = cluster.submit(size(p, "size", large(p, "large"), blocked), progress=False)
        wait_until(lambda: began(cluster, run.id) == 2)
        life.restart_scheduler()
        flag.touch()
        assert run.result(60) == 1 << 20
    assert sorted(journal.lines()) == ["gate", "large", "size"]


def test_a_worker_that_died_with_the_scheduler_is_waited_for_and_then_replaced(
    new_life: NewLife, journal: Journal, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    life = new_life(workers=2, slots=1, grace="10s")
    p = journal.path
    gates = [gate(p, f"gate{n}", str(flag)) for n in range(2)]
    with life.connect() as cluster:
        run = cluster.submit(gates, progress=False)
        wait_until(lambda: began(cluster, run.id) == len(journal.lines()) == 2)
        life.kill_scheduler()
        kill(life.workers[0])
        life.start_scheduler()
        flag.touch()
        assert run.result(60) == [1, 1]
        assert [event.kind for event in run.events()].count("TaskLost") == 1
    assert sorted(Counter(journal.lines()).values()) == [1, 2], "what the living worker held is not run again"


def test_events_go_on_where_they_were(new_life: NewLife, journal: Journal, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    life = new_life()
    p = journal.path
    with life.connect() as cluster:
        run = cluster.submit(step(p, "b", gate(p, "gate", str(flag), step(p, "a"))), progress=False)
        seen = []
        for event in run.events():
            seen.append((event.event_id, event.kind, event.task if hasattr(event, "task") else ""))
            if len(seen) == 4:
                life.restart_scheduler()
                flag.touch()
        assert run.result(60) == 3
    assert [number for number, *_ in seen] == list(range(1, len(seen) + 1))
    assert [kind for _, kind, _ in seen] == [
        "RunStarted",
        *["TaskExecutionStarted", "TaskExecutionFinished"] * 3,
        "RunFinished",
    ]


async def test_asyncio_waits_too(new_life: NewLife, journal: Journal, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    life = new_life()
    await asyncio.to_thread(lambda: life.connect().close())
    async with cs.aio.connect(life.address) as cluster:
        run = await cluster.submit(gate(journal.path, "gate", str(flag)), progress=False)
        await asyncio.to_thread(wait_until, lambda: began(cluster.cluster, run.id) == 1)
        await asyncio.to_thread(life.restart_scheduler)
        flag.touch()
        assert await asyncio.wait_for(run, 60) == 1
    assert journal.lines() == ["gate"]


ATTACH = """
import sys
import cascade_dist as cs
with cs.connect(sys.argv[1]) as cluster:
    print(cluster.attach(sys.argv[2]).result(60))
"""


def test_another_process_finds_a_run_by_its_id_while_it_runs_and_after_it_has_ended(
    new_life: NewLife, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", name()
    life = new_life()

    def attach() -> str:
        life.connect().close()  # it listens
        command = [sys.executable, "-c", ATTACH, life.address, run_id]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout.strip()

    target = {"one": gate(journal.path, "gate", str(flag)), "large": size(journal.path, "size", b"12")}
    with life.connect() as cluster:
        cluster.submit(target, run_id=run_id, detach=True, progress=False)
        wait_until(lambda: began(cluster, run_id) == 2)
    life.restart_scheduler()
    flag.touch()
    assert attach() == "{'one': 1, 'large': 2}"
    life.restart_scheduler()
    assert attach() == "{'one': 1, 'large': 2}"
    with life.connect() as cluster:
        [found] = [run for run in cluster.runs() if run.run_id == run_id]
        assert str(found.status) == "succeeded"
        described = cluster.describe(run_id).run
        assert (str(described.status), described.progress.done, described.error) == ("succeeded", 2, "")
        with pytest.raises(cs.RunNotFoundError, match="ended before this scheduler began"):
            cluster.explain(run_id, "gate")
        assert cluster.run(target, run_id=run_id) == {"one": 1, "large": 2}
        kinds = [event.kind for event in cluster.events(run_id, follow=False)]
        assert kinds.count("TaskExecutionFinished") == 2
    assert sorted(journal.lines()) == ["gate", "size"]


def test_a_run_that_failed_is_told_so_after_a_restart_with_what_was_raised(
    new_life: NewLife, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", name()
    life = new_life()
    with life.connect() as cluster:
        run = cluster.submit(fails(journal.path, "fails", str(flag)), run_id=run_id, progress=False)
        wait_until(lambda: began(cluster, run_id) == 1)
        life.restart_scheduler()
        flag.touch()
        with pytest.raises(LookupError, match="fails"):
            run.result(60)
        life.restart_scheduler()
    with life.connect() as cluster, pytest.raises(LookupError, match="fails") as raised:
        cluster.attach(run_id).result(60)
    assert "raised by task 'fails'" in "".join(raised.value.__notes__)
    assert journal.lines() == ["fails"]


def test_tries_are_counted_over_a_restart_and_a_delay_goes_on(new_life: NewLife, journal: Journal) -> None:
    life = new_life()
    with life.connect() as cluster:
        target = flaky(journal.path, "flaky").with_retry(3, delay=2.0)
        run = cluster.submit(target, progress=False)
        wait_until(lambda: "TaskRetrying" in [e.kind for e in cluster.events(run.id, follow=False)])
        life.restart_scheduler()
        assert run.result(60) == 5
        kinds = Counter(event.kind for event in run.events())
    assert journal.lines() == ["flaky"] * 3
    assert (kinds["TaskRetrying"], kinds["TaskExecutionStarted"]) == (2, 3)


def test_what_was_cancelled_stays_cancelled(new_life: NewLife, journal: Journal, tmp_path: Path) -> None:
    life = new_life()
    target = step(journal.path, "after", gate(journal.path, "gate", str(tmp_path / "never")))
    with life.connect() as cluster:
        run = cluster.submit(target, detach=True, progress=False)
        wait_until(lambda: journal.lines() == ["gate"])
        cluster.cancel(run.id)
        life.restart_scheduler()
        wait_until(lambda: str(cluster.attach(run.id).status) == "cancelled")
    assert journal.lines() == ["gate"]


@cs.task
def count_down(path: str, left: int) -> Any:
    note(path, left)
    time.sleep(0.002)
    return count_down(path, left - 1) if left else "over"


def test_a_leased_loop_goes_on_under_the_next_scheduler(new_life: NewLife, journal: Journal) -> None:
    life = new_life()
    with life.connect() as cluster:
        run = cluster.submit(count_down(journal.path, 1_500), progress=False)
        wait_until(lambda: len(journal.lines()) > 300)
        life.restart_scheduler()
        assert run.result(90) == "over"
        told = [event.iterations for event in run.events() if event.kind == "LoopProgress"]
    assert journal.lines() == [str(left) for left in range(1_500, -1, -1)], "each step once, in order"
    assert told == sorted(told)
    assert told[-1] == 1_500


def test_a_leased_loop_whose_worker_died_too_goes_on_from_its_checkpoint(
    new_life: NewLife, journal: Journal
) -> None:
    life = new_life(grace="1s")
    with life.connect() as cluster:
        run = cluster.submit(count_down(journal.path, 3_000), progress=False)
        wait_until(lambda: "LoopProgress" in [e.kind for e in cluster.events(run.id, follow=False)])
        wait_until(lambda: len(journal.lines()) > 1_200)
        life.kill_scheduler()
        kill(life.workers[0])
        done = len(journal.lines())
        life.start_scheduler()
        life.workers.append(life.start_worker())
        assert run.result(90) == "over"
    first = int(journal.lines()[done])
    assert 3_000 - done <= first < 3_000, "some steps are taken again, and not all of them"
    assert journal.lines()[done:] == [str(left) for left in range(first, -1, -1)]
