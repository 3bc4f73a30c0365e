"""Chains whose next tasks are at hand on the worker: what users see is what it always was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal, note
from .lives import Life, fresh

pytestmark = pytest.mark.integration

LENGTH = 60


@cs.task
def link(value: int, path: str = "") -> int:
    if path:
        note(path, value)
    return value + 1


@cs.task
def longer(data: bytes) -> bytes:
    return data + bytes(100_000)


@cs.task
def held(value: int, path: str, gate: str) -> int:
    note(path, "held")
    while not os.path.exists(gate):
        time.sleep(0.01)
    return value


@cs.task
def sub_link(value: int) -> Any:
    return link(link(value))


@pytest.fixture(scope="module")
def one_slot() -> Iterator[cs.Cluster]:
    with cs.connect(None, workers=1, slots=1) as cluster:
        yield cluster


def chain(length: int, value: Any = 0, path: str = "") -> cs.LazyResult[Any]:
    for _ in range(length):
        value = link(value, path)
    return value  # type: ignore[no-any-return]


def test_every_link_runs_once_and_in_order(cluster: cs.Cluster, journal: Journal) -> None:
    run = cluster.submit(chain(LENGTH, path=journal.path))
    assert run.result(60) == LENGTH
    assert journal.lines() == [str(number) for number in range(LENGTH)]
    kinds = [type(event).__name__ for event in run.events()]
    assert kinds[1:-1] == ["TaskExecutionStarted", "TaskExecutionFinished"] * LENGTH


def test_links_of_large_values(cluster: cs.Cluster) -> None:
    value: Any = b""
    for _ in range(12):
        value = longer(value)
    assert cluster.submit(value).result(60) == bytes(1_200_000)


def test_a_link_that_fails_ends_the_chain(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def breaks(value: int) -> int:
        raise ValueError(f"no more than {value}")

    target = chain(20, breaks(chain(5, path=journal.path)), journal.path)
    with pytest.raises(ValueError, match="no more than 5"):
        cluster.submit(target).result(60)
    assert len(journal.lines()) == 5


def test_a_link_is_tried_again(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task(retry=3)
    def flaky(value: int, path: str) -> int:
        note(path, "try")
        if len(Path(path).read_text().splitlines()) < 3:
            raise ValueError("not yet")
        return value

    run = cluster.submit(chain(10, flaky(chain(10), journal.path)))
    assert run.result(60) == 20
    assert [type(event).__name__ for event in run.events()].count("TaskRetrying") == 2


def test_a_link_that_kills_its_executor_once(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def dies_once(value: int, path: str) -> int:
        note(path, "try")
        if len(Path(path).read_text().splitlines()) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    run = cluster.submit(chain(10, dies_once(chain(10), journal.path)))
    assert run.result(60) == 20
    assert [type(event).__name__ for event in run.events()].count("TaskLost") == 1


def test_a_link_that_returns_a_nested_graph(cluster: cs.Cluster) -> None:
    nested = cs.task(sub_link.func, name="nested", spawn=True)
    assert cluster.submit(chain(5, nested(chain(5)))).result(60) == 12


def test_a_last_link_that_returns_a_tail(cluster: cs.Cluster) -> None:
    assert cluster.submit(sub_link(chain(5))).result(60) == 7


def test_a_cancel_stops_the_chain(cluster: cs.Cluster, journal: Journal, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    run = cluster.submit(chain(10, held(chain(3), journal.path, gate), journal.path))
    wait_until(lambda: journal.lines() == ["held"])
    run.cancel()
    wait_until(run.done)
    Path(gate).touch()
    assert cluster.run(link(1)) == 2
    assert journal.lines() == ["held"]


def test_a_pause_holds_the_next_link(cluster: cs.Cluster, journal: Journal, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    run = cluster.submit(chain(10, held(0, journal.path, gate), journal.path))
    wait_until(lambda: journal.lines() == ["held"])
    cluster.pause()
    Path(gate).touch()
    time.sleep(0.3)
    assert journal.lines() == ["held"]
    cluster.resume()
    assert run.result(60) == 10


def test_other_runs_get_their_turn_between_links(one_slot: cs.Cluster, tmp_path: Path) -> None:
    """A chain does not keep a worker to itself: a run that comes later ends long before the chain."""

    @cs.task
    def slow_link(value: int, path: str) -> int:
        note(path, "link")
        time.sleep(0.05)
        return value + 1

    paths = [str(tmp_path / name) for name in ("first", "second")]
    Path(paths[0]).touch()
    value: Any = 0
    for _ in range(60):
        value = slow_link(value, paths[0])
    run = one_slot.submit(value)
    wait_until(lambda: Path(paths[0]).read_text().count("link") >= 3)
    assert one_slot.submit(slow_link(0, paths[1])).result(60) == 1
    assert not run.done()
    run.cancel()


def test_a_chain_goes_on_while_there_is_no_scheduler(
    redis_server: str, journal: Journal, tmp_path: Path
) -> None:
    life = Life(fresh(redis_server), tmp_path / "blobs", slots=1)
    path, gate = journal.path, str(tmp_path / "gate")
    try:
        with life.connect() as cluster:
            run = cluster.submit(chain(8, held(chain(3, path=path), path, gate), path), progress=False)
            wait_until(lambda: "held" in journal.lines())
            time.sleep(0.5)  # so that what was sent is stored
            life.kill_scheduler()
            Path(gate).touch()
            wait_until(lambda: len(journal.lines()) > 4)
            life.start_scheduler()
            assert run.result(60) == 11
            kinds = [type(event).__name__ for event in run.events()]
            assert kinds.count("TaskExecutionFinished") == 12
    finally:
        life.kill()
    assert len(journal.lines()) == 12, "nothing ran twice"
