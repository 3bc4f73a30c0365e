"""Targets that tasks return, over real streams: whole, and as a call like an earlier one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cascade_dist.v1 import client_pb2, worker_pb2
from tests.scheduler.peers import Client, Graph, Worker, done, one_task, pickled, scheduler


def whole(number: int) -> worker_pb2.Tail:
    graph = _graph(number)
    return worker_pb2.Tail(graph=client_pb2.Submit(chunk=graph.chunk, end=graph.end()))


def by_head(number: int) -> worker_pb2.Tail:
    graph = _graph(number)
    submit = client_pb2.Submit(chunk=graph.chunk, end=graph.end())
    node_id, args = submit.chunk.node_ids, submit.chunk.node_args[0]
    submit.chunk.ClearField("node_ids")
    submit.chunk.ClearField("node_args")
    return worker_pb2.Tail(head=submit.SerializeToString(), node_id=node_id, args=args)


def _graph(number: int) -> Graph:
    graph = one_task()
    graph.chunk.functions[0].body = b""
    graph.chunk.node_ids = number.to_bytes(16, "big")
    graph.chunk.node_args[0] = pickled(((number,), {}))
    return graph


def tail(attempt: int, told: worker_pb2.Tail) -> worker_pb2.Report:
    return worker_pb2.Report(attempt=attempt, done=worker_pb2.Done(tail=told), duration_ns=1_000_000)


async def assigned(worker: Worker) -> worker_pb2.Assignment:
    """The next assignment; that runs have ended may be said before it."""
    while True:
        work = await worker.work()
        if work.assignments:
            (assignment,) = work.assignments
            return assignment


@pytest.mark.parametrize("ways", [(whole,), (by_head,), (whole, by_head), (by_head, whole)])
async def test_a_run_goes_on_as_what_is_returned(ways: tuple[Callable[[int], worker_pb2.Tail], ...]) -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for run_id in ("r1", "r2"):
            await client.submit(run_id, one_task())
            for number in range(1, 7):
                assignment = await assigned(worker)
                if number > 1:
                    assert assignment.args == pickled(((number - 1,), {}))
                    assert assignment.node_id == (number - 1).to_bytes(16, "big").hex()
                await worker.report(tail(assignment.attempt, ways[number % len(ways)](number)))
            assignment = await assigned(worker)
            await worker.report(done(assignment.attempt, pickled("end")))
            values, _ = await client.finish(run_id)
            assert [value.inline for value in values.values()] == [pickled("end")]
            assert it.hub.graph_bytes == 0, "no frame is left over"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (worker_pb2.Tail(head=by_head(1).head, node_id=b"short", args=b""), "it names no node"),
        (worker_pb2.Tail(head=b"\xff\xff", node_id=bytes(16), args=b""), "cannot be read"),
        (worker_pb2.Tail(head=b"", node_id=bytes(16), args=b""), "it has no graph"),
        (
            worker_pb2.Tail(head=whole(1).graph.SerializeToString(), node_id=bytes(16), args=b""),
            "differ in length",
        ),
    ],
)
async def test_what_is_no_call_fails_the_task_and_nothing_else(told: worker_pb2.Tail, why: str) -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        assignment = await assigned(worker)
        await worker.report(tail(assignment.attempt, told))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_FAILED
        assert why in finish.error.message
        assert it.hub.graph_bytes == 0


async def test_a_late_report_leaves_nothing_behind() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        assignment = await assigned(worker)
        await worker.report(done(assignment.attempt, pickled(1)))
        await client.finish("r")
        await worker.report(tail(assignment.attempt, by_head(1)))
        await worker.acked_through(3)
        assert it.hub.graph_bytes == 0
