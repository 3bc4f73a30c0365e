"""Large graphs, arguments and results: in parts, bounded, over lost connections."""

from __future__ import annotations

import io
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

import cascade_dist as cs
from cascade_dist.client import submitting
from cascade_dist.client.link import frame_submit
from cascade_dist.v1 import client_pb2 as pb
from tests.client.fake import FakeScheduler, Graph, succeeded

MIB = 1 << 20
INPUT = object()


@cs.task
def add(a: int, b: int = 1) -> int:
    return a + b


@cs.task
def size(x: Any) -> int:
    return len(x)


@cs.task
def make(n: int) -> bytes:
    return bytes(n)


def template_of(value: Any) -> bytes:
    """The pickle of a container in which INPUT stands for the first input."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> int | None:
            return 0 if obj is INPUT else None

    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return file.getvalue()


def test_a_submit_is_framed_as_protobuf_would() -> None:
    for data in (b"", b"x" * 10, b"x" * 200, b"x" * 100_000):
        submit = pb.Submit(run_id="r")
        submit.chunk.node_args.append(data)
        assert pb.OpenRequest.FromString(frame_submit(submit)).submit == submit


def test_a_large_result_is_fetched_in_pieces(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    assert cluster.run(make(5 * MIB)) == bytes(5 * MIB)


def test_a_fetch_that_is_cut_is_made_again(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.get_blob_failures = 2
    assert cluster.run(make(3 * MIB)) == bytes(3 * MIB)


def test_a_blob_that_is_gone_or_damaged(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    def gone(graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        result = scheduler.result(0, bytes(100_000))
        scheduler.store.clear()
        finish = succeeded(pb.TargetTree(node=0))
        return [pb.RunUpdate(run_id=run_id, results=[result], finish=finish)]

    scheduler.on_submit = gone
    with pytest.raises(cs.RunLostError, match=r"no longer in the blob store.*submit the run again"):
        cluster.run(add(1))

    def damaged(graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        result = scheduler.result(0, bytes(100_000))
        cid = result.value.blob.cid
        scheduler.store[cid] = b"x" + scheduler.store[cid][1:]
        finish = succeeded(pb.TargetTree(node=0))
        return [pb.RunUpdate(run_id=run_id, results=[result], finish=finish)]

    scheduler.on_submit = damaged
    with pytest.raises(cs.RunLostError, match="do not hash"):
        cluster.run(add(1))


def test_many_large_results_come_few_at_a_time(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    def updates(graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        arrays = [scheduler.result(i, np.full(200_000, i)) for i in range(12)]
        tree = pb.TargetTree(list=pb.TargetList(nodes=range(12)))
        return [pb.RunUpdate(run_id=run_id, results=arrays, finish=succeeded(tree))]

    scheduler.on_submit = updates
    result = cluster.run(add(1))
    assert [int(array[-1]) for array in result] == list(range(12))
    assert 2 <= scheduler.fetching_most <= 4


def test_a_container_whose_pickle_is_a_blob(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    def updates(graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        template = template_of([INPUT, "x" * 100_000])
        compound = pb.TargetCompound(template_blob=scheduler.keep(template), nodes=[7])
        finish = succeeded(pb.TargetTree(list=pb.TargetList(items=[pb.TargetTree(compound=compound)])))
        return [pb.RunUpdate(run_id=run_id, results=[scheduler.result(7, 42)], finish=finish)]

    scheduler.on_submit = updates
    assert cluster.run(add(1)) == [[42, "x" * 100_000]]


def test_a_large_argument_is_a_blob(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    data = np.arange(1_000_000)
    assert cluster.run(size(data)) == 1_000_000
    [blob] = scheduler.store.values()
    assert len(blob) > 8_000_000
    assert cluster.run([size(data), size(data)]) == [1_000_000] * 2
    assert len(scheduler.store) == 1
    assert max(len(s.SerializeToString()) for s in scheduler.wait_heard("submit")) < 10_000


# --- graphs in parts ------------------------------------------------------------------------------


def test_a_graph_in_parts(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    run = cluster.submit([add(i) for i in range(60_000)])
    assert run.result(60) == list(range(1, 60_001))
    parts = scheduler.wait_heard("submit")
    assert len(parts) > 2
    assert [part.HasField("end") for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.HasField("options") for part in parts] == [True] + [False] * (len(parts) - 1)
    with pytest.raises(cs.GraphError, match="large"):
        run.graph()


def test_few_parts_are_in_flight(
    scheduler: FakeScheduler, cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the scheduler does not read, the compiler waits: memory holds no more than a few parts."""
    scheduler.deaf = True
    scheduler.drop_sessions()
    deadline = time.monotonic() + 10
    while not scheduler.sessions and time.monotonic() < deadline:
        time.sleep(0.001)
    made: list[int] = []
    plain = submitting.frame_submit
    monkeypatch.setattr(submitting, "frame_submit", lambda s: made.append(1) or plain(s))
    texts = [add(i, "x" * 50_000) for i in range(400)]  # 20 MB, some 40 parts
    sending = threading.Thread(target=lambda: _quietly(cluster, texts))
    sending.start()
    last = -1
    while last != len(made):
        last = len(made)
        time.sleep(0.3)
    assert submitting.PARTS_IN_FLIGHT <= last < 20
    cluster.close()
    sending.join(20)
    assert not sending.is_alive()


def _quietly(cluster: cs.Cluster, target: Any) -> None:
    try:
        cluster.submit(target)
    except cs.ClusterClosedError:
        pass


def test_a_graph_in_parts_begins_again_on_a_new_session(
    scheduler: FakeScheduler, cluster: cs.Cluster
) -> None:
    scheduler.deaf = True
    scheduler.drop_sessions()
    results: list[Any] = []
    target = [add(i) for i in range(60_000)]
    sending = threading.Thread(target=lambda: results.append(cluster.submit(target).result(60)))
    sending.start()
    deadline = time.monotonic() + 10
    while not scheduler.sessions and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.1)
    scheduler.deaf = False
    scheduler.drop_sessions()
    sending.join(60)
    assert results == [list(range(1, 60_001))]


def test_a_graph_above_the_schedulers_bound(scheduler: FakeScheduler) -> None:
    scheduler.nodes_max = 50_000
    with cs.connect(scheduler.address) as cluster:
        with pytest.raises(cs.GraphTooLargeError, match="50,000 nodes"):
            cluster.submit([add(i) for i in range(200_000)])
        assert cluster.run(add(1)) == 2
        assert cluster._session.live_runs() == []


def test_a_refusal_of_a_graph_in_parts_is_raised_by_submit(
    scheduler: FakeScheduler, cluster: cs.Cluster
) -> None:
    scheduler.refuse = (pb.REFUSAL_CODE_TOO_LARGE, "graph_nodes_max")
    with pytest.raises(cs.GraphTooLargeError, match="graph_nodes_max"):
        cluster.submit([add(i) for i in range(20_000)])


def test_an_error_while_compiling_leaves_nothing(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    lock = threading.Lock()
    target = [*[add(i) for i in range(60_000)], add(lock)]
    with pytest.raises(cs.ArgumentSerializationError, match="add"):
        cluster.submit(target, run_id="broken")
    assert cluster._session.live_runs() == []
    assert [cancel.run_id for cancel in scheduler.wait_heard("cancel")] == ["broken"]
