"""Waiting for threads: whoever waits for one has waited when it goes on, however often it is cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cascade_worker.threads import in_thread


async def test_what_the_thread_raises_comes_out() -> None:
    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await in_thread(asyncio.get_running_loop().run_in_executor(None, fail))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_wait_that_is_cancelled_more_than_once_lasts_until_the_thread_is_done(fails: bool) -> None:
    go, done, stopped = threading.Event(), threading.Event(), list[int]()

    def work() -> None:
        go.wait(20)
        done.set()
        if fails:
            raise OSError("nobody asks for this any more")

    job = asyncio.get_running_loop().run_in_executor(None, work)
    waiting = asyncio.create_task(in_thread(job, lambda: stopped.append(1)))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done.is_set()
    assert stopped == [1]
