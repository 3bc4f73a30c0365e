"""The client against real processes: private clusters, handles, events, cancel, the asyncio twin."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import cascade_dist as cs
from cascade_dist.client import api
from tests.machine import wait_until

pytestmark = pytest.mark.integration


@cs.task
def add(a: int, b: int = 1) -> int:
    return a + b


@cs.task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@cs.task
def fail(text: str) -> None:
    raise ValueError(text)


@cs.task
def talk(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


# --- private clusters -----------------------------------------------------------------------------


def test_cs_run_starts_one_cluster_for_all_calls() -> None:
    assert cs.run(add(1)) == 2
    first = api._default
    assert first is not None
    assert cs.run([add(1), add(2)]) == [2, 3]
    assert api._default is first
    assert len(first.workers()) == 2
    pids = [worker.pid for worker in first.workers()]
    first.close()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert cs.run(add(5)) == 6
    assert api._default is not first
    assert api._default is not None
    api._default.close()


def test_a_scheduler_that_crashes_is_told_at_once() -> None:
    with cs.connect("local", workers=1) as cluster:
        run = cluster.submit(nap(60))
        wait_until(lambda: run.status == "running")
        assert cluster._local is not None
        started = time.monotonic()
        os.kill(cluster._local.pids["scheduler"], signal.SIGKILL)
        with pytest.raises(cs.RunLostError, match="the scheduler of the private cluster ended with code -9"):
            run.result(30)
        assert time.monotonic() - started < 10
        assert not cluster.usable


def test_workers_that_die_are_told_in_every_place() -> None:
    with cs.connect("local", workers=2, slots=2) as cluster:
        assert cluster._local is not None
        pids = cluster._local.pids
        run = cluster.submit(nap(60))
        wait_until(lambda: run.status == "running")
        os.kill(pids["worker-0"], signal.SIGKILL)
        assert cluster.run(add(1)) == 2, "the other one goes on"
        assert not cluster.usable
        started = time.monotonic()
        os.kill(pids["worker-1"], signal.SIGKILL)
        with pytest.raises(
            cs.RunLostError, match=r"worker-\d of the private cluster ended with code -9; connect"
        ):
            run.result(30)
        assert time.monotonic() - started < 5
        with pytest.raises(cs.ClusterClosedError, match=r"ended with code -9; connect again"):
            cluster.run(add(1))


@pytest.mark.parametrize("name", ["worker-1", "scheduler"])
def test_cs_run_replaces_a_cluster_whose_processes_died(name: str) -> None:
    assert cs.run(add(1)) == 2
    first = api._default
    assert first is not None
    assert first._local is not None
    process = dict(first._local._processes)[name]
    process.kill()
    process.wait(10)
    assert cs.run(add(2)) == 3
    assert api._default is not first
    assert first.closed
    assert api._default is not None
    api._default.close()


SCRIPT = """
import cascade_dist as cs
@cs.task
def hello(name):
    return f"hello {name}"
print(cs.run(hello("you")))
"""


def test_a_script_leaves_nothing(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello you\n", "")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import time
import cascade_dist as cs
cluster = cs.connect("local", workers=1)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_client_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.send_signal(number)
    wait_until(lambda: not list(tmp_path.iterdir()))


def test_other_users_cannot_use_it(private_cluster: cs.Cluster) -> None:
    with pytest.raises(cs.AuthenticationError, match="token"):
        cs.connect(private_cluster.address)
    with pytest.raises(cs.AuthenticationError, match="token"):
        cs.connect(private_cluster.address, token="guess")


# --- runs -----------------------------------------------------------------------------------------


def test_a_remote_traceback_shows_the_users_line(cluster: cs.Cluster) -> None:
    with pytest.raises(ValueError, match="no luck") as caught:
        cluster.run(add(fail("no luck")))
    assert isinstance(caught.value.__cause__, cs.RemoteTraceback)
    assert "raise ValueError(text)" in str(caught.value.__cause__)
    assert any("'fail'" in note for note in caught.value.__notes__)


def test_many_runs_as_they_complete(cluster: cs.Cluster) -> None:
    runs = {cluster.submit(add(i)): i for i in range(200)}
    for run in concurrent.futures.as_completed(runs, timeout=60):
        assert run.result() == runs[run] + 1


def test_lines_of_tasks_are_printed(cluster: cs.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.run(talk("hello"))
    captured = capsys.readouterr()
    assert captured.out.startswith("(talk ")
    assert captured.out.endswith(") hello\n")
    assert captured.err.endswith(") HELLO\n")
    cluster.run(talk("quiet"), logs=False)
    assert "quiet" not in capsys.readouterr().out


def test_events_of_a_run_that_goes_on(cluster: cs.Cluster) -> None:
    run = cluster.submit([nap(0.2), add(1)])
    kinds = [event.kind for event in run.events()]
    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunFinished"
    assert kinds.count("TaskExecutionFinished") == 2
    assert [event.event_id for event in run.events()] == sorted(event.event_id for event in run.events())
    assert run.result(10) == [0.2, 2]


def test_cancel_by_handle_and_by_id(cluster: cs.Cluster) -> None:
    first, second = cluster.submit(nap(60)), cluster.submit(nap(60))
    assert first.cancel()
    cluster.cancel(second.id)
    for run in (first, second):
        with pytest.raises(concurrent.futures.CancelledError):
            run.result(30)
    wait_until(lambda: cluster.status().nodes_running == 0)


def test_a_run_that_takes_too_long_is_cancelled(cluster: cs.Cluster) -> None:
    with pytest.raises(TimeoutError):
        cluster.run(nap(60), timeout=0.3)
    wait_until(lambda: cluster.status().runs_active == 0)


def test_what_the_cluster_says_of_runs(cluster: cs.Cluster) -> None:
    run = cluster.submit([add(1), add(2)], name="pair")
    run.result(10)
    info = cluster.describe(run.id).run
    assert (info.name, info.status, info.progress.done) == ("pair", "succeeded", 2)
    assert run.id in [found.run_id for found in cluster.runs()]
    assert [node.name for node in run.graph().nodes][:2] == ["add", "add"]
    assert cluster.status().workers == 2


# --- who goes and who stays -----------------------------------------------------------------------


def test_a_client_that_closes_takes_its_runs_along_but_not_detached_ones(cluster_address: str) -> None:
    with cs.connect(cluster_address) as watching:
        with cs.connect(cluster_address) as going:
            mine = going.submit(nap(30))
            detached = going.submit(nap(1), detach=True)
        assert mine.cancelled()
        wait_until(lambda: watching.describe(mine.id).run.status == "cancelled")
        assert watching.attach(detached.id).result(30) == 1


LEAVING = """
import os, sys, time
import cascade_dist as cs
from cascade_dist.client import submitting
submitting.GRACE_SECONDS = 0.5
@cs.task
def nap(s):
    import time
    time.sleep(s)
cluster = cs.connect(sys.argv[1], reconnect_timeout=float(sys.argv[2]))
run = cluster.submit(nap(60))
while run.status != "running":  # others are told its id when the scheduler knows it
    time.sleep(0.01)
print(run.id, flush=True)
sys.stdin.read()
"""


def test_a_client_that_is_killed_is_waited_for_and_then_its_run_ends(cluster_address: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", LEAVING, cluster_address, "0.1"]
    with (
        cs.connect(cluster_address) as watching,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as client,
    ):
        assert client.stdout is not None
        run_id = client.stdout.readline().strip()
        wait_until(lambda: watching.describe(run_id).run.status == "running")
        client.kill()
        client.wait()
        wait_until(lambda: watching.describe(run_id).run.status == "cancelled")


# --- asyncio --------------------------------------------------------------------------------------


def test_the_asyncio_twin(private_cluster: cs.Cluster) -> None:
    from cascade_dist.client.aio import AsyncCluster

    async def main() -> None:
        cluster = AsyncCluster(private_cluster)
        assert await cluster.run(add(1)) == 2
        runs = [await cluster.submit(add(i)) for i in range(20)]
        assert await asyncio.gather(*runs) == list(range(1, 21))
        kinds = [event.kind async for event in runs[0].events()]
        assert kinds[-1] == "RunFinished"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await cluster.run(nap(60))
        for _ in range(500):
            if (await cluster.status()).runs_active == 0:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("the run goes on")

    asyncio.run(main())
