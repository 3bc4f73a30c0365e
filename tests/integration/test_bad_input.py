"""Bad input: each gets an error that names the thing and the remedy; nothing hangs."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import psutil
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


MILLION = 1_000_000


@pytest.mark.timeout(400)
def test_a_graph_of_a_million_nodes_is_taken_as_a_stream() -> None:
    @cs.task
    def nap() -> None:
        time.sleep(1000)

    with cs.connect(None, workers=1, slots=1) as cluster:
        cluster.run(value(1))
        client = psutil.Process()
        scheduler = next(p for p in client.children(recursive=True) if "cascade_scheduler" in p.cmdline())
        targets = [value(0).after(nap())]
        targets += [value(i).after(targets[0]) for i in range(1, MILLION)]
        before = client.memory_info().rss, scheduler.memory_info().rss
        run = cluster.submit(targets)
        grown = client.memory_info().rss - before[0], scheduler.memory_info().rss - before[1]
        assert max(grown) < 1 << 30, f"client and scheduler grew by {grown} bytes"
        assert run.progress.total == MILLION + 1 or not run.progress.total
        assert run.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            run.result(120)
        assert cluster.run(value(2)) == 2


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_graph_of_a_million_nodes_runs(private_cluster: cs.Cluster) -> None:
    result = private_cluster.run([value(i) for i in range(MILLION)])
    assert len(result) == MILLION
    assert result[-1] == MILLION - 1


def test_a_cluster_is_not_started_within_a_cluster(cluster: cs.Cluster) -> None:
    @cs.task
    def nested() -> Any:
        return cs.run(value(1))

    with pytest.raises(cs.CascadeError, match="address"):
        cluster.run(nested())


def test_a_script_without_a_main_guard_does_not_multiply(tmp_path: Path) -> None:
    script = tmp_path / "unguarded_script.py"
    script.write_text(
        "import cascade_dist as cs\n"
        "@cs.task\n"
        "def one():\n"
        "    return 1\n"
        "target = one()\n"
        "print(cs.run(one()))\n"
    )
    program = "import unguarded_script as u, cascade_dist as cs\ncs.run(u.target)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "__main__" in done.stderr
