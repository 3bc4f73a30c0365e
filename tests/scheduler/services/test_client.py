"""ClientService over real streams: submits, joins, cancels, updates."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from cascade_dist import wire
from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import client_pb2, graph_pb2, value_pb2, worker_pb2
from cascade_scheduler.hub import Bounds
from tests.scheduler.peers import (
    BODY,
    SECONDS,
    Client,
    Graph,
    Worker,
    code_of,
    done,
    failed,
    one_task,
    pickled,
    put_blob,
    scheduler,
)

CONFLICT = client_pb2.REFUSAL_CODE_CONFLICT
INVALID = client_pb2.REFUSAL_CODE_INVALID
TOO_LARGE = client_pb2.REFUSAL_CODE_TOO_LARGE
NOT_FOUND = client_pb2.REFUSAL_CODE_NOT_FOUND


async def test_a_task_runs() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        assert client.welcome.inline_bytes_max == 64 << 10
        assert client.welcome.graph_nodes_max == 2_000_000
        await client.submit("r", one_task())
        accepted = await client.accepted()
        assert (accepted.run_id, accepted.joined, accepted.node_count) == ("r", False, 1)
        work = await worker.work()
        (assignment,) = work.assignments
        assert assignment.args == pickled(((1,), {}))
        assert [function.body for function in work.functions] == [BODY]
        assert [(run.run_id, run.logs) for run in work.runs] == [("r", False)]
        await worker.report(done(assignment.attempt, pickled(42)))
        values, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED
        assert finish.tree.node == 0
        assert values[0].inline == pickled(42)
        assert (finish.progress.done, finish.progress.total) == (1, 1)


async def test_functions_and_bodies_are_sent_once_a_session() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        seen = []
        for run in ("r1", "r2"):
            await client.submit(run, one_task())
            await client.accepted()
            work = await worker.work()
            seen.append((len(work.functions), len(work.bodies), len(work.runs)))
            await worker.report(done(work.assignments[0].attempt, pickled(1)))
            await client.finish(run)
        assert seen == [(1, 1, 1), (0, 0, 1)]


async def test_submits_of_two_runs_interleaved() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        first, second = Graph(), Graph()
        tail = Graph()
        for graph in (first, second):
            graph.node(args=pickled(1))
        await client.say(
            submit=client_pb2.Submit(run_id="a", options=client_pb2.RunOptions(), chunk=first.chunk)
        )
        await client.say(
            submit=client_pb2.Submit(run_id="b", options=client_pb2.RunOptions(), chunk=second.chunk)
        )
        tail.chunk.Clear()
        tail.chunk.node_spec.append(0)
        tail.chunk.node_args.append(b"")
        tail.chunk.node_ids = (1).to_bytes(16, "big")
        tail.chunk.node_edges.append(1)
        tail.chunk.edge_source.append(0)
        tail.chunk.edge_kind.append(graph_pb2.EDGE_KIND_DATA)
        end = graph_pb2.GraphEnd(target=1, node_count=2, edge_count=1, template_id=b"t", params_digest=b"p")
        for run in ("b", "a"):
            await client.say(submit=client_pb2.Submit(run_id=run, chunk=tail.chunk, end=end))
            assert (await client.accepted()).node_count == 2
        serving = asyncio.create_task(worker.serve(lambda a: pickled(len(a.inputs))))
        finished = [await next_finish(client) for _ in range(2)]
        assert sorted(finished) == ["a", "b"]
        serving.cancel()


async def next_finish(client: Client) -> str:
    """The id of the next run that finishes."""
    while True:
        message = await client.read()
        if message.update.HasField("finish"):
            return message.update.run_id


async def test_functions_that_are_lacking_are_asked_for() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address):
        graph = one_task()
        body = b"\x80\x05new body"
        graph.chunk.functions[0].cid = cid_of(body)
        graph.chunk.functions[0].body = b""
        await client.submit("r", graph)
        needed = (await client.read()).functions_needed
        assert (needed.run_id, list(needed.cids)) == ("r", [cid_of(body)])
        function = graph_pb2.Function(cid=cid_of(body), body=body, name="mod.f")
        await client.say(submit=client_pb2.Submit(run_id="r", functions=[function]))
        await client.accepted()


async def test_a_function_that_is_a_blob_is_known() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        body = b"\x80\x05" + b"x" * 600_000
        graph = one_task()
        graph.chunk.functions[0].cid = await put_blob(client, body)
        graph.chunk.functions[0].body = b""
        await client.submit("r", graph)
        await client.accepted()
        (function,) = (await worker.work()).functions
        assert (function.cid, function.body) == (cid_of(body), b"")


async def test_the_same_submit_again_joins() -> None:
    async with (
        scheduler() as it,
        Client(it.address) as client,
        Client(it.address) as other,
        Worker(it.address) as worker,
    ):
        await client.submit("r", one_task())
        await client.accepted()
        await other.submit("r", one_task(), logs=True, name="another name")
        assert (await other.accepted()).joined
        work = await worker.work()
        await worker.report(done(work.assignments[0].attempt, pickled(5)))
        for one in (client, other):
            values, finish = await one.finish("r")
            assert values[0].inline == pickled(5)
        await other.submit("r", one_task())  # and once more when it is over
        assert (await other.accepted()).joined
        values, finish = await other.finish("r")
        assert (values[0].inline, finish.state) == (pickled(5), client_pb2.RUN_STATE_SUCCEEDED)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"params": b"other"}, "the params differ"),
        ({"template": b"o" * 16}, "the target's code or shape differ"),
        ({"on_failure": client_pb2.ON_FAILURE_FINISH}, "on_failure ('cancel', now 'finish') differ"),
        ({"nodes": 2}, "the number of nodes (1, now 2)"),
        ({"id": b"x" * 16}, "the target's arguments differ"),
    ],
)
async def test_another_submit_with_the_same_id_is_refused(change: dict[str, Any], told: str) -> None:
    async with scheduler() as it, Client(it.address) as client:
        await client.submit("r", one_task())
        await client.accepted()
        graph = one_task()
        for _ in range(change.pop("nodes", 1) - 1):
            graph.node(0)
        graph.chunk.node_ids = change.pop("id", graph.chunk.node_ids)
        await client.submit("r", graph, **change)
        refused = await client.refused()
        assert (refused.run_id, refused.code) == ("r", CONFLICT)
        assert told in refused.message
        assert "choose another run id" in refused.message


async def test_a_graph_above_the_bound_is_refused_early() -> None:
    async with scheduler(bounds=Bounds(graph_nodes_max=10)) as it, Client(it.address) as client:
        graph = Graph()
        for _ in range(11):
            graph.node()
        await client.say(
            submit=client_pb2.Submit(run_id="r", options=client_pb2.RunOptions(), chunk=graph.chunk)
        )
        refused = await client.refused()
        assert refused.code == TOO_LARGE
        assert "10 nodes" in refused.message
        assert "graph_nodes_max" in refused.message
        await client.say(submit=client_pb2.Submit(run_id="r", end=graph.end()))  # the rest is thrown away
        await client.submit("s", one_task())
        assert (await client.accepted()).run_id == "s"
        assert it.hub.graph_bytes > 0


async def test_bytes_of_graphs_on_their_way_are_bounded() -> None:
    bounds = Bounds(graph_bytes_max=10_000, graphs_bytes_max=15_000)
    async with scheduler(bounds=bounds) as it, Client(it.address) as client:
        graph = Graph()
        graph.node(args=b"x" * 9_000)
        part = client_pb2.Submit(run_id="a", options=client_pb2.RunOptions(), chunk=graph.chunk)
        await client.say(submit=part)
        part.run_id = "b"
        await client.say(submit=part)
        refused = await client.refused()
        assert (refused.run_id, refused.code) == ("b", TOO_LARGE)
        graph.node(args=b"x" * 9_000)
        part = client_pb2.Submit(run_id="c", options=client_pb2.RunOptions(), chunk=graph.chunk)
        await client.say(submit=part)
        assert "graph_bytes_max" in (await client.refused()).message
        await client.say(submit=client_pb2.Submit(run_id="a", end=graph_end(1)))
        assert (await client.accepted()).run_id == "a"
        assert 9_000 < it.hub.graph_bytes < 20_000
        await client.say(cancel=client_pb2.Cancel(run_id="a"))
        await client.finish("a")
        assert it.hub.graph_bytes == 0


def graph_end(nodes: int) -> graph_pb2.GraphEnd:
    """The end of a graph without edges."""
    return graph_pb2.GraphEnd(target=nodes - 1, node_count=nodes, template_id=b"t", params_digest=b"p")


async def test_what_is_no_graph_is_refused_and_named() -> None:
    async with scheduler() as it, Client(it.address) as client:
        graph = one_task()
        graph.chunk.node_spec[0] = 9
        await client.submit("r", graph)
        refused = await client.refused()
        assert refused.code == INVALID
        assert "spec 9, which was not sent" in refused.message
        graph = one_task()
        graph.chunk.functions[0].cid = cid_of(b"some bytes")
        graph.chunk.functions[0].body = b"other bytes"
        await client.submit("r", graph)
        assert "is not that of bafk" in (await client.refused()).message
        graph = one_task()
        graph.chunk.blobs.add(cid=cid_of(b"nowhere"), size_bytes=7)
        await client.submit("r", graph)
        assert "which this cluster does not have" in (await client.refused()).message
        await client.say(submit=client_pb2.Submit(run_id="", options=client_pb2.RunOptions()))
        assert "a run id has 1 to 200" in (await client.refused()).message
        await client.say(submit=client_pb2.Submit(run_id="q", chunk=one_task().chunk))
        assert "no options" in (await client.refused()).message


async def test_attach_and_an_unknown_run() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.say(attach=client_pb2.Attach(run_id="nowhere"))
        refused = await client.refused()
        assert (refused.code, refused.run_id) == (NOT_FOUND, "nowhere")
        await client.submit("r", one_task())
        await client.accepted()
        work = await worker.work()
        await worker.report(done(work.assignments[0].attempt, pickled(5)))
        await client.finish("r")
        async with Client(it.address) as other:
            await other.say(attach=client_pb2.Attach(run_id="r"))
            accepted = await other.accepted()
            assert (accepted.joined, accepted.node_count) == (True, 1)
            values, _ = await other.finish("r")
            assert values[0].inline == pickled(5)


async def test_cancel_stops_the_work() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt
        await client.say(cancel=client_pb2.Cancel(run_id="r"))
        assert list((await worker.work()).cancel) == [attempt]
        await worker.report(worker_pb2.Report(attempt=attempt, cancelled=worker_pb2.Cancelled()))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_CANCELLED


async def test_a_failure_is_told_whole() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(name="my_task"))
        await client.accepted()
        work = await worker.work()
        await worker.report(failed(work.assignments[0].attempt, "it broke"))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_FAILED
        assert (finish.error.type, finish.error.message) == ("ValueError", "it broke")
        assert (finish.error.traceback, finish.error.pickled) == ("Traceback …", b"\x80")
        assert finish.failed_task == "my_task"


async def test_an_owner_that_closes_its_stream_cancels_at_once() -> None:
    async with scheduler() as it, Worker(it.address) as worker, Client(it.address) as client:
        await client.submit("r", one_task(), cancel_on_disconnect=True, disconnect_grace={"seconds": 60})
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt
        await client.call.done_writing()
        assert list((await worker.work()).cancel) == [attempt]


async def test_an_owner_that_is_lost_has_its_grace() -> None:
    async with scheduler() as it, Worker(it.address) as worker, Client(it.address) as watcher:
        client = Client(it.address)
        await client.open()
        await client.submit(
            "r", one_task(), cancel_on_disconnect=True, disconnect_grace={"nanos": 200_000_000}
        )
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt
        client.call.cancel()
        await watcher.say(attach=client_pb2.Attach(run_id="r"))
        await watcher.accepted()
        await asyncio.sleep(0.5)
        assert it.hub.runs.get("r").live
        await watcher.say(detach=client_pb2.Detach(run_id="r"))
        assert list((await worker.work()).cancel) == [attempt]
        await client.channel.close()


async def test_an_owner_that_comes_back_keeps_its_run() -> None:
    async with scheduler() as it, Worker(it.address) as worker, Client(it.address) as again:
        client = Client(it.address)
        await client.open()
        await client.submit(
            "r", one_task(), cancel_on_disconnect=True, disconnect_grace={"nanos": 100_000_000}
        )
        await client.accepted()
        attempt = (await worker.work()).assignments[0].attempt
        await again.say(attach=client_pb2.Attach(run_id="r", own=True))
        await again.accepted()
        client.call.cancel()
        await client.channel.close()
        await asyncio.sleep(0.2)
        await worker.report(done(attempt, pickled(1)))
        _, finish = await again.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED


async def test_an_owner_that_stays_holds_on_to_no_run_that_has_ended() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for run in ("r", "s"):
            await client.submit(run, one_task())
            await client.accepted()
            (session,) = it.hub.clients
            assert session.owned == {it.hub.runs.get(run)}
            work = await worker.work()
            await worker.report(done(work.assignments[0].attempt, pickled(1)))
            await client.finish(run)
            assert not session.owned
        await client.say(attach=client_pb2.Attach(run_id="r", own=True))
        await client.accepted()
        await client.finish("r")
        assert not session.owned


async def test_detach_ends_the_updates() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for run in ("r", "s"):
            await client.submit(run, one_task())
            await client.accepted()
            await client.say(detach=client_pb2.Detach(run_id="r"))
            work = await worker.work()
            await worker.report(done(work.assignments[0].attempt, pickled(1)))
        assert await next_finish(client) == "s"


async def test_progress_comes_on_change() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        for _ in range(2):
            graph.node()
        graph.gather(0, 1)
        await client.submit("r", graph)
        await client.accepted()
        update = (await client.read()).update
        assert (update.progress.total, update.progress.running, update.progress.done) == (2, 1, 0)
        for left in (1, 0):
            work = await worker.work()
            await worker.report(done(work.assignments[0].attempt, pickled(left)))
        values, finish = await client.finish("r")
        assert sorted(values) == [0, 1]
        assert (finish.tree.compound.template, list(finish.tree.compound.nodes)) == (
            b"a list of references",
            [0, 1],
        )


async def test_lines_of_tasks_reach_the_client_that_wants_them() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(name="chatty"), logs=True)
        await client.accepted()
        work = await worker.work()
        assert work.runs[0].logs
        attempt = work.assignments[0].attempt
        line = value_pb2.LogLine(attempt=attempt, stream=value_pb2.LOG_STREAM_STDERR, text="hello")
        await worker.report(done(attempt, pickled(1)), logs=[line])
        output = []
        while True:
            update = (await client.read()).update
            output.extend(update.output)
            if update.HasField("finish"):
                break
        (told,) = output
        assert (told.task, told.text, told.worker) == ("chatty", "hello", "w1")
        assert told.stream == value_pb2.LOG_STREAM_STDERR
        events = await watch(client, "r")
        (event,) = [event for event in events if event.kind == "LogLine"]
        assert (event.text, event.task) == ("hello", "chatty")


async def test_lines_are_asked_for_when_somebody_attaches_for_them() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task())
        await client.accepted()
        work = await worker.work()
        assert not work.runs[0].logs
        async with Client(it.address) as other:
            await other.say(attach=client_pb2.Attach(run_id="r", logs=True))
            await other.accepted()
            (run,) = (await worker.work()).runs
            assert (run.run, run.logs) == (work.runs[0].run, True)


async def watch(client: Client, run_id: str, **request: Any) -> list[client_pb2.Event]:
    """All events of a run, until it has finished."""
    events: list[client_pb2.Event] = []
    call = client.stub.Watch(client_pb2.WatchRequest(run_id=run_id, follow=True, **request), timeout=SECONDS)
    async for response in call:
        events.extend(response.events)
    return events


async def test_events_are_ordered_and_resumable() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(name="f"))
        await client.accepted()
        watching = asyncio.create_task(watch(client, "r"))
        work = await worker.work()
        await worker.say(reports=worker_pb2.Reports(started=[work.assignments[0].attempt]))
        await worker.report(done(work.assignments[0].attempt, pickled(1)))
        await client.finish("r")
        events = await asyncio.wait_for(watching, SECONDS)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        kinds = [event.kind for event in events]
        assert kinds == ["RunStarted", "TaskExecutionStarted", "TaskExecutionFinished", "RunFinished"]
        finished = events[2]
        assert (finished.task, finished.status, finished.worker) == ("f", "Succeeded", "w1")
        assert (finished.node_id, finished.result_preview) == ("00" * 16, "…")
        assert [event.kind for event in await watch(client, "r", after=2)] == kinds[2:]


async def test_questions() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for run in ("r", "s"):
            await client.submit(run, one_task(name="f"), name=f"run {run}")
            await client.accepted()
        work = await worker.work()
        found = await client.stub.GetRun(client_pb2.GetRunRequest(run_id="r", nodes_max=10))
        assert (found.run.name, found.run.state) == ("run r", client_pb2.RUN_STATE_RUNNING)
        assert [(node.task, node.state, node.worker) for node in found.nodes] == [("f", "running", "w1")]
        everything = client_pb2.GetRunRequest(run_id="r", nodes_max=10, all_nodes=True)
        found = await client.stub.GetRun(everything)
        assert [(node.node, node.state, node.worker) for node in found.nodes] == [(0, "running", "w1")]
        listed = await client.stub.ListRuns(client_pb2.ListRunsRequest())
        assert [run.run_id for run in listed.runs] == ["s", "r"]
        limited = await client.stub.ListRuns(client_pb2.ListRunsRequest(limit=1))
        assert [run.run_id for run in limited.runs] == ["s"]
        (info,) = (await client.stub.ListWorkers(client_pb2.ListWorkersRequest())).workers
        assert (info.worker_id, info.state, info.running) == ("w1", "connected", 1)
        assert info.versions == wire.local_versions()
        status = await client.stub.GetStatus(client_pb2.GetStatusRequest())
        assert (status.address, status.state, status.epoch) == (it.address, "memory://", 7)
        assert (status.workers, status.runs_active, status.nodes_running, status.nodes_ready) == (1, 2, 1, 1)
        assert (status.plans_solved, status.plans_hit) == (1, 1)
        cancelled = await client.stub.CancelRun(client_pb2.CancelRunRequest(run_id="s"))
        assert cancelled.state == client_pb2.RUN_STATE_CANCELLED
        await worker.report(done(work.assignments[0].attempt, pickled(1)))
        for call, request in (
            (client.stub.GetRun, client_pb2.GetRunRequest(run_id="x")),
            (client.stub.CancelRun, client_pb2.CancelRunRequest(run_id="x")),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="no run 'x' is known") as raised:
                await call(request)
            assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_all_nodes_of_a_run_are_listed_when_it_has_ended_too() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(name="f"))
        await client.accepted()
        work = await worker.work()
        await worker.report(done(work.assignments[0].attempt, pickled(1)))
        await client.finish("r")
        request = client_pb2.GetRunRequest(run_id="r", nodes_max=10, all_nodes=True)
        found = await client.stub.GetRun(request)
        assert [(node.node, node.task, node.state) for node in found.nodes] == [(0, "f", "done")]
        request.all_nodes = False
        assert not (await client.stub.GetRun(request)).nodes


async def test_a_shape_that_was_seen_before_is_told_by_its_bytes() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for number in range(4):
            graph = Graph()
            graph.node(graph.node(args=pickled(number)), retry={"max_attempts": 2})
            graph.chunk.node_ids = bytes([number]) * 32
            await client.submit(f"r{number}", graph, params=b"p%d" % number, name="a name")
            first = (await worker.work()).assignments[0]
            assert (first.args, first.node_id) == (pickled(number), f"{number:02x}" * 16)
            await worker.report(done(first.attempt, pickled(number)))
            second = (await worker.work()).assignments[0]
            assert second.inputs[0].inline == pickled(number)
            await worker.report(done(second.attempt, pickled(-number)))
            values, finish = await client.finish(f"r{number}")
            assert (values[1].inline, finish.state) == (pickled(-number), client_pb2.RUN_STATE_SUCCEEDED)
            found = (await client.stub.GetRun(client_pb2.GetRunRequest(run_id=f"r{number}"))).run
            assert (found.name, found.progress.total) == ("a name", 2)
        assert len(it.hub.shapes) == 1
        assert (it.hub.plans.solved, it.hub.plans.hits) == (1, 3)
        graph.chunk.node_ids = bytes(32)
        await client.submit("r3", graph, params=b"p3", name="a name")
        assert (await client.refused()).code == CONFLICT
        graph.chunk.node_ids = bytes(31)
        await client.submit("new", graph, name="a name")
        assert "31 bytes for 2 nodes" in (await client.refused()).message


async def test_a_known_shape_asks_for_functions_that_are_gone() -> None:
    options = {"functions_bytes_max": 10}
    async with scheduler(**options) as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = one_task()
        for run in ("a", "b"):
            await client.submit(run, graph)
            await worker.report(done((await worker.work()).assignments[0].attempt, pickled(1)))
            await client.finish(run)
        body, graph.chunk.functions[0].body = graph.chunk.functions[0].body, b""
        await client.submit("c", graph)
        needed = (await client.read()).functions_needed
        function = graph_pb2.Function(cid=needed.cids[0], body=body)
        await client.say(submit=client_pb2.Submit(run_id="c", functions=[function]))
        assert (await client.accepted()).run_id == "c"


async def test_a_lying_template_id_spoils_no_plan() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submit("r", one_task(), template=b"same" * 4)
        await client.accepted()
        graph = Graph()
        graph.node()
        graph.node(0)
        await client.submit("s", graph, template=b"same" * 4)
        await client.accepted()
        serving = asyncio.create_task(worker.serve(lambda a: pickled(1)))
        assert sorted([await next_finish(client), await next_finish(client)]) == ["r", "s"]
        assert it.hub.plans.solved == 2
        serving.cancel()


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        (client_pb2.Versions(protocol_major=99, python="3.11.1"), "protocol 99"),
        (client_pb2.Versions(protocol_major=1, python="2.7.18"), "Python 2.7.18"),
    ],
)
async def test_versions_that_do_not_go_together(versions: client_pb2.Versions, told: str) -> None:
    async with scheduler() as it:
        client, worker = Client(it.address), Worker(it.address)
        for peer in (client, worker):
            opening = asyncio.create_task(peer.open(versions=versions))
            with pytest.raises(grpc.aio.AioRpcError, match=told) as raised:
                await opening
            assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            await peer.channel.close()


async def test_a_stream_without_hello_is_refused() -> None:
    async with scheduler() as it:
        client = Client(it.address)
        call = client.stub.Open()
        await call.write(client_pb2.OpenRequest(cancel=client_pb2.Cancel(run_id="r")))
        code, details = await code_of(call)
        assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "the first message is a hello")
        await client.channel.close()


async def test_the_token_is_asked_for() -> None:
    async with scheduler(token="secret") as it:
        for token in (None, "wrong"):
            for peer in (Client(it.address, token), Worker(it.address, token=token)):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await peer.open()
                assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
                await peer.channel.close()
        async with Client(it.address, "secret") as client, Worker(it.address, token="secret"):
            await client.submit("r", one_task())
            await client.accepted()
