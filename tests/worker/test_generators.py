"""The loop that async generators of a sync executor run on, and stops that come while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cascade_dist.errors import TaskCancelled
from cascade_worker.executor.generators import Host, LoopOnDemand, complete


def test_a_stop_ends_the_run_of_the_loop_and_loses_nothing_that_waits_on_it() -> None:
    loops = LoopOnDemand()
    loop = loops.loop()

    async def slow() -> int:
        for _ in range(10):
            await asyncio.sleep(0)
        return 5

    task = loop.create_task(slow())
    told = []
    loop.call_soon(lambda: told.append(loops.defer(TaskCancelled("stop"))))
    with pytest.raises(TaskCancelled, match="stop"):
        complete(loops.until(task))
    assert told == [True]
    assert not task.done()
    assert complete(loops.until(task)) == 5  # and the stop, which has been raised, stops nothing more
    loops.close()


def test_a_stop_that_comes_as_the_loop_ends_is_raised_all_the_same() -> None:
    loops = LoopOnDemand()
    future = loops.loop().create_future()

    def last() -> None:
        future.set_result(1)
        loops.defer(TaskCancelled("late"))

    loops.loop().call_soon(last)
    with pytest.raises(TaskCancelled, match="late"):
        complete(loops.until(future))
    assert complete(loops.until(future)) == 1
    assert complete(loops.until(loops.loop().create_task(asyncio.sleep(0.001, 2)))) == 2
    loops.close()


def test_nothing_is_deferred_while_the_loop_stands_still() -> None:
    loops = LoopOnDemand()
    assert not loops.defer(TaskCancelled("now"))
    with pytest.raises(TaskCancelled, match="while"), loops.held():
        assert loops.defer(TaskCancelled("while"))
    assert not loops.defer(TaskCancelled("now"))
    loops.close()


def test_a_host_whose_setup_was_stopped_is_still_there_to_be_torn_down() -> None:
    loops = LoopOnDemand()
    done = []

    async def resource() -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 1
        done.append("torn down")

    host = Host("resource", resource(), loops.loop())
    loops.loop().call_soon(loops.defer, TaskCancelled("stop"))
    with pytest.raises(TaskCancelled):
        complete(loops.until(host.ready))
    assert complete(loops.until(host.ready)).value == 1
    host.end(None)
    assert complete(loops.until(host.task)) is None
    assert done == ["torn down"]
    loops.close()
