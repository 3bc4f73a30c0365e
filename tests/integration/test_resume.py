"""Runs that go on where they were lost: schedulers and workers that are really killed, on a real Redis."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import Life, fresh, gate, step

pytestmark = pytest.mark.integration


@cs.task
def fails_without(path: str, flag: str, value: int) -> int:
    note(path, "flaky")
    if not os.path.exists(flag):
        raise RuntimeError("the flag is not there")
    return value * 10


@cs.task
def item(path: str, number: int) -> int:
    note(path, f"item{number}")
    return number * number


@cs.task
def numbers(path: str, count: int) -> list[int]:
    note(path, "numbers")
    return list(range(count))


@cs.task
def large(path: str) -> bytes:
    note(path, "large")
    return b"x" * (1 << 20)


@cs.task
def size(path: str, value: bytes) -> int:
    note(path, "size")
    return len(value)


@cs.task
def down(path: str, flag: str, n: int) -> Any:
    """A loop of two tasks, which no worker leases; it blocks at 3 until somebody has made the flag."""
    note(path, f"down{n}")
    while n == 3 and not os.path.exists(flag):
        time.sleep(0.02)
    return "over" if n == 0 else further(path, flag, n)


@cs.task
def further(path: str, flag: str, n: int) -> Any:
    return down(path, flag, n - 1)


@cs.task
def add(*values: Any) -> Any:
    return sum(values)


@cs.task
def add_all(values: list[int], more: int) -> int:
    return sum(values) + more


@pytest.fixture
def new_life(redis_server: str, tmp_path: Path) -> Iterator[Callable[..., Life]]:
    """Starts the next scheduler on the same Redis; workers of before are not waited for: they died too."""
    lives: list[Life] = []

    url = fresh(redis_server)

    def start(grace: str = "1s") -> Life:
        lives.append(Life(url, tmp_path / "blobs", grace=grace))
        return lives[-1]

    yield start
    for life in lives:
        life.kill()


def finished(cluster: cs.Cluster, run_id: str) -> int:
    """How many tasks of a run users were told to have finished."""
    kinds = [event.kind for event in cluster.events(run_id, follow=False)]
    return kinds.count("TaskExecutionFinished")


def status(cluster: cs.Cluster, run_id: str) -> str:
    [found] = [run for run in cluster.runs() if run.run_id == run_id]
    return str(found.status)


def lost_at_gate(life: Life, journal: Journal, target: Any, run_id: str, *, before: int) -> None:
    """Runs the target until the gate blocks and so many results are stored, and kills everything."""
    with life.connect() as cluster:
        run = cluster.submit(target, run_id=run_id, progress=False, detach=True)
        wait_until(lambda: "gate" in journal.lines())
        # Events are published when their turn has landed in Redis, and results land with them.
        wait_until(lambda: finished(cluster, run.id) >= before)
        life.kill()


def test_s91_tasks_done_before_a_crash_are_not_executed_again(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"s91-{secrets.token_hex(4)}"
    a = step(journal.path, 1)
    b = step(journal.path, 2, a)
    c = step(journal.path, 3, a)
    target = gate(journal.path, str(flag), a, b, c)
    lost_at_gate(new_life(), journal, target, run_id, before=3)
    flag.touch()
    with new_life().connect() as cluster:
        assert cluster.run(target, run_id=run_id, resume=True) == 1 + 3 + 4
        kinds = [event.kind for event in cluster.events(run_id, follow=False)]
    assert sorted(journal.lines()) == ["gate", "gate", "step1", "step2", "step3"]
    assert kinds.count("TaskExecutionFinished") == 4, "what was done is told of no second time"
    assert "TaskSkipped" not in kinds


def test_a_client_and_workers_that_outlive_the_scheduler_go_on_with_the_next(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"outlived-{secrets.token_hex(4)}"
    target = gate(journal.path, str(flag), step(journal.path, 1), size(journal.path, large(journal.path)))
    life = new_life("60s")
    with life.connect() as cluster:
        run = cluster.submit(target, run_id=run_id, progress=False)
        wait_until(lambda: "gate" in journal.lines())
        wait_until(lambda: finished(cluster, run_id) >= 3)
        life.kill_scheduler()
        life.start_scheduler()
        flag.touch()
        assert run.result(60) == 1 + (1 << 20)
    assert sorted(journal.lines()) == ["gate", "large", "size", "step1"]


def test_children_of_a_map_are_not_executed_again(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"map-{secrets.token_hex(4)}"
    squares = item.map(path=[journal.path] * 4, number=numbers(journal.path, 4))
    target = add_all(squares, gate(journal.path, str(flag), step(journal.path, 1)))
    lost_at_gate(new_life(), journal, target, run_id, before=6)
    flag.touch()
    with new_life().connect() as cluster:
        assert cluster.run(target, run_id=run_id, resume=True) == 0 + 1 + 4 + 9 + 1
    once = ["item0", "item1", "item2", "item3", "numbers", "step1"]
    assert sorted(journal.lines()) == ["gate", "gate", *once]


def test_what_decided_before_decides_again(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"flow-{secrets.token_hex(4)}"
    selector = step(journal.path, 1)
    blocked = gate(journal.path, str(flag), selector)
    route: Any = cs.Router(selector, {1: step(journal.path, 5).after(blocked), 2: step(journal.path, 6)})
    target = add(route, step(journal.path, 7, blocked).run_if(selector))
    lost_at_gate(new_life(), journal, target, run_id, before=1)
    flag.touch()
    with new_life().connect() as cluster:
        assert cluster.run(target, run_id=run_id, resume=True) == 5 + 1 + 7
    assert sorted(journal.lines()) == ["gate", "gate", "step1", "step5", "step7"]


def test_objects_that_went_with_their_workers_are_made_again_where_they_are_needed(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"object-{secrets.token_hex(4)}"
    blob = large(journal.path)
    counted = size(journal.path, blob)
    target = add(gate(journal.path, str(flag), counted), size(journal.path, blob).after(counted))
    lost_at_gate(new_life(), journal, gate(journal.path, str(flag), counted), run_id, before=2)
    flag.touch()
    with new_life().connect() as cluster:
        assert cluster.run(gate(journal.path, str(flag), counted), run_id=run_id, resume=True) == 1 << 20
        assert sorted(journal.lines()) == ["gate", "gate", "large", "size"], "nobody needs the object"
        with pytest.raises(cs.RunConflictError, match="number of nodes"):
            cluster.run(target, run_id=run_id, resume=True)


def test_another_target_under_the_id_is_a_conflict_and_loses_nothing(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"conflict-{secrets.token_hex(4)}"
    target = gate(journal.path, str(flag), step(journal.path, 1))
    lost_at_gate(new_life(), journal, target, run_id, before=1)
    flag.touch()
    with new_life().connect() as cluster:
        other = gate(journal.path, str(flag), step(journal.path, 2))
        with pytest.raises(cs.RunConflictError, match="arguments differ"):
            cluster.run(other, run_id=run_id, resume=True)
        with pytest.raises(cs.RunConflictError, match="on_failure"):
            cluster.run(target, run_id=run_id, resume=True, on_failure="finish")
        assert cluster.run(target, run_id=run_id, resume=True) == 1
        assert cluster.run(target, run_id=run_id, resume=True) == 1, (
            "it is joined, like any run that is known"
        )
    assert journal.lines() == ["step1", "gate", "gate"]


def test_a_run_that_succeeded_before_is_not_executed_again(
    new_life: Callable[..., Life], journal: Journal
) -> None:
    run_id = f"done-{secrets.token_hex(4)}"
    target = [step(journal.path, 1), {"two": step(journal.path, 2)}]
    life = new_life()
    with life.connect() as cluster:
        assert cluster.run(target, run_id=run_id) == [1, {"two": 2}]
        life.kill()
    with new_life().connect() as cluster:
        assert cluster.run(target, run_id=run_id, resume=True) == [1, {"two": 2}]
    assert sorted(journal.lines()) == ["step1", "step2"]


def test_a_failed_run_is_resumed_when_the_cause_is_gone(
    redis_cluster: cs.Cluster, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"failed-{secrets.token_hex(4)}"
    target = step(journal.path, 3, fails_without(journal.path, str(flag), step(journal.path, 1)))
    with pytest.raises(RuntimeError, match="the flag is not there"):
        redis_cluster.run(target, run_id=run_id)
    with pytest.raises(RuntimeError, match="the flag is not there"):
        redis_cluster.run(target, run_id=run_id, resume=True)
    with pytest.raises(RuntimeError, match="the flag is not there"):
        redis_cluster.run(target, run_id=run_id)  # without resume it is joined, as it ended
    flag.touch()
    assert redis_cluster.run(target, run_id=run_id, resume=True) == 13
    assert journal.lines() == ["step1", "flaky", "flaky", "flaky", "step3"]
    assert status(redis_cluster, run_id) == "succeeded"


def test_a_cancelled_run_is_resumed(redis_cluster: cs.Cluster, journal: Journal, tmp_path: Path) -> None:
    flag, run_id = tmp_path / "flag", f"cancelled-{secrets.token_hex(4)}"
    target = gate(journal.path, str(flag), step(journal.path, 1))
    run = redis_cluster.submit(target, run_id=run_id)
    wait_until(lambda: "gate" in journal.lines())
    run.cancel()
    wait_until(lambda: status(redis_cluster, run_id) == "cancelled")
    flag.touch()
    assert redis_cluster.run(target, run_id=run_id, resume=True) == 1
    assert journal.lines() == ["step1", "gate", "gate"]


def test_a_run_that_was_refused_when_it_was_resumed_can_be_resumed_later(
    redis_cluster: cs.Cluster, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"refused-{secrets.token_hex(4)}"
    first = step(journal.path, 1)
    target = fails_without(journal.path, str(flag), first).with_constraints(tokens=2)
    with pytest.raises(RuntimeError):
        redis_cluster.run(target, run_id=run_id, system_resources={"tokens": 2})
    with pytest.raises(cs.AmountError, match="tokens"):
        redis_cluster.run(target, run_id=run_id, resume=True, system_resources={"tokens": 1})
    flag.touch()
    assert redis_cluster.run(target, run_id=run_id, resume=True, system_resources={"tokens": 2}) == 10
    assert journal.lines() == ["step1", "flaky", "flaky"]


def test_a_loop_goes_on_from_its_last_frame(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"loop-{secrets.token_hex(4)}"
    target = down(journal.path, str(flag), 4)
    life = new_life()
    with life.connect() as cluster:
        cluster.submit(target, run_id=run_id, progress=False, detach=True)
        wait_until(lambda: "down3" in journal.lines())
        life.kill()
    flag.touch()
    with new_life().connect() as cluster:
        assert cluster.run(target, run_id=run_id, resume=True) == "over"
    assert journal.lines() == ["down4", "down3", "down3", "down2", "down1", "down0"]


async def test_resume_with_asyncio(
    redis_cluster: cs.Cluster, cluster_address: str, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"aio-{secrets.token_hex(4)}"
    target = fails_without(journal.path, str(flag), step(journal.path, 1))
    async with cs.aio.connect(cluster_address) as cluster:
        with pytest.raises(RuntimeError):
            await cluster.run(target, run_id=run_id)
        flag.touch()
        assert await cluster.run(target, run_id=run_id, resume=True) == 10
    assert journal.lines() == ["step1", "flaky", "flaky"]


def test_with_the_state_in_memory_a_failed_run_begins_anew(
    private_cluster: cs.Cluster, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"memory-{secrets.token_hex(4)}"
    target = fails_without(journal.path, str(flag), step(journal.path, 1))
    with pytest.raises(RuntimeError):
        private_cluster.run(target, run_id=run_id)
    flag.touch()
    assert private_cluster.run(target, run_id=run_id, resume=True) == 10
    assert journal.lines() == ["step1", "flaky", "step1", "flaky"]


def test_a_run_that_is_not_known_begins(cluster: cs.Cluster, journal: Journal) -> None:
    run_id = f"new-{secrets.token_hex(4)}"
    assert cluster.run(step(journal.path, 1), run_id=run_id, resume=True) == 1


def test_resume_needs_an_id(private_cluster: cs.Cluster, journal: Journal) -> None:
    with pytest.raises(ValueError, match="run_id"):
        private_cluster.run(step(journal.path, 1), resume=True)


CLI = [sys.executable, "-m", "cascade_dist.cli"]


def resume_run(address: str, run_id: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "resume-run", run_id, "--address", address, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def test_a_failed_run_goes_on_without_the_program_that_submitted_it(
    redis_cluster: cs.Cluster, cluster_address: str, journal: Journal, tmp_path: Path
) -> None:
    flag, run_id = tmp_path / "flag", f"again-{secrets.token_hex(4)}"
    target = step(journal.path, 3, fails_without(journal.path, str(flag), step(journal.path, 1)))
    with pytest.raises(RuntimeError, match="the flag is not there"):
        redis_cluster.run(target, run_id=run_id)
    failed = resume_run(cluster_address, run_id)
    assert (failed.returncode, "the flag is not there" in failed.stderr) == (1, True)
    flag.touch()
    done = resume_run(cluster_address, run_id)
    assert (done.returncode, done.stdout) == (0, f"run {run_id}: succeeded\n"), done.stderr
    assert redis_cluster.attach(run_id).result(30) == 13
    assert journal.lines() == ["step1", "flaky", "flaky", "flaky", "step3"]
    kinds = [event.kind for event in redis_cluster.events(run_id, follow=False)]
    assert (kinds[0], kinds.count("TaskExecutionFinished"), kinds[-1]) == ("RunStarted", 2, "RunFinished")
    refused = resume_run(cluster_address, run_id)
    assert (refused.returncode, "has succeeded" in refused.stderr) == (1, True)
    unknown = resume_run(cluster_address, "nobody")
    assert (unknown.returncode, "is not stored here" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("way", ["resume-run", "submit"])
def test_a_cancelled_loop_goes_on_from_its_last_frame_also_after_a_restart(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path, way: str
) -> None:
    flag, run_id = tmp_path / "flag", f"loop-{secrets.token_hex(4)}"
    target = down(journal.path, str(flag), 4)
    life = new_life()
    with life.connect() as cluster:
        cluster.submit(target, run_id=run_id, progress=False, detach=True)
        wait_until(lambda: "down3" in journal.lines())
        cluster.cancel(run_id)
        wait_until(lambda: status(cluster, run_id) == "cancelled")
        life.kill()
    flag.touch()
    with new_life().connect() as cluster:
        run = (
            cluster.resume_run(run_id)
            if way == "resume-run"
            else cluster.submit(target, run_id=run_id, resume=True, progress=False)
        )
        assert run.result(60) == "over"
    assert journal.lines() == ["down4", "down3", "down3", "down2", "down1", "down0"]


def test_nothing_is_resumed_where_nothing_is_stored(private_cluster: cs.Cluster, journal: Journal) -> None:
    run = private_cluster.submit(step(journal.path, 1))
    run.result(30)
    with pytest.raises(cs.RunRefusedError, match="memory://"):
        private_cluster.resume_run(run.id)
