"""Runs over one session: values, errors, cancel, joins."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import warnings
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.client.cluster import Cluster
from cascade_dist.client.link import Endpoint
from cascade_dist.client.records import Progress, RunStatus
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from cascade_dist.wire import parse_addresses
from tests.client.fake import FakeScheduler, Graph, succeeded
from tests.machine import wait_until


@cs.task
def add(a: int, b: int = 1) -> int:
    return a + b


@cs.task
def fail(text: str) -> None:
    raise ValueError(text)


def test_values_of_all_kinds_of_targets(cluster: cs.Cluster) -> None:
    assert cluster.run(add(1, 2)) == 3
    assert cluster.run([add(1), "lit", (add(2), {"k": add(3)})]) == [2, "lit", (3, {"k": 4})]
    assert cluster.run(add.map(a=[1, 2, 3])) == [2, 3, 4]
    assert cluster.run([]) == []
    assert cluster.run(add(cs.Param("n")), params={"n": 5}) == 6


def test_a_run_is_a_future(cluster: cs.Cluster) -> None:
    runs = [cluster.submit(add(i)) for i in range(5)]
    done, waiting = concurrent.futures.wait(runs, timeout=10)
    assert not waiting
    assert sorted(run.result() for run in done) == [1, 2, 3, 4, 5]
    assert {run.result() for run in concurrent.futures.as_completed(runs, timeout=10)} == {1, 2, 3, 4, 5}
    assert all(run.done() and not run.cancelled() and not run.running() for run in runs)
    assert all(run.status is RunStatus.SUCCEEDED for run in runs)
    assert len({run.id for run in runs}) == 5


def test_callbacks_may_submit_but_not_wait(cluster: cs.Cluster) -> None:
    got: dict[str, Any] = {}
    called = threading.Event()

    def callback(run: cs.Run[int]) -> None:
        got["next"] = cluster.submit(add(run.result()))
        try:
            got["next"].result()
        except RuntimeError as error:
            got["error"] = error
        try:
            cluster.status()
        except RuntimeError as error:
            got["status"] = error
        called.set()

    cluster.submit(add(1)).add_done_callback(callback)
    assert called.wait(10)
    assert got["next"].result(10) == 3
    assert "another thread" in str(got["error"])
    assert "another thread" in str(got["status"])


def test_a_task_error_is_raised_with_its_remote_traceback(cluster: cs.Cluster) -> None:
    run = cluster.submit(fail("no luck"))
    with pytest.raises(ValueError, match="no luck") as caught:
        run.result(10)
    assert isinstance(caught.value.__cause__, cs.RemoteTraceback)
    assert "raise ValueError(text)" in str(caught.value.__cause__)
    assert "raised by task 'failing'" in "".join(caught.value.__notes__)
    assert run.status is RunStatus.FAILED
    assert isinstance(run.exception(), ValueError)


def test_the_schedulers_own_verdicts_are_our_errors(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    verdict = value_pb2.TaskError(
        type="TaskLostError", message="'f' was lost 3 times", traceback="exit code 139"
    )
    finish = pb.RunFinish(state=pb.RUN_STATE_FAILED, error=verdict, failed_task="f")
    scheduler.on_submit = lambda graph, run_id: [pb.RunUpdate(run_id=run_id, finish=finish)]
    with pytest.raises(cs.TaskLostError, match="lost 3 times") as caught:
        cluster.run(add(1))
    assert "exit code 139" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (pb.REFUSAL_CODE_INVALID, cs.RunRefusedError),
        (pb.REFUSAL_CODE_CONFLICT, cs.RunConflictError),
        (pb.REFUSAL_CODE_INFEASIBLE, cs.AmountError),
        (pb.REFUSAL_CODE_TOO_LARGE, cs.GraphTooLargeError),
        (pb.REFUSAL_CODE_DRAINING, cs.RunRefusedError),
        (99, cs.RunRefusedError),
    ],
)
def test_refusals(scheduler: FakeScheduler, cluster: cs.Cluster, code: int, kind: type[Exception]) -> None:
    scheduler.refuse = (code, "because of this")
    with pytest.raises(kind, match="because of this"):
        cluster.run(add(1))
    scheduler.refuse = None
    assert cluster.run(add(1)) == 2


def _finish(scheduler: FakeScheduler, finish: pb.RunFinish) -> None:
    scheduler.on_submit = lambda graph, run_id: [pb.RunUpdate(run_id=run_id, finish=finish)]


def test_s24_a_skipped_target_raises(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    _finish(scheduler, succeeded(skip_reason="ConditionFalse", skipped_dependency="add"))
    with pytest.raises(cs.DependencyMissingError) as caught:
        cluster.run(add(1))
    assert (caught.value.dependency_id, caught.value.reason) == ("add", "ConditionFalse")


def test_s29_a_target_skipped_by_its_sequence_is_none(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    _finish(scheduler, succeeded(skip_reason="UpstreamSkipped_Sequence"))
    assert cluster.run(add(1)) is None


def test_s62_a_target_without_value_and_without_skip(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    _finish(scheduler, succeeded(pb.TargetTree(node=0)))
    with pytest.raises(KeyError, match="did not produce a result"):
        cluster.run(add(1))


def test_results_come_in_several_updates(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    def updates(graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        parts = [
            pb.RunUpdate(run_id=run_id, results=[scheduler.result(i, i * i) for i in range(at, at + 100)])
            for at in range(0, 1000, 100)
        ]
        tree = pb.TargetTree(list=pb.TargetList(nodes=range(1000)))
        progress = pb.Progress(total=1000, done=1000)
        return [*parts, pb.RunUpdate(run_id=run_id, finish=succeeded(tree, progress=progress))]

    scheduler.on_submit = updates
    run = cluster.submit(add(1))
    assert run.result(10) == [i * i for i in range(1000)]
    assert run.progress == Progress(total=1000, done=1000)


def test_a_result_that_cannot_be_loaded_here(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    inline = b"\x80\x05cno_such_module\nThing\n."
    result = pb.NodeResult(node=0, value=value_pb2.Value(inline=inline))
    finish = succeeded(pb.TargetTree(node=0))
    scheduler.on_submit = lambda graph, run_id: [pb.RunUpdate(run_id=run_id, results=[result], finish=finish)]
    with pytest.raises(cs.SerializationError, match=r"no_such_module.*client needs"):
        cluster.run(add(1))


def test_what_tasks_print_is_printed_with_their_names(
    scheduler: FakeScheduler, cluster: cs.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        pb.TaskOutput(task="talk", worker="w1", stream=value_pb2.LOG_STREAM_STDOUT, text="hello"),
        pb.TaskOutput(task="talk[3]", worker="w2", stream=value_pb2.LOG_STREAM_STDERR, text="oh no"),
    ]
    finish = succeeded(pb.TargetTree(node=0))
    scheduler.on_submit = lambda graph, run_id: [
        pb.RunUpdate(run_id=run_id, output=lines, results=[scheduler.result(0, 1)], finish=finish)
    ]
    assert cluster.run(add(1)) == 1
    captured = capsys.readouterr()
    assert captured.out == "(talk w1) hello\n"
    assert captured.err == "(talk[3] w2) oh no\n"


def test_options_travel(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    cluster.submit(add(1), name="mine", on_failure="finish", logs=False, detach=True, run_id="r:1").result(10)
    [submit] = scheduler.wait_heard("submit")
    assert submit.run_id == "r:1"
    options = submit.options
    assert (options.name, options.on_failure) == ("mine", pb.ON_FAILURE_FINISH)
    assert options.logs, "a detached run keeps its lines for later"
    assert not options.cancel_on_disconnect
    cluster.run(add(1))
    options = scheduler.wait_heard("submit", 2)[1].options
    assert options.cancel_on_disconnect
    assert options.logs
    assert options.disconnect_grace.seconds == 15


@pytest.mark.parametrize("run_id", ["", "a b", "x" * 129, "a/b", 5, "ü"])
def test_bad_run_ids(cluster: cs.Cluster, run_id: Any) -> None:
    with pytest.raises(ValueError, match="run id"):
        cluster.submit(add(1), run_id=run_id)


def test_bad_options(cluster: cs.Cluster) -> None:
    with pytest.raises(ValueError, match=r"on_failure is 'stop'.*cancel, finish"):
        cluster.submit(add(1), on_failure="stop")
    with pytest.raises(TypeError, match="resources"):
        cluster.submit(add(1), resources={})  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'seats': -1"):
        cluster.submit(add(1), system_resources={"seats": -1})
    with pytest.raises(cs.GraphError):
        cluster.run(5)


def test_a_function_is_sent_once_per_session(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    for _ in range(3):
        cluster.run(add(1))
    sent = [function.body for s in scheduler.wait_heard("submit", 3) for function in s.chunk.functions]
    assert [bool(body) for body in sent] == [True, False, False]


def test_a_scheduler_that_dropped_a_function_gets_it_again(
    scheduler: FakeScheduler, cluster: cs.Cluster
) -> None:
    cluster.run(add(1))
    scheduler.bodies.clear()
    assert cluster.run(add(2)) == 3


def test_a_fault_of_our_own_hangs_nobody(
    scheduler: FakeScheduler,
    cluster: cs.Cluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("here")

    with monkeypatch.context() as patched:
        patched.setattr("cascade_dist.client.tracker.Tracker.on_update", broken)
        with pytest.raises(cs.RunLostError, match=r"the client has a fault.*ZeroDivisionError: here"):
            cluster.submit(add(1)).result(10)
    assert cluster.run(add(1)) == 2, "it costs the run, not the session"
    with monkeypatch.context() as patched:
        patched.setattr("cascade_dist.client.session.Session._announce", broken)
        scheduler.hold = True
        run = cluster.submit(add(1))
        scheduler.wait_heard("submit", 3)
        scheduler.drop_sessions()
        with pytest.raises(cs.RunLostError, match="the client has a fault"):
            run.result(10)
    scheduler.hold = False
    assert cluster.run(add(1)) == 2, "a handle that was given up connects when it is used again"
    assert "please report" in caplog.text


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_waits_for_the_clusters_word(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1))
    scheduler.wait_heard("submit")
    assert run.cancel()
    assert run.status is RunStatus.CANCELLING
    with pytest.raises(concurrent.futures.CancelledError):
        run.result(10)
    assert run.cancelled()
    assert run.status is RunStatus.CANCELLED
    assert run.cancel()
    assert scheduler.wait_heard("cancel")[0].run_id == run.id
    concurrent.futures.wait([run], timeout=1)


def test_a_run_that_has_ended_cannot_be_cancelled(cluster: cs.Cluster) -> None:
    run = cluster.submit(add(1))
    run.result(10)
    assert not run.cancel()


def test_a_cancel_that_nobody_confirms_is_bounded(
    scheduler: FakeScheduler, cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade_dist.client.session.CANCEL_SECONDS", 0.05)
    scheduler.on_submit = lambda graph, run_id: []
    run = cluster.submit(add(1))
    run.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        run.result(10)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit("over"), "GeneratorExit: over"),
        (BaseExceptionGroup("several", [SystemExit(2)]), "BaseExceptionGroup: several (1 sub-exception)"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_what_would_end_this_process_comes_as_a_failure(
    cluster: cs.Cluster, error: BaseException, text: str
) -> None:
    @cs.task
    def leave() -> None:
        raise error

    with pytest.raises(cs.RemoteTaskError) as caught:
        cluster.run(leave())
    assert str(caught.value) == text
    assert isinstance(caught.value.__cause__, cs.RemoteTraceback)
    assert "in leave" in str(caught.value.__cause__)
    assert "raised by task" in caught.value.__notes__[0]


def test_a_private_cluster_whose_processes_ended_says_so(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    said: list[str] = []
    endpoint = Endpoint(parse_addresses(scheduler.address), is_gone=lambda: said[0] if said else None)
    cluster = Cluster(endpoint, connect_timeout=10, reconnect_timeout=10)
    try:
        run = cluster.submit(add(1))
        scheduler.wait_heard("submit")
        said.append("the worker-0 ended; connect again")
        with pytest.raises(cs.RunLostError, match=r"is lost: the worker-0 ended; connect again"):
            run.result(10)
        with pytest.raises(cs.ClusterClosedError, match="the worker-0 ended; connect again"):
            cluster.submit(add(1))
    finally:
        cluster.close()


def test_an_amount_error_where_no_worker_is_left_says_why(scheduler: FakeScheduler) -> None:
    def gone() -> str | None:
        submitted = any(message.HasField("submit") for message in list(scheduler.heard))
        return "the worker-0 ended" if submitted else None

    endpoint = Endpoint(parse_addresses(scheduler.address), is_gone=gone)
    scheduler.refuse = (pb.REFUSAL_CODE_INFEASIBLE, "cpu=1 is more than any worker has (0)")
    cluster = Cluster(endpoint, connect_timeout=10, reconnect_timeout=10)
    try:
        with pytest.raises(cs.RunLostError, match="is lost: the worker-0 ended"):
            cluster.run(add(1))
    finally:
        cluster.close()


def test_run_with_a_timeout_cancels(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    with pytest.raises(TimeoutError, match=r"run 'slow' has not ended within 0\.05 s and is cancelled"):
        cluster.run(add(1), run_id="slow", timeout=0.05)
    scheduler.wait_heard("cancel")


def test_a_wait_that_is_over_says_that_the_run_goes_on(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1), run_id="slow")
    for wait in (run.result, run.exception):
        with pytest.raises(TimeoutError, match=r"run 'slow' has not ended within 0\.05 s and goes on"):
            wait(0.05)
    assert not run.done()


def test_a_timeout_error_of_a_task_is_its_own(cluster: cs.Cluster) -> None:
    @cs.task
    def late() -> None:
        raise TimeoutError("the printer")

    with pytest.raises(TimeoutError, match="the printer"):
        cluster.run(late(), timeout=10)
    run = cluster.submit(late())
    assert "the printer" in str(run.exception(10))
    with pytest.raises(TimeoutError, match="the printer"):
        run.result(10)


def test_cancel_by_id(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    run = cluster.submit(add(1))
    scheduler.wait_heard("submit")
    while run.id not in scheduler.runs:
        pass
    assert cluster.cancel(run.id) is RunStatus.CANCELLING
    with pytest.raises(cs.RunNotFoundError, match="no run"):
        cluster.cancel("unknown")


# --- one run id, twice ----------------------------------------------------------------------------


def test_the_same_submit_joins_a_run_that_is_under_way(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    scheduler.hold = True
    first = cluster.submit(add(1), run_id="same")
    assert cluster.submit(add(1), run_id="same") is first
    assert cluster.attach("same") is first
    with pytest.raises(cs.RunConflictError, match="literals"):
        cluster.submit(add(2), run_id="same")
    with pytest.raises(cs.RunConflictError, match="graph"):
        cluster.submit(fail("x"), run_id="same")
    scheduler.wait_heard("submit")
    while "same" not in scheduler.runs:
        pass
    scheduler.release("same")
    assert first.result(10) == 2


def test_attach_gives_results_of_somebody_elses_run(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    with cs.connect(scheduler.address) as other:
        other.submit(add(1), run_id="theirs").result(10)
    run = cluster.attach("theirs")
    assert run.result(10) == 2
    with pytest.raises(cs.GraphError, match="no target here"):
        run.graph()
    with pytest.raises(cs.RunNotFoundError, match="no such run"):
        cluster.attach("unknown")


# --- handles --------------------------------------------------------------------------------------


def test_graph_needs_nobody(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    run = cluster.submit([add(1), add(2)])
    run.result(10)
    assert [node.name for node in run.graph().nodes][:2] == ["add", "add"]


def test_reprs_ask_nobody(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    run = cluster.submit(fail("<b>"), name="n")
    run.exception(10)
    heard = len(scheduler.heard)
    assert run.id in repr(run)
    assert "failed" in repr(run)
    html = run._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert scheduler.address in cluster._repr_html_()
    assert scheduler.address in repr(cluster)
    assert len(scheduler.heard) == heard


def test_what_the_cluster_says_of_itself(scheduler: FakeScheduler, cluster: cs.Cluster) -> None:
    cluster.submit(add(1), run_id="one").result(10)
    [info] = cluster.runs()
    assert (info.run_id, info.status, info.duration) == ("one", RunStatus.SUCCEEDED, 1.5)
    [worker] = cluster.workers()
    assert worker.amounts == {"cpu": 2}
    assert worker.free == {"cpu": 0.5}
    assert cluster.status().workers == 1
    details = cluster.describe("one", nodes=5)
    assert details.nodes[0].task == "slow"
    assert details.to_dict()["run"]["status"] == "succeeded"
    with pytest.raises(cs.RunNotFoundError, match="cascade runs"):
        cluster.describe("unknown")


# --- the end --------------------------------------------------------------------------------------


def test_close_cancels_what_it_started_and_says_so(
    scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.hold = True
    with cs.connect(scheduler.address) as cluster:
        mine = cluster.submit(add(1), run_id="mine")
        detached = cluster.submit(add(2), run_id="detached", detach=True)
        scheduler.wait_heard("submit", 2)
    assert mine.cancelled()
    assert [cancel.run_id for cancel in scheduler.wait_heard("cancel")] == ["mine"]
    with pytest.raises(cs.RunLostError, match="goes on: attach"):
        detached.result(1)
    assert scheduler.half_closed == 1
    assert "cancelled 1 unfinished run (mine)" in capsys.readouterr().err
    with pytest.raises(cs.ClusterClosedError):
        cluster.submit(add(1))
    with pytest.raises(cs.ClusterClosedError):
        cluster.status()
    cluster.close()
    assert "closed" in repr(cluster)


def test_an_interrupt_in_the_block_is_said(
    scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.hold = True

    def interrupted() -> None:
        with cs.connect(scheduler.address) as cluster:
            cluster.submit(add(1), run_id="mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "cascade: interrupted; cancelled 1 unfinished run (mine)" in capsys.readouterr().err


def test_an_interrupt_in_run_cancels_it(
    scheduler: FakeScheduler,
    cluster: cs.Cluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler.hold = True

    def interrupted(self: Any, timeout: float | None = None) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cs.Run, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cluster.run(add(1), run_id="mine")
    assert capsys.readouterr().err == "cascade: interrupted; cancelled run mine\n"
    scheduler.wait_heard("cancel")


def test_a_handle_that_is_dropped_closes_but_not_before_its_runs_end(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = cs.connect(scheduler.address).submit(add(1), run_id="kept")
        gc.collect()
        wait_until(lambda: "kept" in scheduler.runs)
        assert scheduler.half_closed == 0
        scheduler.release("kept")
        assert run.result(10) == 2
        del run

        def is_closed() -> bool:
            gc.collect()  # the session's thread, which brought the result, may have held the run until now
            return scheduler.half_closed == 1

        wait_until(is_closed)
    for thread in threading.enumerate():
        if thread.name == "cascade-closer":
            thread.join(10)


def test_two_handles_share_the_thread_and_it_ends(scheduler: FakeScheduler) -> None:
    def threads() -> int:
        return sum(thread.name == "cascade-client" for thread in threading.enumerate())

    before = threads()  # other tests of the session may have a cluster open
    with cs.connect(scheduler.address) as one, cs.connect(scheduler.address) as two:
        assert one.run(add(1)) + two.run(add(2)) == 5
        assert threads() == 1
    assert threads() == before


def test_handles_do_not_pickle(cluster: cs.Cluster) -> None:
    import pickle

    with pytest.raises(TypeError, match=r"cs\.connect"):
        pickle.dumps(cluster)
    with pytest.raises(TypeError, match="attach"):
        pickle.dumps(cluster.submit(add(1)))
