"""Submits that are told by what they have in common with earlier ones, over real streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cascade_dist.v1 import client_pb2, graph_pb2, worker_pb2
from cascade_scheduler.core.books import Settings
from cascade_scheduler.store.memory import MemoryRuns, MemoryStore
from tests.scheduler.peers import SECONDS, Client, Graph, Worker, done, one_task, pickled, scheduler

Way = Callable[[str, int], client_pb2.Submit]


def whole(run_id: str, number: int) -> client_pb2.Submit:
    graph = one_task()
    graph.chunk.node_ids = number.to_bytes(16, "big")
    graph.chunk.node_args[0] = pickled(((number,), {}))
    options = client_pb2.RunOptions(name="again")
    return client_pb2.Submit(run_id=run_id, options=options, chunk=graph.chunk, end=graph.end())


def by_head(run_id: str, number: int) -> client_pb2.Submit:
    submit = whole(run_id, number)
    told = client_pb2.Submit(run_id=run_id, node_id=submit.chunk.node_ids, args=submit.chunk.node_args[0])
    submit.ClearField("run_id")
    submit.chunk.ClearField("node_ids")
    submit.chunk.ClearField("node_args")
    told.head = submit.SerializeToString()
    return told


async def assigned(worker: Worker) -> worker_pb2.Assignment:
    """The next assignment; that runs have ended may be said before it."""
    while True:
        work = await worker.work()
        if work.assignments:
            (assignment,) = work.assignments
            return assignment


@pytest.mark.parametrize("ways", [(whole, by_head), (by_head,), (by_head, whole)])
async def test_a_submit_is_the_same_however_it_is_told(
    ways: tuple[Callable[[str, int], client_pb2.Submit], ...],
) -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for number in range(1, 7):
            run_id = f"r{number}"
            await client.say(submit=ways[number % len(ways)](run_id, number))
            assignment = await assigned(worker)
            assert assignment.args == pickled(((number,), {}))
            assert assignment.node_id == number.to_bytes(16, "big").hex()
            await worker.report(done(assignment.attempt, pickled(number)))
            values, _ = await client.finish(run_id)
            assert [value.inline for value in values.values()] == [pickled(number)]
            (info,) = (await client.stub.ListRuns(client_pb2.ListRunsRequest(limit=1))).runs
            assert (info.run_id, info.name) == (run_id, "again")
            record = it.hub.runs.get(run_id)
            assert record is not None
            assert (record.facts.params_digest, record.facts.node_count) == (b"p", 1)
        assert it.hub.graph_bytes == 0


async def test_an_equal_submit_joins_and_another_is_in_conflict() -> None:
    async with scheduler() as it, Client(it.address) as client:
        for number in (1, 2):
            await client.say(submit=by_head(f"r{number}", 1))
            assert not (await client.accepted()).joined
        await client.say(submit=by_head("r2", 1))
        assert (await client.accepted()).joined
        await client.say(submit=by_head("r2", 2))
        assert (await client.refused()).code == client_pb2.REFUSAL_CODE_CONFLICT


HEAD = by_head("", 1).head


@pytest.mark.parametrize(
    ("head", "node_id", "why"),
    [
        (b"\xff\xff", bytes(16), "cannot be read"),
        (HEAD, b"short", "is not well formed"),
        (whole("", 1).SerializeToString(), bytes(16), "is not well formed"),
        (by_head("", 1).SerializeToString(), bytes(16), "is not whole"),
    ],
)
async def test_what_is_no_call_is_refused(head: bytes, node_id: bytes, why: str) -> None:
    told = client_pb2.Submit(run_id="r", head=head, node_id=node_id)
    async with scheduler() as it, Client(it.address) as client:
        for _ in range(2):  # what was refused is not learned
            await client.say(submit=told)
            refused = await client.refused()
            assert (refused.run_id, refused.code) == ("r", client_pb2.REFUSAL_CODE_INVALID)
            assert why in refused.message
        await client.say(submit=by_head("r", 1))
        assert (await client.accepted()).run_id == "r"


class Waited(MemoryStore):
    """What lands is waited for, as with Redis."""

    @property
    def immediate(self) -> bool:
        """What is put lands later."""
        return False


async def test_a_known_shape_that_is_refused_is_not_stored() -> None:
    store = Waited(MemoryRuns())
    core = Settings(closed=True, worker_grace=0.0)
    async with scheduler(store, core=core) as it, Client(it.address) as client:
        graph, worker = Graph(), Worker(it.address, "large")
        await worker.open(cpu=2)
        async with Worker(it.address, "small"):
            graph.node(args=pickled(1), amounts=[graph_pb2.Amount(name="cpu", micros=2_000_000)])
            await client.submit("a", graph)
            await worker.report(done((await worker.work()).assignments[0].attempt, pickled(1)))
            await client.finish("a")
            await worker.channel.close()
            async with asyncio.timeout(SECONDS):
                while len(it.hub.core.workers) > 1:  # noqa: ASYNC110 - nobody is told of it
                    await asyncio.sleep(0.01)
            it.hub.functions._bytes_max = 0  # what nobody needs any more goes at once
            await client.submit("b", graph)
            assert (await client.refused()).code == client_pb2.REFUSAL_CODE_INFEASIBLE
        assert await store.load_run("b") is None
