"""Bad input: each gets an error that names the thing and the remedy; nothing hangs."""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

import pytest

import cascade_dist as cs

pytestmark = pytest.mark.integration


@cs.task
def value(x: Any) -> Any:
    return x


def test_an_argument_that_cannot_be_pickled_names_task_and_argument(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.ArgumentSerializationError, match=r"value.*x"):
        cluster.run(value(threading.Lock()))


def test_a_result_that_cannot_be_pickled_names_the_task(cluster: cs.Cluster) -> None:
    @cs.task
    def locked() -> Any:
        return threading.Lock()

    with pytest.raises(cs.ResultSerializationError, match="locked"):
        cluster.run(locked())


def test_an_exception_that_cannot_be_pickled_keeps_its_type_and_message(cluster: cs.Cluster) -> None:
    @cs.task
    def raises() -> None:
        class LocalError(Exception):
            def __init__(self, message: str, lock: Any) -> None:
                super().__init__(message)
                self.lock = lock

        raise LocalError("cannot travel", threading.Lock())

    with pytest.raises(Exception, match="cannot travel") as caught:
        cluster.run(raises())
    assert "LocalError" in repr(caught.value) + str(caught.value)


def test_a_task_whose_module_the_worker_lacks(cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here_module")
    exec("import cascade_dist as cs\n@cs.task\ndef helper():\n    return 1\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here_module", module)
    with pytest.raises(cs.TaskLoadError, match="only_here_module"):
        cluster.run(module.helper())


def test_an_amount_that_nobody_has_in_a_closed_cluster(private_cluster: cs.Cluster) -> None:
    assert private_cluster.run(value(1)) == 1
    with pytest.raises(cs.AmountError, match="cpu=64"):
        private_cluster.run(value(1).with_constraints(cpu=64))
    with pytest.raises(cs.AmountError, match="gpu"):
        private_cluster.run(value(1).with_constraints(gpu=1))


def test_an_open_cluster_says_that_it_waits(redis_cluster: cs.Cluster) -> None:
    run = redis_cluster.submit(value(1).with_constraints(gpu=1))
    for event in run.events():
        if type(event).__name__ == "TaskBlocked":
            assert event.reason == "ResourceContention"
            break
    assert run.cancel()


def test_s68_a_negative_amount_is_always_an_error() -> None:
    with pytest.raises(ValueError, match="cpu"):
        value(1).with_constraints(cpu=-1)


@pytest.mark.parametrize("target", [5, None, "text", object()])
def test_what_is_no_target(cluster: cs.Cluster, target: Any) -> None:
    with pytest.raises(cs.GraphError):
        cluster.run(target)


def test_an_unknown_run_id(cluster: cs.Cluster) -> None:
    with pytest.raises(cs.RunNotFoundError, match="no-such-run"):
        cluster.attach("no-such-run").result(20)


def test_a_second_submit_joins_or_is_refused(cluster: cs.Cluster) -> None:
    name = f"twice-{cluster.address}"
    assert cluster.submit(value(1), run_id=name).result(30) == 1
    assert cluster.submit(value(1), run_id=name).result(30) == 1
    with pytest.raises(cs.RunConflictError, match="target"):
        cluster.submit(value(2), run_id=name).result(30)
    other = f"params-{cluster.address}"
    n = cs.Param("n")
    assert cluster.submit(value(n), run_id=other, params={"n": 1}).result(30) == 1
    with pytest.raises(cs.RunConflictError):
        cluster.submit(value(n), run_id=other, params={"n": 2}).result(30)


def test_attach_again_by_run_id(cluster: cs.Cluster) -> None:
    first = cluster.submit([value(i) for i in range(10)])
    assert first.result(30) == list(range(10))
    assert cluster.attach(first.id).result(30) == list(range(10))


@pytest.mark.long
def test_a_graph_of_a_million_nodes(private_cluster: cs.Cluster) -> None:
    nodes = 1_000_000
    run = private_cluster.submit([value(i) for i in range(nodes)])
    result = run.result(900)
    assert len(result) == nodes
    assert result[-1] == nodes - 1
