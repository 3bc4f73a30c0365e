"""What a task knows of its own attempt, and workers that are late: real processes."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import Life, fresh

pytestmark = pytest.mark.integration


def noted(path: str) -> int:
    """How many keys there are."""
    return len(Path(path).read_text().split())


def key_of(path: str) -> Any:
    """Notes the key of the task that calls it."""
    info = cs.current_attempt()
    assert info is not None
    note(path, info.idempotency_key)
    return info


@cs.task
def flaky(path: str) -> int:
    if key_of(path).attempt < 3:
        raise LookupError("not yet")
    return 1


@cs.task
def poll(path: str, until: int) -> Any:
    """A loop whose steps are all the same call."""
    key_of(path)
    return "over" if noted(path) >= until else poll(path, until)


@cs.task
async def poll_async(path: str, until: int) -> Any:
    key_of(path)
    return "over" if noted(path) >= until else poll_async(path, until)


@cs.task
def leaf(path: str, value: int) -> int:
    key_of(path)
    return value


@cs.task(spawn=True)
def nested(path: str) -> Any:
    return leaf(path, leaf(path, 1))


@cs.task
def add(*values: int) -> int:
    return sum(values)


def test_all_tries_of_a_task_have_one_idempotency_key(cluster: cs.Cluster, journal: Journal) -> None:
    run_id = f"keys-{secrets.token_hex(4)}"
    assert cluster.run(flaky(journal.path).with_retry(3), run_id=run_id) == 1
    keys = journal.lines()
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0].startswith(f"{run_id}/")


@pytest.mark.parametrize("task", [poll, poll_async])
def test_every_step_of_a_loop_has_a_key_of_its_own(loops: cs.Cluster, journal: Journal, task: Any) -> None:
    assert loops.run(task(journal.path, 30)) == "over"
    assert len(journal.lines()) == len(set(journal.lines())) == 30


def test_children_and_nested_graphs_have_keys_of_their_own(cluster: cs.Cluster, journal: Journal) -> None:
    children = leaf.map(path=cs.unmapped(journal.path), value=[1, 1, 1])
    target = [add(nested(journal.path), nested(journal.path)), children]
    assert cluster.run(target) == [2, [1, 1, 1]]
    assert len(journal.lines()) == len(set(journal.lines())) == 7


# --- a worker that comes back late -----------------------------------------------------------------------


@cs.task
def slow(path: str, flag: str) -> int:
    note(path, os.getppid())
    while not os.path.exists(flag):
        time.sleep(0.02)
    return os.getppid()


@pytest.fixture
def new_life(redis_server: str, tmp_path: Path) -> Iterator[Callable[..., Life]]:
    lives: list[Life] = []

    fresh(redis_server)

    def start(state: str) -> Life:
        url = redis_server if state == "redis" else "memory://"
        options = ("--heartbeat-period", "0.3s", "--heartbeat-timeout", "3s")
        lives.append(Life(url, tmp_path / "blobs", slots=1, options=options))
        return lives[-1]

    yield start
    for life in lives:
        life.kill()


@pytest.mark.parametrize("state", ["memory", "redis"])
def test_a_frozen_worker_is_told_that_it_is_late_and_its_result_is_dropped(
    new_life: Callable[..., Life], journal: Journal, tmp_path: Path, state: str
) -> None:
    flag = tmp_path / "flag"
    life = new_life(state)
    with life.connect() as cluster:
        run = cluster.submit(slow(journal.path, str(flag)), progress=False)
        wait_until(lambda: len(journal.lines()) == 1)
        frozen = life.workers[0]
        os.kill(frozen.pid, signal.SIGSTOP)  # its executor goes on, and will have a result
        wait_until(lambda: "TaskLost" in [event.kind for event in cluster.events(run.id, follow=False)])
        life.workers.append(life.start_worker())
        wait_until(lambda: len(journal.lines()) >= 2)
        flag.touch()
        value = run.result(60)
        os.kill(frozen.pid, signal.SIGCONT)
        wait_until(lambda: len(cluster.workers()) == 2)
        assert run.result() == value
        kinds = [event.kind for event in run.events()]
        assert kinds.count("TaskExecutionFinished") == 1
        assert cluster.run([add(n) for n in range(4)]) == [0, 1, 2, 3], "both work on"
