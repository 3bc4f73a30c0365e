"""What goes wrong in tasks and processes, and how it is told. Real processes, really killed."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import cascade_dist as cs
from tests.machine import wait_until

from .conftest import Journal

pytestmark = pytest.mark.integration


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@cs.task
def value(x: Any) -> Any:
    return x


@cs.task
def nap(seconds: float) -> None:
    time.sleep(seconds)


def test_a_segfault_is_lost_tried_again_and_then_told(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def crash(path: str) -> None:
        note(path, "try")
        os.kill(os.getpid(), signal.SIGSEGV)

    run = cluster.submit(crash(journal.path))
    with pytest.raises(cs.TaskLostError, match="SIGSEGV"):
        run.result(60)
    assert len(journal.lines()) == 3
    assert [type(e).__name__ for e in run.events()].count("TaskLost") == 3
    assert cluster.run(value(1)) == 1, "the cluster goes on"


def test_os_exit_names_its_code(cluster: cs.Cluster) -> None:
    @cs.task
    def leave() -> None:
        os._exit(3)

    with pytest.raises(cs.TaskLostError, match="code 3"):
        cluster.run(leave())


def test_sys_exit_is_a_failure_of_the_task(cluster: cs.Cluster) -> None:
    @cs.task
    def leave() -> None:
        sys.exit(4)

    with pytest.raises(cs.RemoteTaskError, match=r"^SystemExit: 4"):
        cluster.run(leave())
    assert cluster.run(value(1)) == 1


def test_a_timeout_stops_user_code_for_real(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def endless(path: str) -> None:
        note(path, str(os.getpid()))
        try:
            while True:
                time.sleep(0.01)
        finally:
            note(path, "finally")

    start = time.monotonic()
    with pytest.raises(cs.TaskTimeoutError, match=r"endless.*1\.5"):
        cluster.run(endless(journal.path).with_timeout(1.5))  # it has begun by then
    assert time.monotonic() - start < 10
    assert journal.lines()[-1] == "finally", "what the task opened, it closed"


def test_a_task_that_swallows_its_timeout_is_killed(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def stubborn(path: str) -> None:
        note(path, str(os.getpid()))
        while True:
            try:
                time.sleep(10)
            except BaseException:
                note(path, "no")

    with pytest.raises(cs.TaskTimeoutError):
        cluster.run(stubborn(journal.path).with_timeout(1.5))  # it has begun by then
    pid = int(journal.lines()[0])
    wait_until(lambda: not psutil.pid_exists(pid))


def test_cancel_stops_the_work(cluster: cs.Cluster, journal: Journal) -> None:
    @cs.task
    def endless(path: str) -> None:
        note(path, "started")
        try:
            while True:
                time.sleep(0.01)
        finally:
            note(path, "stopped")

    run = cluster.submit([endless(journal.path), value(1)])
    wait_until(lambda: "started" in journal.lines())
    assert run.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        run.result(20)
    wait_until(lambda: "stopped" in journal.lines())
    [finish] = [e for e in run.events() if type(e).__name__ == "RunFinished"]
    assert finish.status == "Cancelled"


def test_an_async_task_is_cancelled_and_timed_out(cluster: cs.Cluster) -> None:
    @cs.task
    async def endless() -> None:
        import asyncio

        await asyncio.sleep(1000)

    with pytest.raises(cs.TaskTimeoutError):
        cluster.run(endless().with_timeout(0.2))


def test_what_tasks_print_reaches_the_client(capfd: pytest.CaptureFixture[str], cluster: cs.Cluster) -> None:
    @cs.task
    def talk() -> None:
        print("from python")
        os.system("echo from a child")

    run = cluster.submit(talk(), logs=True)
    run.result(30)
    texts = [e.text for e in run.events() if type(e).__name__ == "LogLine"]
    assert "from python" in texts
    assert "from a child" in texts


def test_executors_import_no_grpc() -> None:
    @cs.task
    def loaded() -> list[str]:
        return [name for name in ("grpc", "redis", "aiohttp") if name in sys.modules]

    with cs.connect(None, workers=1, slots=1) as cluster:  # others have tasks of modules that import them
        assert cluster.run(loaded()) == []


def test_a_killed_worker_costs_nothing_but_time() -> None:
    with cs.connect(None, workers=2, slots=1) as cluster:
        run = cluster.submit([nap(0.2) for _ in range(20)])
        time.sleep(0.5)
        victim = cluster.workers()[0]
        os.kill(victim.pid, signal.SIGKILL)
        assert run.result(60) == [None] * 20
        assert "TaskLost" in [type(e).__name__ for e in run.events()]


def test_large_objects_of_a_killed_worker_are_made_again() -> None:
    @cs.task
    def block(i: int) -> bytes:
        return bytes([i]) * 1_000_000

    @cs.task
    def join(blocks: list[bytes], _: None) -> int:
        return sum(len(b) for b in blocks)

    with cs.connect(None, workers=2, slots=1) as cluster:
        run = cluster.submit(join([block(i) for i in range(8)], nap(3.0)))
        time.sleep(1.5)
        os.kill(cluster.workers()[0].pid, signal.SIGKILL)
        assert run.result(60) == 8_000_000


def test_a_frozen_worker_that_comes_back_is_no_harm(journal: Journal) -> None:
    with cs.connect(None, workers=2, slots=1) as cluster:
        run = cluster.submit([nap(0.3) for _ in range(12)])
        time.sleep(0.4)
        victim = cluster.workers()[0]
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            assert run.result(90) == [None] * 12
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        assert cluster.run(value(5)) == 5
        wait_until(lambda: len(cluster.workers()) == 2)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_private_cluster_ends_with_its_client_even_when_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = tmp_path / "program.py"
    program.write_text(
        "import time, pathlib\n"
        "import cascade_dist as cs\n"
        "@cs.task\n"
        "def hang():\n"
        "    import pathlib, time\n"
        f"    pathlib.Path({str(ready)!r}).write_text('x')\n"
        "    time.sleep(1000)\n"
        "cs.run(hang())\n"
    )
    client = subprocess.Popen([sys.executable, str(program)])
    try:
        wait_until(ready.exists, 60)
        started = descendants(client.pid)
        assert len(started) >= 3
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started), 20)


def test_ctrl_c_in_the_client_stops_its_work(tmp_path: Path, journal: Journal) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import cascade_dist as cs\n"
        "@cs.task\n"
        "def hang(path):\n"
        "    import time\n"
        "    open(path, 'a').write('started\\n')\n"
        "    try:\n"
        "        time.sleep(1000)\n"
        "    finally:\n"
        "        open(path, 'a').write('stopped\\n')\n"
        f"cs.run(hang({journal.path!r}))\n"
    )
    client = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: "started" in journal.lines(), 60)
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=30)
    finally:
        client.kill()
    assert client.returncode != 0
    assert "KeyboardInterrupt" in errors
    wait_until(lambda: "stopped" in journal.lines())
