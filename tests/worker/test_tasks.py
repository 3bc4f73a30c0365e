"""A real worker under a real stream: what happens to tasks."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.exceptions import ErrorRecord, decode_exception
from cascade_dist.codec.values import dump_inline_or_packed, dump_items, load
from cascade_dist.context import current_attempt
from cascade_dist.errors import TaskTimeoutError
from cascade_dist.v1 import graph_pb2, value_pb2, worker_pb2, worker_pb2_grpc
from cascade_dist.wire import open_channel
from tests.worker.processes import WorkerProcess
from tests.worker.scheduler import Scheduler, WorkerSession, value_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

SPLIT, TRUTH = worker_pb2.OBSERVE_SPLIT, worker_pb2.OBSERVE_TRUTH


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
    """A worker with two slots that all tests here share."""
    process = await WorkerProcess.start(
        scheduler.address,
        tmp_path_factory.mktemp("worker"),
        *("--slots", "2", "--name", "first", "--resources", "gpu=1,memory_gb=0.5"),
        CASCADE_TOKEN="secret",
    )
    yield await scheduler.worker()
    await process.stop()
    assert process.output.splitlines() == [f"cascade-worker first connected to {scheduler.address} slots=2"]
    assert "Traceback" not in process.errors, process.errors


def error_of(report: worker_pb2.Report) -> BaseException:
    """What a failed report says was raised."""
    error = report.failed.error
    return decode_exception(ErrorRecord(error.type, error.message, error.traceback, error.pickled))


async def test_hello_says_what_the_worker_is(worker: WorkerSession) -> None:
    hello = worker.hello
    assert hello.name == "first"
    assert {a.name: a.micros for a in hello.amounts} == {
        "cpu": 2_000_000,
        "gpu": 1_000_000,
        "memory_gb": 500_000,
    }
    assert hello.async_credits == 1000
    assert hello.ahead_credits >= 64
    assert hello.pid in (int(name) for name in os.listdir("/proc") if name.isdigit())
    assert hello.object_address.startswith("127.0.0.1:")
    assert hello.versions.python == ".".join(map(str, sys.version_info[:3]))


async def test_a_task_runs(scheduler: Scheduler, worker: WorkerSession) -> None:
    (report,) = await worker.submit(scheduler.task(lambda a, b: a + b, 1, 2))
    assert value_of(report) == 3
    assert report.done.preview == "3"
    assert report.duration_ns > 0


async def test_many_tiny_tasks_ahead(scheduler: Scheduler, worker: WorkerSession) -> None:
    double = lambda n: n * 2  # noqa: E731
    tasks = [scheduler.task(double, number, ahead=True) for number in range(500)]
    reports = await worker.submit(*tasks)
    assert [value_of(report) for report in reports] == [number * 2 for number in range(500)]
    assert all(len(scheduler.reports[task.attempt]) == 1 for task in tasks)


async def test_a_slow_task_among_tiny_ones_holds_up_nobody(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    def work(number: int) -> int:
        import time

        time.sleep(1.5 if number == 150 else 0)
        return number

    begun = time.monotonic()
    tasks = [scheduler.task(work, number, ahead=True) for number in range(300)]
    await worker.send(*tasks)
    for task in tasks[:150] + tasks[151:]:
        await scheduler.report(task.attempt)
    assert time.monotonic() - begun < 1.4
    assert value_of(await scheduler.report(tasks[150].attempt)) == 150
    assert tasks[150].attempt in scheduler.started


async def test_async_tasks_run_side_by_side(scheduler: Scheduler, worker: WorkerSession) -> None:
    async def work(number: int) -> int:
        import asyncio

        await asyncio.sleep(0.2)
        return number

    begun = time.monotonic()
    reports = await worker.submit(*(scheduler.task(work, n, asynchronous=True) for n in range(100)))
    assert [value_of(report) for report in reports] == list(range(100))
    assert time.monotonic() - begun < 5


async def test_a_failure(scheduler: Scheduler, worker: WorkerSession) -> None:
    def fail() -> None:
        raise KeyError("gone")

    retry = graph_pb2.RetryPolicy(max_attempts=3, on=pickle.dumps((LookupError,)))
    (report,) = await worker.submit(scheduler.task(fail, retry=retry))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_RAISED
    assert report.failed.retryable
    assert isinstance(error_of(report), KeyError)
    assert "in fail" in report.failed.error.traceback


async def test_a_timeout(scheduler: Scheduler, worker: WorkerSession) -> None:
    (report,) = await worker.submit(scheduler.task(lambda: time.sleep(60), timeout=1.5, name="slow"))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_TIMEOUT
    error = error_of(report)
    assert isinstance(error, TaskTimeoutError)
    assert str(error) == "task 'slow' took longer than its timeout of 1.5 s"
    assert "time.sleep" in report.failed.error.traceback, "it says where it was"


async def test_a_timeout_that_user_code_does_not_heed(scheduler: Scheduler, worker: WorkerSession) -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    (report,) = await worker.submit(scheduler.task(stubborn, timeout=1.5, name="stubborn"))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_TIMEOUT
    assert str(error_of(report)).endswith("had to be killed")


async def test_cancel(scheduler: Scheduler, worker: WorkerSession) -> None:
    def work() -> None:
        try:
            print("up", flush=True)
            time.sleep(60)
        finally:
            print("cleaned up")

    task = scheduler.task(work)
    await worker.send(task)
    await scheduler.until(lambda: (task.attempt, 1, "up") in scheduler.logs)
    assert task.attempt in scheduler.started
    await worker.send(cancel=[task.attempt])
    report = await scheduler.report(task.attempt)
    assert report.WhichOneof("outcome") == "cancelled"
    assert not report.cancelled.killed
    assert (task.attempt, 1, "cleaned up") in scheduler.logs


async def test_cancel_of_a_blocked_coroutine_spares_its_neighbours_reputation(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    async def block() -> None:
        print("up")
        time.sleep(60)  # noqa: ASYNC251 - that is the point

    async def patient() -> None:
        import asyncio

        print("up")
        await asyncio.sleep(60)

    neighbour = scheduler.task(patient, asynchronous=True)
    await worker.send(neighbour)
    await scheduler.until(lambda: (neighbour.attempt, 1, "up") in scheduler.logs)
    task = scheduler.task(block, asynchronous=True, name="block")
    await worker.send(task)
    await scheduler.until(lambda: (task.attempt, 1, "up") in scheduler.logs)
    await worker.send(cancel=[task.attempt])
    report = await scheduler.report(task.attempt)
    assert report.cancelled.killed
    lost = await scheduler.report(neighbour.attempt)
    assert lost.lost.innocent
    assert "'block'" in lost.lost.reason


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda: __import__("ctypes").string_at(0), "killed by signal 11 (SIGSEGV)"),
        (lambda: os._exit(3), "exited with code 3"),
        (lambda: os.kill(os.getpid(), 9), "out of memory"),
    ],
)
async def test_an_executor_that_dies(
    scheduler: Scheduler, worker: WorkerSession, func: Any, reason: str
) -> None:
    (report,) = await worker.submit(scheduler.task(func))
    assert reason in report.lost.reason
    assert not report.lost.innocent
    (report,) = await worker.submit(scheduler.task(lambda: 1))
    assert value_of(report) == 1


async def test_a_lazy_value_from_a_task_is_refused_by_name(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    def make() -> Any:
        import cascade_dist as cs

        return cs.task(len)([1])

    (report,) = await worker.submit(scheduler.task(make, name="make"))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_UNLOADABLE
    assert "task 'make' returned a lazy value" in report.failed.error.message


async def test_a_fork_server_that_dies_is_replaced(scheduler: Scheduler, worker: WorkerSession) -> None:
    def hold() -> None:
        print("I run", flush=True)
        time.sleep(60)

    (server,) = children_of(worker.hello.pid)
    task = scheduler.task(hold)
    await worker.send(task)
    # A start is told when the executor is given the task; what it has not taken by then is not lost with it.
    await scheduler.until(lambda: (task.attempt, 1, "I run") in scheduler.logs)
    os.kill(server, signal.SIGKILL)
    assert "fork server" in (await scheduler.report(task.attempt)).lost.reason
    (report,) = await worker.submit(scheduler.task(lambda: 1))
    assert value_of(report) == 1


async def test_what_executors_had_not_taken_when_they_died_runs_in_the_next(
    scheduler: Scheduler, worker: WorkerSession, tmp_path: Path
) -> None:
    def meet(mine: str, other: str) -> None:
        Path(mine).touch()
        while not Path(other).exists():
            time.sleep(0.01)

    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    await worker.submit(scheduler.task(meet, a, b), scheduler.task(meet, b, a))  # both executors are up
    (server,) = children_of(worker.hello.pid)
    for executor in children_of(server):
        os.kill(executor, signal.SIGSTOP)
    task = scheduler.task(lambda: 2)
    await worker.send(task)
    await scheduler.until(lambda: task.attempt in scheduler.started)
    os.kill(server, signal.SIGKILL)
    assert value_of(await scheduler.report(task.attempt)) == 2


def children_of(pid: int) -> list[int]:
    """The processes that one has started itself."""
    path = Path(f"/proc/{pid}/task")
    return [int(word) for task in path.iterdir() for word in (task / "children").read_text().split()]


async def test_retract_gives_back_what_has_not_started(scheduler: Scheduler, worker: WorkerSession) -> None:
    running = [scheduler.task(time.sleep, 0.3, name="s") for _ in range(2)]
    ahead = [scheduler.task(time.sleep, 0.3, name="s", ahead=True) for _ in range(3)]
    await worker.send(*running, *ahead)
    await scheduler.until(lambda: running[1].attempt in scheduler.started)
    await worker.send(retract=[running[0].attempt, ahead[1].attempt])
    assert (await scheduler.report(ahead[1].attempt)).WhichOneof("outcome") == "returned"
    for task in (*running, ahead[0], ahead[2]):
        assert (await scheduler.report(task.attempt)).WhichOneof("outcome") == "done"


async def test_lines_come_before_the_report(scheduler: Scheduler, worker: WorkerSession) -> None:
    def talk(number: int) -> None:
        print(f"line {number}")
        os.write(2, b"raw\n")
        print("end", end="", file=sys.stderr)

    task = scheduler.task(talk, 7)
    await worker.submit(task)
    mine = [(stream, text) for attempt, stream, text in scheduler.logs if attempt == task.attempt]
    assert sorted(mine) == [(1, "line 7"), (2, "end"), (2, "raw")]
    assert [kind for kind, of in scheduler.order if of == task.attempt] == ["log"] * 3 + ["report"]


async def test_the_attempt_is_known(scheduler: Scheduler, worker: WorkerSession) -> None:
    task = scheduler.task(lambda: current_attempt(), name="look", run_id="run-9", map_index_plus_one=5)
    (report,) = await worker.submit(task)
    info = value_of(report)
    assert (info.run_id, info.node_id, info.attempt) == ("run-9", task.node_id, 1)
    assert (info.task, info.worker) == ("look[4]", worker.hello.worker_id)


async def test_observations(scheduler: Scheduler, worker: WorkerSession) -> None:
    (report,) = await worker.submit(scheduler.task(lambda: ["a", ""], observe=TRUTH | SPLIT))
    assert report.done.truth
    assert report.done.length == 2
    assert [pickle.loads(item) for item in report.done.items] == ["a", ""]
    (report,) = await worker.submit(scheduler.task(lambda: 5, observe=SPLIT))
    assert report.done.observe_error.type == "TypeError"
    assert not report.done.HasField("length")


# --- large values -----------------------------------------------------------------------------------


async def fetch(worker: WorkerSession, attempt: int) -> bytes:
    """An object, as a peer would fetch it."""
    async with open_channel(worker.hello.object_address) as channel:
        call = worker_pb2_grpc.ObjectServiceStub(channel).FetchObject(
            worker_pb2.FetchObjectRequest(attempt=attempt), metadata=worker.scheduler.auth.metadata
        )
        pieces = [piece async for piece in call]
    assert max(len(piece.data) for piece in pieces) <= 1 << 20
    assert pieces[0].size_bytes == sum(len(piece.data) for piece in pieces)
    return b"".join(piece.data for piece in pieces)


async def test_a_large_result_stays_and_is_served(scheduler: Scheduler, worker: WorkerSession) -> None:
    (report,) = await worker.submit(scheduler.task(lambda: np.arange(500_000)))
    reference = report.done.value.object
    assert reference.attempt == report.attempt
    assert list(reference.holders) == [worker.hello.object_address]
    stored = await fetch(worker, report.attempt)
    assert len(stored) == reference.size_bytes
    assert load(stored).sum() == np.arange(500_000).sum()
    value = value_pb2.Value(object=reference)
    payload = refer_to_first_input()
    (used,) = await worker.submit(scheduler.task(lambda a: int(a[-1]), inputs=[value], payload=payload))
    assert value_of(used) == 499_999
    await worker.send(release=[report.attempt])
    await worker.submit(scheduler.task(lambda: 1))  # what came before it was done before it
    with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
        await fetch(worker, report.attempt)


async def test_a_peer_without_the_token_gets_nothing(worker: WorkerSession) -> None:
    async with open_channel(worker.hello.object_address) as channel:
        call = worker_pb2_grpc.ObjectServiceStub(channel).FetchObject(
            worker_pb2.FetchObjectRequest(attempt=1)
        )
        with pytest.raises(Exception, match="UNAUTHENTICATED"):
            await call.read()


async def test_a_published_result_is_a_blob_before_it_is_reported(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    (report,) = await worker.submit(scheduler.task(lambda: b"x" * 3_000_000, publish=True))
    blob = report.done.value.blob
    assert len(scheduler.blobs[blob.cid]) == blob.size_bytes
    assert load(scheduler.blobs[blob.cid]) == b"x" * 3_000_000
    (report,) = await worker.submit(scheduler.task(lambda: b"x", publish=True))
    assert value_of(report) == b"x"


async def test_arguments_and_inputs_from_the_blob_store(scheduler: Scheduler, worker: WorkerSession) -> None:
    args = b"".join(pieces_of(((np.ones(200_000),), {})))
    scheduler.blobs[cid_of(args)] = args
    blob = value_pb2.BlobRef(cid=cid_of(args), size_bytes=len(args))
    total = lambda a: float(a.sum())  # noqa: E731
    tasks = [scheduler.task(total, args_blob=blob) for _ in range(3)]
    for report in await worker.submit(*tasks):
        assert value_of(report) == 200_000.0
    stored = b"".join(pieces_of(np.full(100_000, 2)))
    scheduler.blobs[cid_of(stored)] = stored
    value = value_pb2.Value(blob=value_pb2.BlobRef(cid=cid_of(stored), size_bytes=len(stored)))
    (report,) = await worker.submit(scheduler.task(total, inputs=[value], payload=refer_to_first_input()))
    assert value_of(report) == 200_000.0


async def test_a_blob_with_other_bytes_is_refused(scheduler: Scheduler, worker: WorkerSession) -> None:
    cid = cid_of(b"what was meant")
    scheduler.blobs[cid] = b"something else"
    (report,) = await worker.submit(
        scheduler.task(len, args_blob=value_pb2.BlobRef(cid=cid, size_bytes=14), name="f")
    )
    assert report.failed.kind == worker_pb2.FAILURE_KIND_UNLOADABLE
    assert "another content id" in report.failed.error.message


async def test_a_lost_object_is_named(scheduler: Scheduler, worker: WorkerSession) -> None:
    gone = [
        value_pb2.Value(
            object=value_pb2.ObjectRef(attempt=number, size_bytes=9, holders=[worker.hello.object_address])
        )
        for number in (991, 992)
    ]
    (report,) = await worker.submit(scheduler.task(len, inputs=gone, name="f"))
    assert report.failed.kind == worker_pb2.FAILURE_KIND_INPUT_LOST
    assert sorted(report.failed.lost_inputs) == [991, 992]


async def test_a_deferred_value_comes_as_a_stream(scheduler: Scheduler, worker: WorkerSession) -> None:
    def inline(value: object) -> value_pb2.Value:
        return value_pb2.Value(inline=pickle.dumps(value, 5))

    scheduler.deferred = [
        worker_pb2.FetchValueResponse(items=[inline(number) for number in range(part, part + 100)])
        for part in range(0, 1000, 100)
    ]
    value = value_pb2.Value(deferred=value_pb2.DeferredValue(run_id="run-1", node=3))
    (report,) = await worker.submit(scheduler.task(sum, inputs=[value], payload=refer_to_first_input()))
    assert value_of(report) == sum(range(1000))


async def test_a_function_that_the_worker_has_lost_is_asked_for(
    scheduler: Scheduler, worker: WorkerSession
) -> None:
    task = scheduler.task(lambda: "found")
    worker._functions.add(scheduler._specs[task.attempt][1])  # so that it is not sent
    (report,) = await worker.submit(task)
    assert value_of(report) == "found"


async def test_a_large_function_is_a_blob(scheduler: Scheduler, worker: WorkerSession) -> None:
    baggage = os.urandom(600_000)
    task = scheduler.task(lambda: len(baggage))
    spec, cid, body, run_id = scheduler._specs[task.attempt]
    scheduler.blobs[cid] = body
    scheduler._specs[task.attempt] = (spec, cid, b"", run_id)
    (report,) = await worker.submit(task)
    assert value_of(report) == 600_000


async def test_items_and_containers_in_the_blob_store(scheduler: Scheduler, worker: WorkerSession) -> None:
    def store(data: bytes) -> value_pb2.BlobRef:
        scheduler.blobs[cid_of(data)] = data
        return value_pb2.BlobRef(cid=cid_of(data), size_bytes=len(data))

    split = dump_items(["a", "b"], 0)
    assert not isinstance(split, list)
    item = value_pb2.ItemValue(blob=store(split.to_bytes()), index=1)
    inner = value_pb2.Value(item=item)
    compound = value_pb2.CompoundValue(template_blob=store(refer_to_first_input()), inputs=[inner])
    value = value_pb2.Value(compound=compound)
    for _ in range(2):  # fetched, then found here
        (report,) = await worker.submit(
            scheduler.task(lambda a: a, inputs=[value], payload=refer_to_first_input())
        )
        assert value_of(report) == (("b",), {})
    scheduler.deferred = [
        worker_pb2.FetchValueResponse(compound=True, template_blob=compound.template_blob, items=[inner])
    ]
    value = value_pb2.Value(deferred=value_pb2.DeferredValue(run_id="run-1", node=3))
    (report,) = await worker.submit(
        scheduler.task(lambda a: a, inputs=[value], payload=refer_to_first_input())
    )
    assert value_of(report) == (("b",), {})


async def test_no_message_carries_much(scheduler: Scheduler, worker: WorkerSession) -> None:
    tasks = [scheduler.task(lambda: b"x" * 60_000, name="big") for _ in range(60)]
    await worker.submit(*tasks)
    assert scheduler.largest_message < 1 << 20


def pieces_of(value: object) -> list[bytes]:
    """A packed payload."""
    packed = dump_inline_or_packed(value, 0)
    assert not isinstance(packed, bytes)
    return [bytes(piece) for piece in packed.pieces()]


def refer_to_first_input() -> bytes:
    """Arguments: the first input, alone."""
    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return 0 if obj is Ellipsis else None

    file = io.BytesIO()
    Pickler(file, 5).dump(((...,), {}))
    return file.getvalue()
