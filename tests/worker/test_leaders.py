"""A worker that knows several schedulers: it goes to the one that leads, and to none whose epoch is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from cascade_dist.v1 import worker_pb2
from tests.worker.processes import WorkerProcess
from tests.worker.scheduler import Scheduler, value_of


def in_epoch(scheduler: Scheduler, epoch: int, *, grows: bool = True) -> Scheduler:
    """Lets a scheduler welcome workers with an epoch."""

    def welcome(hello: worker_pb2.Hello) -> worker_pb2.Welcome:
        made = scheduler.default_welcome(hello)
        made.epoch, made.epochs_grow = epoch, grows
        return made

    scheduler.welcome = welcome
    return scheduler


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Scheduler, Scheduler]]:
    """Two schedulers that listen."""
    made = Scheduler(), Scheduler()
    for scheduler in made:
        await scheduler.start()
    yield made
    for scheduler in made:
        await scheduler.stop()


@pytest_asyncio.fixture
async def start(pair: tuple[Scheduler, Scheduler], tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a worker that knows both."""
    started: list[WorkerProcess] = []

    async def begin() -> WorkerProcess:
        address = ",".join(scheduler.address for scheduler in pair)
        started.append(await WorkerProcess.start(address, tmp_path / "worker"))
        return started[-1]

    yield begin
    for process in started:
        await process.stop()


async def test_a_leader_whose_epoch_is_over_is_refused(
    pair: tuple[Scheduler, Scheduler], start: Callable[..., Any]
) -> None:
    new, old = in_epoch(pair[0], 9), in_epoch(pair[1], 7)
    await start()
    first = await new.worker()
    assert await first.submit(new.task(abs, -1))
    await new.stop()
    for number in (1, 2):  # it comes again and again, and leaves at once
        session = await old.worker(number)
        await old.until(session.ended.is_set)
        assert not session.messages
    await new.start(new.address)
    again = await new.worker(2)
    [report] = await again.submit(new.task(abs, -3))
    assert value_of(report) == 3


async def test_where_epochs_do_not_grow_the_next_scheduler_is_taken(
    pair: tuple[Scheduler, Scheduler], start: Callable[..., Any]
) -> None:
    first, second = in_epoch(pair[0], 9, grows=False), in_epoch(pair[1], 7, grows=False)
    await start()
    await first.worker()
    await first.stop()
    session = await second.worker()
    [report] = await session.submit(second.task(abs, -3))
    assert value_of(report) == 3
