"""Resources on a real worker: what it tells the scheduler, and what becomes of them when it ends."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascade_dist import Resource, inject
from cascade_dist.v1 import worker_pb2
from tests.worker.scheduler import Scheduler, value_of
from tests.worker.test_life import scheduler, settled, start  # noqa: F401


def noted(name: str, path: Path, scope: str) -> Resource:
    """A resource that notes its setup and teardown in a file."""

    def make() -> Iterator[str]:
        with path.open("a") as file:
            file.write(f"+{name} ")
        yield name
        with path.open("a") as file:
            file.write(f"-{name} ")

    return Resource(make, name=name, scope=scope)


def told(scheduler: Scheduler) -> list[str]:  # noqa: F811
    """What was reported of resources."""
    return [f"{'-' if r.released else '+'}{r.name}{r.reason and ' ' + r.reason}" for r in scheduler.resources]


async def test_reports_in_order(scheduler: Scheduler, start: Any, tmp_path: Path) -> None:  # noqa: F811
    await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    resources = [noted("db", journal, "run"), noted("tmp", journal, "task")]
    task = scheduler.task(lambda a=inject("db"), b=inject("tmp"): a + b, resources=resources)
    [report] = await session.submit(task)
    assert value_of(report) == "dbtmp"
    assert told(scheduler) == ["+db", "+tmp", "-tmp"]
    assert [r.attempt for r in scheduler.resources] == [task.attempt] * 3
    assert {r.run for r in scheduler.resources} == {1}
    await session.say(work=worker_pb2.Work(close_runs=[1]))
    await scheduler.until(lambda: scheduler.closed_runs)
    assert told(scheduler)[3:] == ["-db"]
    assert scheduler.resources[-1].attempt == 0
    await session.say(work=worker_pb2.Work(close_runs=[1]))
    await scheduler.until(lambda: len(scheduler.closed_runs) == 2)
    assert journal.read_text().split() == ["+db", "+tmp", "-tmp", "-db"]


async def test_a_start_is_told_when_the_function_is_called(
    scheduler: Scheduler,  # noqa: F811
    start: Any,  # noqa: F811
) -> None:
    await start("--slots", "1")
    session = await scheduler.worker()

    def slow() -> Iterator[int]:
        time.sleep(0.2)
        yield 1

    def work(x: int = inject("slow")) -> None:
        time.sleep(0.2)

    task = scheduler.task(work, resources=[Resource(slow, scope="task")])
    await session.send(task)
    await scheduler.until(lambda: scheduler.resources)
    await scheduler.until(lambda: task.attempt in scheduler.started)
    assert task.attempt not in scheduler.reports
    await scheduler.report(task.attempt)


async def test_a_run_that_ended_without_a_word_is_torn_down(
    scheduler: Scheduler,  # noqa: F811
    start: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    await session.submit(scheduler.task(lambda x=inject("db"): x, resources=[noted("db", journal, "run")]))
    await session.say(work=worker_pb2.Work(ended_runs=[1]))
    await settled(lambda: journal.read_text().split() == ["+db", "-db"])


async def test_a_drain_reports_its_teardowns(
    scheduler: Scheduler,  # noqa: F811
    start: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    process = await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    resources = [noted("model", journal, "worker"), noted("db", journal, "run")]
    work = scheduler.task(lambda a=inject("model"), b=inject("db"): a, resources=resources)

    async def later(a: str = inject("model")) -> str:
        return a

    await session.submit(work, scheduler.task(later, asynchronous=True, resources=resources[:1]))
    process.send(signal.SIGTERM)
    assert await process.wait() == 0
    assert sorted(told(scheduler)) == sorted(["+model", "+db", "+model", "-db", "-model", "-model"])
    assert journal.read_text().split().count("-model") == 2


async def test_a_worker_that_is_sent_away_tears_down(
    scheduler: Scheduler,  # noqa: F811
    start: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    process = await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    work = scheduler.task(lambda x=inject("model"): x, resources=[noted("model", journal, "worker")])
    await session.submit(work)
    await session.say(goodbye=worker_pb2.Goodbye(reason="not wanted"))
    assert await process.wait() == 1
    assert journal.read_text().split() == ["+model", "-model"]


async def test_what_a_killed_executor_held(scheduler: Scheduler, start: Any, tmp_path: Path) -> None:  # noqa: F811
    await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    resources = [noted("model", journal, "worker"), noted("tmp", journal, "task")]

    def work(model: str = inject("model"), tmp: str = inject("tmp")) -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                print("no")

    task = scheduler.task(work, resources=resources)
    await session.send(task)
    await scheduler.until(lambda: task.attempt in scheduler.started)
    await session.say(work=worker_pb2.Work(cancel=[task.attempt]))
    report = await scheduler.report(task.attempt)
    assert report.cancelled.killed
    assert told(scheduler) == ["+model", "+tmp", "-model killed", "-tmp killed"]
    assert journal.read_text().split() == ["+model", "+tmp"]


async def test_resources_outlive_a_lost_session(
    scheduler: Scheduler,  # noqa: F811
    start: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    await start("--slots", "1")
    session = await scheduler.worker()
    journal = tmp_path / "journal"
    resources = [noted("db", journal, "run")]
    func = lambda x=inject("db"): x  # noqa: E731
    await session.submit(scheduler.task(func, resources=resources))
    await session.say(goodbye=worker_pb2.Goodbye(reason="restarting", reconnect=True))
    session = await scheduler.worker(2)
    await session.submit(scheduler.task(func, resources=resources))
    await asyncio.sleep(0)
    assert journal.read_text().split() == ["+db"]
    await session.say(work=worker_pb2.Work(close_runs=[1]))
    await scheduler.until(lambda: scheduler.closed_runs)
    assert journal.read_text().split() == ["+db", "-db"]
