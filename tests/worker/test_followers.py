"""A real worker under a real stream: tasks that go on with the values of others there."""

from __future__ import annotations

import pickle
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from cascade_dist.v1 import graph_pb2, value_pb2, worker_pb2
from tests.worker.processes import WorkerProcess
from tests.worker.scheduler import Scheduler, WorkerSession, value_of
from tests.worker.test_tasks import refer_to_first_input

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scheduler() -> AsyncIterator[Scheduler]:
    """A scheduler that all tests here share."""
    made = Scheduler(token="secret")
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker(
    scheduler: Scheduler, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerSession]:
    """A worker with one slot that all tests here share."""
    process = await WorkerProcess.start(
        scheduler.address, tmp_path_factory.mktemp("worker"), "--slots", "1", CASCADE_TOKEN="secret"
    )
    yield await scheduler.worker()
    await process.stop()
    assert "Traceback" not in process.errors, process.errors


def follower(
    scheduler: Scheduler, func: Callable[..., Any], behind: worker_pb2.Assignment, **fields: Any
) -> worker_pb2.Assignment:
    """A task that is given what another one returns."""
    return scheduler.task(
        func,
        inputs=[value_pb2.Value()],
        payload=refer_to_first_input(),
        ahead=True,
        behind=behind.attempt,
        **fields,
    )


def chain(scheduler: Scheduler, length: int) -> list[worker_pb2.Assignment]:
    """Tasks that count."""
    tasks = [scheduler.task(lambda: 0)]
    more = lambda n: n + 1  # noqa: E731
    for _ in range(length - 1):
        tasks.append(follower(scheduler, more, tasks[-1]))
    return tasks


async def test_a_chain_goes_on_by_itself(scheduler: Scheduler, worker: WorkerSession) -> None:
    reports = await worker.submit(*chain(scheduler, 50))
    assert [value_of(report) for report in reports] == list(range(50))


async def test_large_values_are_files(scheduler: Scheduler, worker: WorkerSession) -> None:
    first = scheduler.task(lambda: b"x" * 3_000_000)
    second = follower(scheduler, lambda data: data + b"y", first)
    third = follower(scheduler, len, second, name="len")
    reports = await worker.submit(first, second, third)
    assert [report.done.value.WhichOneof("form") for report in reports] == ["object", "object", "inline"]
    assert value_of(reports[2]) == 3_000_001


async def test_a_published_value_is_followed_when_it_is_stored(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    first = scheduler.task(lambda: b"x" * 3_000_000, publish=True)
    reports = await worker.submit(first, follower(scheduler, len, first, name="len"))
    assert reports[0].done.value.blob.cid in scheduler.blobs
    assert value_of(reports[1]) == 3_000_000


async def test_other_inputs_go_along(scheduler: Scheduler, worker: WorkerSession) -> None:
    first = scheduler.task(lambda: 4)
    second = follower(scheduler, lambda n: n, first)
    second.inputs.insert(0, value_pb2.Value(inline=pickle.dumps(7)))
    reports = await worker.submit(first, second)
    assert value_of(reports[1]) == 7, "the open input is the second one"


async def test_a_follower_of_what_has_ended(scheduler: Scheduler, worker: WorkerSession) -> None:
    worker.acks = False
    first = scheduler.task(lambda: 4)
    await worker.submit(first)
    (report,) = await worker.submit(follower(scheduler, lambda n: n + 1, first))
    worker.acks = True
    assert value_of(report) == 5


async def test_a_function_that_is_not_there_is_asked_for(scheduler: Scheduler, worker: WorkerSession) -> None:
    first = scheduler.task(lambda: 4)
    second = follower(scheduler, lambda n: ("found", n), first)
    worker._functions.add(scheduler._specs[second.attempt][1])  # so that it is not sent
    reports = await worker.submit(first, second)
    assert value_of(reports[1]) == ("found", 4)


async def test_what_follows_a_failure_is_never_heard_of(scheduler: Scheduler, worker: WorkerSession) -> None:
    def fail() -> None:
        raise ValueError("no")

    first = scheduler.task(fail)
    second = follower(scheduler, lambda n: n, first)
    await worker.send(first, second)
    report = await scheduler.report(first.attempt)
    await worker.submit(scheduler.task(lambda: 1))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_RAISED
    assert second.attempt not in scheduler.reports


async def test_followers_are_given_back(scheduler: Scheduler, worker: WorkerSession) -> None:
    def nap() -> int:
        time.sleep(0.3)
        return 1

    first = scheduler.task(nap)
    second = follower(scheduler, lambda n: n, first)
    third = follower(scheduler, lambda n: n, second)
    await worker.send(first, second, third)
    await worker.send(retract=[second.attempt, third.attempt])
    assert (await scheduler.report(second.attempt)).WhichOneof("outcome") == "returned"
    assert value_of(await scheduler.report(first.attempt)) == 1
    assert third.attempt not in scheduler.reports


async def test_retried_with_a_policy_of_its_own(scheduler: Scheduler, worker: WorkerSession) -> None:
    first = scheduler.task(lambda: 4)
    second = follower(scheduler, lambda n: 1 // (n - 4), first, retry=graph_pb2.RetryPolicy(max_attempts=2))
    reports = await worker.submit(first, second)
    assert reports[1].failed.retryable
