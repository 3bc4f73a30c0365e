"""WorkerService over real streams: sessions, marks, heartbeats, losses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import client_pb2, value_pb2, worker_pb2
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.core.state import Settings
from cascade_scheduler.hub import Times
from cascade_scheduler.store.base import Batch, StoredHead, StoredRun, StoredWorker, StoreUnavailable
from tests.scheduler.peers import (
    BODY,
    SECONDS,
    TIMES,
    Client,
    Graph,
    Worker,
    code_of,
    done,
    failed,
    one_task,
    pickled,
    scheduler,
)


async def test_welcome_says_what_holds() -> None:
    async with scheduler() as it, Worker(it.address) as worker:
        welcome = worker.welcome
        assert (welcome.epoch, welcome.inline_bytes_max, welcome.cancel_grace.seconds) == (7, 64 << 10, 5)
        assert welcome.heartbeat_period.nanos == 200_000_000
        assert welcome.heartbeat_timeout.seconds == 2
        assert welcome.session_id


async def test_marks_follow_reports_and_ride_on_heartbeats() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        await client.accepted()
        work = await worker.work()
        await worker.report(done(work.assignments[0].attempt, pickled(1)))
        await worker.acked_through(2)
        await worker.say(heartbeat=worker_pb2.WorkerHeartbeat())
        await worker.acked_through(3)


async def test_heartbeats_come_when_there_is_nothing_to_say() -> None:
    async with scheduler() as it, Worker(it.address) as worker:
        for _ in range(3):
            message = await worker.read()
            assert message.HasField("heartbeat")


async def test_a_silent_worker_is_lost_and_its_task_goes_elsewhere() -> None:
    patient = Times(heartbeat_period=0.1, heartbeat_timeout=60.0)
    async with scheduler(times=patient, core=Settings(worker_grace=0.1)) as it, Client(it.address) as client:
        silent = Worker(it.address, "silent")
        await silent.open()
        await client.submit("r", one_task())
        await client.accepted()
        await silent.work()
        it.hub.times = patient._replace(heartbeat_timeout=0.3)
        code, details = await code_of(silent.call)
        it.hub.times = patient
        assert code == grpc.StatusCode.ABORTED
        assert "nothing was heard of it" in details
        await silent.channel.close()
        async with Worker(it.address, "other") as other:
            work = await other.work()
            await other.report(done(work.assignments[0].attempt, pickled(1)))
            _, finish = await client.finish("r")
            assert finish.state == client_pb2.RUN_STATE_SUCCEEDED


async def test_a_worker_that_comes_back_in_time_keeps_its_attempt() -> None:
    async with scheduler() as it, Client(it.address) as client:
        worker = Worker(it.address)
        await worker.open()
        await client.submit("r", one_task())
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt
        worker.call.cancel()
        held = [
            worker_pb2.HeldAttempt(attempt=attempt, state=worker_pb2.HELD_STATE_FINISHED),
            worker_pb2.HeldAttempt(attempt=12345, state=worker_pb2.HELD_STATE_RUNNING),
        ]
        await worker.open(held=held, objects=[99])
        assert list(worker.welcome.keep) == [attempt]
        assert list(worker.welcome.drop) == [12345]
        assert list(worker.welcome.release) == [99]
        await worker.report(done(attempt, pickled(1)))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED
        await worker.channel.close()


async def test_a_second_session_takes_over() -> None:
    async with scheduler() as it, Client(it.address) as client:
        first, second = Worker(it.address), Worker(it.address)
        await first.open()
        await second.open()
        code, details = await code_of(first.call)
        assert code == grpc.StatusCode.ABORTED
        assert "took over" in details
        await client.submit("r", one_task())
        await client.accepted()
        work = await second.work()
        assert [function.body for function in work.functions] == [BODY]
        await second.report(done(work.assignments[0].attempt, pickled(1)))
        await client.finish("r")
        for worker in (first, second):
            await worker.channel.close()


async def test_numbers_without_gaps() -> None:
    async with scheduler() as it, Worker(it.address) as worker:
        worker.sequence += 1
        await worker.say(heartbeat=worker_pb2.WorkerHeartbeat())
        code, details = await code_of(worker.call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "message 3 came after message 1" in details


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (worker_pb2.Report(attempt=5), "attempt 5 has no outcome"),
        (worker_pb2.Report(attempt=5, done=worker_pb2.Done()), "value that is missing"),
        (done(5, b"\0no pickle"), "no pickle"),
    ],
)
async def test_reports_without_sense_end_the_session(report: worker_pb2.Report, told: str) -> None:
    async with scheduler() as it, Worker(it.address) as worker:
        await worker.report(report)
        code, details = await code_of(worker.call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert told in details


async def test_a_stream_without_hello_is_refused() -> None:
    async with scheduler() as it:
        worker = Worker(it.address)
        worker.call = worker.stub.Connect()
        await worker.say(heartbeat=worker_pb2.WorkerHeartbeat())
        assert (await code_of(worker.call))[0] == grpc.StatusCode.INVALID_ARGUMENT
        await worker.channel.close()


async def test_a_draining_worker_that_leaves_is_gone_at_once() -> None:
    async with scheduler(core=Settings(worker_grace=60.0)) as it, Client(it.address) as client:
        async with Worker(it.address) as worker:
            await worker.say(reports=worker_pb2.Reports(draining=True))
            await worker.acked_through(2)
            (info,) = (await client.stub.ListWorkers(client_pb2.ListWorkersRequest())).workers
            assert info.state == "draining"
            await worker.call.done_writing()
            await code_of(worker.call)
        assert not (await client.stub.ListWorkers(client_pb2.ListWorkersRequest())).workers


async def test_functions_can_be_fetched_again() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        await client.accepted()
        await worker.work()
        request = worker_pb2.FetchFunctionsRequest(cids=[cid_of(b"unknown"), cid_of(BODY)])
        found = await worker.stub.FetchFunctions(request)
        assert [(f.cid, f.body) for f in found.functions] == [(cid_of(BODY), BODY)]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await worker.stub.FetchFunctions(worker_pb2.FetchFunctionsRequest(cids=[cid_of(b"unknown")]))
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_value_that_is_not_there_cannot_be_fetched() -> None:
    async with scheduler() as it, Worker(it.address) as worker:
        request = worker_pb2.FetchValueRequest(value=value_pb2.DeferredValue(run_id="x", node=3))
        with pytest.raises(grpc.aio.AioRpcError, match="node 3") as raised:
            await worker.stub.FetchValue(request).read()
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_objects_are_named_with_their_holder_and_released() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        graph.node(graph.node())
        await client.submit("r", graph)
        await client.accepted()
        first = (await worker.work()).assignments[0].attempt
        held = value_pb2.ObjectRef(attempt=first, size_bytes=1 << 30, holders=["127.0.0.1:1"])
        await worker.report(done(first, value_pb2.Value(object=held)))
        (assignment,) = (await worker.work()).assignments
        held.maker = "w1"
        assert assignment.inputs[0].object == held
        assert assignment.publish
        await worker.report(done(assignment.attempt, pickled(1)))
        assert list((await worker.work()).release) == [first]
        await client.finish("r")


async def test_retries_are_tried_again() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(retry={"max_attempts": 3, "delay": {"nanos": 10_000_000}}))
        await client.accepted()
        for try_ in (1, 2):
            (assignment,) = (await worker.work()).assignments
            assert getattr(assignment, "try") == try_
            await worker.report(failed(assignment.attempt, retryable=True))
        (assignment,) = (await worker.work()).assignments
        await worker.report(done(assignment.attempt, pickled(1)))
        _, finish = await client.finish("r")
        assert (finish.state, finish.progress.retried) == (client_pb2.RUN_STATE_SUCCEEDED, 2)


# --- a store that takes its time -----------------------------------------------------------------


class SlowStore:
    """A store whose batches land when the test says so."""

    url = "slow://"
    immediate = False

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.gate = asyncio.Event()
        self.away = False

    async def open(self) -> int:
        """The first epoch."""
        return 1

    async def load(self) -> AsyncIterator[StoredRun]:
        """Nothing."""
        for run in list[StoredRun]():
            yield run

    async def heads(self) -> list[StoredHead]:
        """Nothing."""
        return []

    async def roster(self) -> list[StoredWorker]:
        """Nobody."""
        return []

    async def load_run(self, run_id: str) -> StoredRun | None:
        return None

    async def constraints(self) -> list[Constraint]:
        """Nothing."""
        return []

    def apply(self, batch: Batch) -> None:
        """Not immediate."""
        raise AssertionError

    async def commit(self, batch: Batch) -> None:
        """Waits for the test."""
        if self.away:
            raise StoreUnavailable("the test took it away")
        await self.gate.wait()
        self.batches.append(batch)

    async def close(self) -> None:
        """Nothing to let go of."""


async def test_nothing_is_told_or_acknowledged_before_it_is_stored() -> None:
    store = SlowStore()
    async with scheduler(store) as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        work = await worker.work()  # orders do not wait
        told = asyncio.create_task(client.read())
        await worker.report(done(work.assignments[0].attempt, pickled(1)))
        for _ in range(3):
            await worker.read()
        assert worker.acked < 2
        assert not told.done()
        info = await client.stub.GetRun(client_pb2.GetRunRequest(run_id="r"))
        assert info.run.state == client_pb2.RUN_STATE_RUNNING
        assert await client.stub.Watch(client_pb2.WatchRequest(run_id="r")).read() is grpc.aio.EOF
        store.gate.set()
        message = await asyncio.wait_for(told, SECONDS)
        if not message.update.HasField("finish"):
            await client.finish("r")
        await worker.acked_through(2)
        assert [batch.number for batch in store.batches] == list(range(1, len(store.batches) + 1))


async def test_a_store_that_is_away_holds_the_cluster_at_a_bound() -> None:
    store = SlowStore()
    store.gate.set()
    store.away = True
    options = {"backlog_bytes_max": 20_000, "times": TIMES}
    async with scheduler(store, **options) as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        for _ in range(100):
            graph.node()
        graph.gather(*range(100))
        await client.submit("r", graph)
        count = 0

        def value(_: worker_pb2.Assignment) -> bytes:
            nonlocal count
            count += 1
            return pickled(b"x" * 1000)

        serving = asyncio.create_task(worker.serve(value))
        for _ in range(int(SECONDS * 100)):
            await asyncio.sleep(0.01)
            if not it.hub.writer.room.is_set():
                break
        await asyncio.sleep(0.1)
        assert 5 < count < 50
        store.away = False
        assert (await client.accepted()).run_id == "r"
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED
        assert count == 100
        serving.cancel()
