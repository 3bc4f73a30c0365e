"""The client for asyncio programs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client import events
from tests.client.fake import FakeScheduler
from tests.client.test_events import make

UNKNOWN = {"unknown": 1}


@cs.task
def add(a: int) -> int:
    return a + 1


@cs.task
def fail() -> None:
    raise ValueError("no luck")


async def test_the_same_names_to_be_awaited(scheduler: FakeScheduler) -> None:
    async with cs.aio.connect(scheduler.address) as cluster:
        assert await cluster.run(add(1)) == 2
        run = await cluster.submit(add(2), name="n", run_id="r1")
        assert await run == 3
        assert await run == 3
        assert await run.result(timeout=5) == 3
        assert (run.id, run.name, run.status, run.done(), run.cancelled()) == (
            "r1",
            "n",
            "succeeded",
            True,
            False,
        )
        assert await asyncio.gather(*[cluster.run(add(i)) for i in range(20)]) == list(range(1, 21))
        with pytest.raises(ValueError, match="no luck"):
            await cluster.run(fail())
        assert (await cluster.status()).workers == 1
        assert len(await cluster.workers()) == 1
        assert "r1" in [info.run_id for info in await cluster.runs()]
        assert (await cluster.describe("r1")).run.run_id == "r1"
        assert await (await cluster.attach("r1")) == 3
        assert scheduler.address in repr(cluster)
        assert "r1" in repr(run)
        assert "r1" in run._repr_html_()
        assert run.graph().nodes
    assert cluster.closed
    assert await run == 3, "what has come can still be had"
    with pytest.raises(cs.ClusterClosedError):
        await cluster.run(add(1))


async def test_warnings_point_at_the_line_that_awaits(scheduler: FakeScheduler) -> None:
    async with cs.aio.connect(scheduler.address) as cluster:
        for run in (cluster.run(add(1), params=UNKNOWN), cs.aio.run(add(1), cluster=cluster, params=UNKNOWN)):
            with pytest.warns(UserWarning, match="no Param is named 'unknown'") as told:
                await run
            assert [warning.filename for warning in told] == [__file__]


async def test_connect_may_be_awaited_and_errors_are_the_same() -> None:
    with pytest.raises(cs.ConnectionFailedError):
        await cs.aio.connect("127.0.0.1:1")


async def test_events(scheduler: FakeScheduler) -> None:
    scheduler.events = [make("TaskSkipped", i) for i in range(1, 6)] + [make("RunFinished", 6)]
    async with cs.aio.connect(scheduler.address) as cluster:
        run = await cluster.submit(add(1))
        await run
        assert [event.event_id async for event in run.events()] == [1, 2, 3, 4, 5, 6]
        async for event in run.events(after=4):
            assert isinstance(event, events.TaskSkipped)
            break
        assert [event.event_id async for event in cluster.events(run.id, after=5)] == [6]


async def test_cancelling_who_awaits_cancels_the_run(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    async with cs.aio.connect(scheduler.address) as cluster:
        run = await cluster.submit(add(1), run_id="mine")
        with pytest.raises(TimeoutError, match=r"run 'mine' has not ended within 0\.05 s and goes on"):
            await run.result(timeout=0.05)
        assert not run.done()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await run
        assert (await asyncio.to_thread(scheduler.wait_heard, "cancel"))[0].run_id == "mine"
        with pytest.raises(asyncio.CancelledError):
            await run
        assert run.cancelled()


async def test_run_with_a_timeout(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    async with cs.aio.connect(scheduler.address) as cluster:
        with pytest.raises(TimeoutError, match=r"run 'mine' has not ended within 0\.05 s and is cancelled"):
            await cluster.run(add(1), run_id="mine", timeout=0.05)
        await asyncio.to_thread(scheduler.wait_heard, "cancel")


async def test_run_that_is_cancelled_cancels(
    scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.hold = True
    async with cs.aio.connect(scheduler.address) as cluster:
        task = asyncio.create_task(cluster.run(add(1), run_id="mine"))
        await asyncio.to_thread(scheduler.wait_heard, "submit")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(scheduler.wait_heard, "cancel")
    assert capsys.readouterr().err == "cascade: interrupted; cancelled run mine\n"


async def test_a_run_is_cancelled_though_its_submit_was_still_under_way(
    scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler.hold = True
    sent, go_on = threading.Event(), threading.Event()
    submit = cs.Cluster.submit

    def slowly(self: cs.Cluster, target: Any, **options: Any) -> Any:
        run = submit(self, target, **options)
        sent.set()
        assert go_on.wait(20)
        return run

    monkeypatch.setattr(cs.Cluster, "submit", slowly)
    async with cs.aio.connect(scheduler.address) as cluster:
        task = asyncio.create_task(cluster.run(add(1), run_id="mine"))
        assert await asyncio.to_thread(sent.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(scheduler.wait_heard, "cancel")


async def test_wait_for_prints_one_line(scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler.hold = True
    with pytest.raises(TimeoutError):
        async with cs.aio.connect(scheduler.address) as cluster:
            await asyncio.wait_for(cluster.run(add(1), run_id="mine"), 1.5)
    assert capsys.readouterr().err == "cascade: interrupted; cancelled run mine\n"
