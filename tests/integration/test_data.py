"""Values of any size, and who holds them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import cascade_dist as cs

pytestmark = pytest.mark.integration

MIB = 1 << 20
BIG = 200 * 1000 * 1000


@cs.task
def size(x: Any) -> int:
    return len(x)


@cs.task
def make(n: int) -> bytes:
    return os.urandom(1024) * (n // 1024)


@cs.task
def digest(x: Any) -> str:
    return hashlib.sha256(memoryview(x)).hexdigest()


def test_a_200_mb_result_and_a_200_mb_argument_never_stand_in_the_scheduler() -> None:
    with cs.connect(None, workers=2, slots=1) as cluster:
        assert cluster.run(size(b"warm")) == 4
        children = psutil.Process().children(recursive=True)
        scheduler = next(p for p in children if "cascade_scheduler" in " ".join(p.cmdline()))
        before = scheduler.memory_info().rss
        result = cluster.run(make(BIG))
        assert len(result) == BIG // 1024 * 1024
        argument = np.arange(BIG // 8, dtype=np.int64)
        assert cluster.run(digest(argument)) == hashlib.sha256(memoryview(argument)).hexdigest()
        assert scheduler.memory_info().rss - before < 120 * MIB


def test_many_lists_of_middling_size_are_one_task_s_inputs(cluster: cs.Cluster) -> None:
    @cs.task
    def part(n: int) -> bytes:
        return bytes(30_000)

    @cs.task
    def total(*lists: list[bytes]) -> int:
        return sum(len(part) for each in lists for part in each)

    # Each list is small enough to go along; all together are more than one message may have.
    lists = [part.map(n=[2 * i, 2 * i + 1]) for i in range(400)]
    assert cluster.run(total(*lists), timeout=60) == 400 * 2 * 30_000


@pytest.mark.parametrize("n", [0, 1, 65_000, 65_536, 66_000, MIB, 3 * MIB + 17])
def test_values_around_the_borders(cluster: cs.Cluster, n: int) -> None:
    data = bytes(range(256)) * (n // 256) + bytes(n % 256)
    assert cluster.run(digest(data)) == hashlib.sha256(data).hexdigest()

    @cs.task
    def echo(x: bytes) -> bytes:
        return x

    assert cluster.run(echo(echo(data))) == data
    assert cluster.run([echo(data), data]) == [data, data]


def test_arrays_pass_between_workers_and_are_read_only(cluster: cs.Cluster) -> None:
    @cs.task
    def ones(n: int) -> Any:
        return np.ones(n)

    @cs.task
    def look(a: Any) -> tuple[float, bool]:
        return float(a.sum()), bool(a.flags.writeable)

    @cs.task
    def both(xs: list[Any]) -> float:
        return float(sum(x.sum() for x in xs))

    arrays = [ones(100_000) for _ in range(6)]
    assert cluster.run(look(arrays[0])) == (100_000.0, False)
    assert cluster.run(both(arrays)) == 600_000.0
    assert cluster.run(both(ones.map(n=[100_000, 200_000]))) == 300_000.0


def test_a_value_many_share_is_sent_once(cluster: cs.Cluster) -> None:
    table = np.arange(200_000)

    @cs.task
    def pick(table: Any, i: int) -> int:
        return int(table[i])

    assert cluster.run(pick.map(table=cs.unmapped(table), i=list(range(50)))) == list(range(50))


def test_a_large_list_is_streamed(cluster: cs.Cluster) -> None:
    @cs.task
    def piece(i: int) -> bytes:
        return bytes([i % 256]) * 30_000

    assert cluster.run(size(piece.map(i=list(range(200))))) == 200


class Trap:
    """A pickle that writes a file wherever it is loaded."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return spring, (self.folder,)


def spring(folder: str) -> str:
    Path(folder, str(os.getpid())).touch()
    return "sprung"


def test_only_executors_load_what_users_send(tmp_path: Path) -> None:
    folder = tmp_path / "loaded"
    folder.mkdir()

    @cs.task
    def give(x: Any) -> int:
        return os.getpid()

    @cs.task
    def trap(folder: str) -> Any:
        return Trap(folder)

    trapped = Trap(str(folder))
    with cs.connect(None, workers=2, slots=1) as cluster:
        children = psutil.Process().children(recursive=True)
        commands = {p.pid: " ".join(p.cmdline()) for p in children}
        cluster.run([give(trapped), give([trap(str(folder))]), give.map(x=[trapped, trapped])])
        cluster.run(give(1).run_if(trap(str(folder))))
        loaded = {int(path.name) for path in folder.iterdir()}
        assert loaded, "executors loaded their arguments"
        for pid in loaded:
            assert "cascade_scheduler" not in commands.get(pid, ""), "the scheduler loaded a user's pickle"
        mains = {
            pid for pid, line in commands.items() if "cascade_worker" in line and "forkserver" not in line
        }
        assert not loaded & mains, "a worker's main process loaded a user's pickle"
