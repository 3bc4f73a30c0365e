"""Workers whose object store is small, full, or gone with its worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
import pytest

import cascade_dist as cs
from tests.machine import wait_until
from tests.worker.tmpfs import on_tmpfs

from .conftest import Journal, note

pytestmark = pytest.mark.integration

MIB = 1 << 20


class Processes:
    """A scheduler, and workers with flags of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        ready = folder / "ready.json"
        self.scheduler = self._start("cascade_scheduler", "--port", "0", "--ready-file", str(ready))
        wait_until(ready.exists)
        self.address: str = json.loads(ready.read_text())["address"]

    def _start(self, module: str, *arguments: str, prefix: list[str] | None = None) -> Any:
        command = [*(prefix or []), sys.executable, "-m", module, *arguments, "--log-level", "warning"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def worker(self, *flags: str, name: str = "w", prefix: list[str] | None = None) -> Path:
        """Starts a worker with one slot, below a folder of its own; returns that."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        places = ["--object-dir", str(folder / "memory"), "--local-dir", str(folder / "disk")]
        given = [self.address, "--slots", "1", "--name", name, *places, *flags]
        self.workers.append(self._start("cascade_worker", *given, prefix=prefix))
        return folder

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in (*self.workers, self.scheduler):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A scheduler without workers."""
    made = Processes(tmp_path)
    yield made
    made.close()


@cs.task
def filled(number: int, size: int = MIB) -> Any:
    return np.full(size // 8, float(number))


@cs.task
def total(arrays: list[Any]) -> list[float]:
    return [float(array.mean()) for array in arrays]


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_above_the_bound_lies_on_the_disk_and_is_read_from_there(processes: Processes) -> None:
    folder = processes.worker("--object-memory", "8MiB")
    with cs.connect(processes.address) as cluster:
        arrays = [filled(number) for number in range(30)]

        @cs.task
        def measure(arrays: list[Any]) -> tuple[int, int]:
            return bytes_below(folder / "memory"), bytes_below(folder / "disk")

        memory, disk = cluster.run(measure(arrays))
        assert memory <= 9 * MIB
        assert disk >= 20 * MIB
        assert cluster.run(total(arrays)) == [float(number) for number in range(30)]


@pytest.mark.parametrize("where", ["flags", "tmpfs"])
def test_what_is_larger_than_the_store_is_refused_by_name_and_the_worker_goes_on(
    processes: Processes, lacking: Callable[[str], NoReturn], where: str
) -> None:
    if where == "flags":
        processes.worker("--object-memory", "4MiB", "--spill-max", "5MiB")
        words = ["4,194,304 bytes: --object-memory", "5,242,880 bytes: --spill-max"]
    else:
        small = processes.folder / "small"
        small.mkdir()
        processes.worker(name="small", prefix=on_tmpfs(small, lacking))
        words = ["memory", "No space left on device", "disk"]
    with cs.connect(processes.address) as cluster:
        assert cluster.run(total([filled(1)])) == [1.0]
        with pytest.raises(cs.StoreFullError) as caught:
            cluster.run(total([filled(2, 9 * MIB)]))
        text = str(caught.value)
        for word in ["the result of 'filled' has 9,43", "--object-dir", *words]:
            assert word in text
        assert cluster.run(total([filled(number) for number in range(4)])) == [0.0, 1.0, 2.0, 3.0]
        assert processes.workers[0].poll() is None


def test_an_input_that_cannot_be_kept_fails_its_task_by_name(processes: Processes) -> None:
    processes.worker("--resources", "maker=1", name="maker")
    processes.worker("--resources", "user=1", "--object-memory", "1MiB", "--spill-max", "1MiB", name="user")
    with cs.connect(processes.address) as cluster:
        wait_until(lambda: len(cluster.workers()) == 2)
        array = filled(1, 4 * MIB).with_constraints(maker=1)
        with pytest.raises(cs.StoreFullError, match=r"'total': an input of 4,194,\d+ bytes .*--spill-max"):
            cluster.run(total([array]).with_constraints(user=1))
        small = filled(2, MIB // 2).with_constraints(maker=1)
        assert cluster.run(total([small]).with_constraints(user=1)) == [2.0]


def test_what_a_killed_holder_had_is_made_again_and_nothing_else(
    processes: Processes, journal: Journal
) -> None:
    @cs.task
    def source(path: str) -> int:
        note(path, "source")
        return 3

    @cs.task
    def large(number: int, path: str) -> Any:
        note(path, "large")
        return np.full(MIB // 8, float(number))

    @cs.task
    def gate(path: str) -> None:
        note(path, "gate")
        while not os.path.exists(f"{path}.open"):
            time.sleep(0.01)

    @cs.task
    def use(array: Any, after: None) -> float:
        return float(array.mean())

    processes.worker("--resources", "maker=1", name="maker")
    processes.worker("--resources", "user=1", name="user")
    path = journal.path
    with cs.connect(processes.address) as cluster:
        wait_until(lambda: len(cluster.workers()) == 2)
        small = source(path).with_constraints(user=1)
        array = large(small, path).with_constraints(maker=1)
        run = cluster.submit(use(array, gate(path).with_constraints(user=1)).with_constraints(user=1))
        wait_until(lambda: sorted(journal.lines()) == ["gate", "large", "source"])
        time.sleep(0.3)  # so that the report of the large one is taken
        processes.workers[0].kill()
        processes.worker("--resources", "maker=1", name="maker2")
        Path(f"{path}.open").touch()
        assert run.result(90) == 3.0
        assert sorted(journal.lines()) == ["gate", "large", "large", "source"]


def test_a_worker_with_a_copy_takes_the_place_of_a_killed_maker(
    processes: Processes, journal: Journal
) -> None:
    @cs.task
    def large(path: str) -> Any:
        note(path, "large")
        return np.full(MIB // 8, 3.0)

    @cs.task
    def gate(array: Any, path: str) -> None:
        note(path, "copied")
        while not os.path.exists(f"{path}.open"):
            time.sleep(0.01)

    @cs.task
    def use(array: Any, after: None) -> float:
        return float(array.mean())

    processes.worker("--resources", "maker=1", name="maker")
    processes.worker("--resources", "user=1", name="user")
    path = journal.path
    with cs.connect(processes.address) as cluster:
        wait_until(lambda: len(cluster.workers()) == 2)
        array = large(path).with_constraints(maker=1)
        after = gate(array, path).with_constraints(user=1)
        run = cluster.submit(use(array, after).with_constraints(user=1))
        wait_until(lambda: journal.lines() == ["large", "copied"])
        processes.workers[0].kill()
        wait_until(lambda: len(cluster.workers()) == 1)
        Path(f"{path}.open").touch()
        assert run.result(60) == 3.0
        assert journal.lines() == ["large", "copied"]


def test_what_dead_workers_left_is_removed_at_the_next_start(processes: Processes) -> None:
    folder = processes.worker()
    with cs.connect(processes.address) as cluster:
        cluster.run(total([filled(1)]))
        run = cluster.submit(filled(2, 2 * MIB))
        run.result()
        dead = processes.workers[0]
        below = psutil.Process(dead.pid).children(recursive=True)
        roots = [path for place in ("memory", "disk") for path in (folder / place).glob("cascade-*/*")]
        assert len(roots) == 2
        for process in below:  # the fork server would clean up
            process.kill()
        dead.kill()
        dead.wait()
        assert all(root.exists() for root in roots)
        processes.worker()
        assert cluster.run(total([filled(3)])) == [3.0]
        assert not any(root.exists() for root in roots)


def test_the_scheduler_does_not_grow_with_what_passes_between_workers(processes: Processes) -> None:
    @cs.task
    def step(before: Any) -> Any:
        return np.full(8 * MIB // 8, before[0] + 1)

    processes.worker("--resources", "maker=1", name="maker")
    processes.worker("--resources", "user=1", name="user")
    scheduler = psutil.Process(processes.scheduler.pid)

    def pass_on(steps: int) -> float:
        value: Any = np.zeros(1)
        for number in range(steps):
            amounts = {("maker", "user")[number % 2]: 1}
            value = step(value).with_constraints(**amounts)
        return float(cluster.run(total([value]))[0])

    with cs.connect(processes.address) as cluster:
        wait_until(lambda: len(cluster.workers()) == 2)
        assert pass_on(4) == 4.0
        before = scheduler.memory_info().rss
        assert pass_on(60) == 60.0
        assert scheduler.memory_info().rss - before < 16 * MIB
