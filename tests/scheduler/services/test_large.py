"""Large graphs and large results go in bounded messages."""

from __future__ import annotations

import asyncio

from cascade_dist.codec.values import load
from cascade_dist.v1 import client_pb2, graph_pb2, value_pb2, worker_pb2
from tests.scheduler.peers import Client, Graph, Worker, done, one_task, pickled, scheduler

VALUE = pickled(b"x" * 60_000)


async def test_results_are_split_into_messages_of_one_mebibyte() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        nodes = [graph.node() for _ in range(60)]
        graph.gather(*nodes)
        await client.submit("r", graph)
        await client.accepted()
        serving = asyncio.create_task(worker.serve(lambda a: VALUE))
        values, sizes = {}, []
        while True:
            update = (await client.read()).update
            values.update({result.node: result.value.inline for result in update.results})
            sizes.append(update.ByteSize())
            if update.HasField("finish"):
                break
        serving.cancel()
        assert values == dict.fromkeys(nodes, VALUE)
        async with Client(it.address) as other:
            await other.say(attach=client_pb2.Attach(run_id="r"))
            await other.accepted()
            while True:
                update = (await other.read()).update
                sizes.append(update.ByteSize())
                if update.HasField("finish"):
                    break
        assert max(sizes) < (1 << 20) + 4096


async def test_assignments_are_split_into_messages_of_one_mebibyte() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        for _ in range(40):
            graph.node(args=b"x" * 60_000, asynchronous=True, amounts=[])
        graph.gather(*range(40))
        await client.submit("r", graph)
        await client.accepted()
        got: list[worker_pb2.Assignment] = []
        while len(got) < 40:
            work = await worker.work()
            assert work.ByteSize() < (1 << 20) + 4096
            got.extend(work.assignments)
        await worker.report(*(done(a.attempt, pickled(1)) for a in got))
        await client.finish("r")


async def test_a_large_list_is_fetched_as_a_stream() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        nodes = [graph.node(asynchronous=True, amounts=[]) for _ in range(40)]
        listed = graph.gather(*nodes)
        graph.node(listed)
        await client.submit("r", graph)
        await client.accepted()
        work = await worker.work()
        await worker.report(*(done(a.attempt, VALUE) for a in work.assignments))
        (assignment,) = (await worker.work()).assignments
        (given,) = assignment.inputs
        assert (given.deferred.run_id, given.deferred.node) == ("r", listed)
        request = worker_pb2.FetchValueRequest(value=given.deferred)
        pieces = [piece async for piece in worker.stub.FetchValue(request)]
        assert pieces[0].compound
        assert pieces[0].template == b"a list of references"
        assert [item.inline for piece in pieces for item in piece.items] == [VALUE] * 40
        assert max(piece.ByteSize() for piece in pieces) < (1 << 20) + 4096
        await worker.report(done(assignment.attempt, pickled(1)))
        await client.finish("r")


async def test_many_inputs_are_fetched_one_by_one() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        nodes = [graph.node(asynchronous=True, amounts=[]) for _ in range(40)]
        graph.node(*nodes)
        await client.submit("r", graph)
        work = await worker.work()
        await worker.report(*(done(a.attempt, VALUE) for a in work.assignments))
        (assignment,) = (await worker.work()).assignments
        assert [given.deferred.node for given in assignment.inputs] == nodes
        for given in assignment.inputs:
            (piece,) = [
                p async for p in worker.stub.FetchValue(worker_pb2.FetchValueRequest(value=given.deferred))
            ]
            assert piece.compound
            loaded = load(piece.template, [load(item.inline) for item in piece.items])
            assert loaded == b"x" * 60_000
        await worker.report(done(assignment.attempt, pickled(1)))
        await client.finish("r")


async def test_lists_that_are_large_together_are_fetched_one_by_one() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        parts = [graph.node(asynchronous=True, amounts=[]) for _ in range(40)]
        lists = [graph.gather(part) for part in parts]
        graph.node(*lists)
        await client.submit("r", graph)
        work = await worker.work()
        await worker.report(*(done(a.attempt, VALUE) for a in work.assignments))
        (assignment,) = (await worker.work()).assignments
        assert [given.deferred.node for given in assignment.inputs] == lists
        request = worker_pb2.FetchValueRequest(value=assignment.inputs[7].deferred)
        pieces = [piece async for piece in worker.stub.FetchValue(request)]
        assert [item.inline for piece in pieces for item in piece.items] == [VALUE]
        await worker.report(done(assignment.attempt, pickled(1)))
        await client.finish("r")


async def test_what_no_message_can_carry_fails_its_task_and_not_the_stream() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        graph = Graph()
        graph.node(*[graph.node()] * 20_000, name="takes_all")
        await client.submit("r", graph)
        first = (await worker.work()).assignments[0].attempt
        far = value_pb2.ObjectRef(attempt=first, size_bytes=1 << 30, holders=["h" * 1_000 + ":1"])
        await worker.report(done(first, value_pb2.Value(object=far)))
        _, finish = await client.finish("r")
        assert (finish.state, finish.error.type) == (client_pb2.RUN_STATE_FAILED, "GraphTooLargeError")
        assert "task 'takes_all' has 20,000 inputs" in finish.error.message
        await client.submit("s", one_task())
        serving = asyncio.create_task(worker.serve(lambda a: pickled(1)))
        _, finish = await client.finish("s")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED
        serving.cancel()


async def test_a_function_that_is_gone_fails_its_task_and_not_the_stream() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        it.hub.functions._bodies.clear()
        graph = Graph()
        graph.node(name="bodyless")
        it.hub.functions.put = lambda function: None  # type: ignore[method-assign]
        await client.submit("r", graph)
        _, finish = await client.finish("r")
        assert (finish.state, finish.error.type) == (client_pb2.RUN_STATE_FAILED, "TaskLoadError")
        assert "task 'bodyless' could not be sent" in finish.error.message
        assert not worker.call.done()


async def test_a_large_graph_is_planned_while_others_run() -> None:
    nodes, per_chunk = 240_000, 10_000
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        serving = asyncio.create_task(worker.serve(lambda a: pickled(1)))
        for first in range(0, nodes, per_chunk):
            chunk = graph_pb2.GraphChunk(
                node_spec=[0] * per_chunk,
                node_ids=b"".join(node.to_bytes(16, "big") for node in range(first, first + per_chunk)),
                node_args=[b""] * per_chunk,
                node_edges=[1] * per_chunk,
                edge_source=range(first - 1 if first else 0, first + per_chunk - 1),
                edge_kind=[graph_pb2.EDGE_KIND_DATA] * per_chunk,
            )
            submit = client_pb2.Submit(run_id="large", chunk=chunk)
            chunk = submit.chunk
            if not first:
                small = Graph()
                small.node()
                chunk.functions.extend(small.chunk.functions)
                chunk.specs.extend(small.chunk.specs)
                chunk.node_edges[0] = 0
                del chunk.edge_kind[0]
                submit.options.SetInParent()
            await client.say(submit=submit)
        end = graph_pb2.GraphEnd(
            target=nodes - 1, node_count=nodes, edge_count=nodes - 1, template_id=b"t", params_digest=b"p"
        )
        await client.say(submit=client_pb2.Submit(run_id="large", end=end))
        small = Graph()
        small.node()
        await client.submit("small", small)
        assert (await client.accepted()).run_id == "small"
        while not (await client.read()).HasField("accepted"):
            pass
        await client.say(cancel=client_pb2.Cancel(run_id="large"))
        serving.cancel()
