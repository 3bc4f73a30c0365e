"""Large results: where they lie, who maps them, and what becomes of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cascade_dist as cs

pytestmark = pytest.mark.integration

MIB = 1 << 20


def inode_of(array: Any) -> int:
    """The inode of the file that an array is a view of; 0: it lies in memory of its own."""
    address = array.ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            region, _, _, _, inode = line.split()[:5]
            first, last = (int(end, 16) for end in region.split("-"))
            if first <= address < last:
                return int(inode)
    return 0


def meet(folder: str, count: int) -> None:
    """Waits until so many tasks have come here: then they run at the same time."""
    Path(folder, os.environ["CASCADE_NODE_ID"]).touch()
    deadline = time.monotonic() + 30
    while len(os.listdir(folder)) < count:
        assert time.monotonic() < deadline, "the others did not come"
        time.sleep(0.005)


@cs.task
def filled(number: float, size: int = MIB) -> Any:
    return np.full(size // 8, number)


@cs.task
def look(array: Any, folder: str) -> tuple[str, int, int, float]:
    """Worker, inode of the array and of a part of it, sum."""
    meet(folder, 2)
    return os.environ["CASCADE_WORKER_ID"], inode_of(array), inode_of(array[5:]), float(array.sum())


def test_all_workers_of_a_host_map_the_same_file(cluster: cs.Cluster, tmp_path: Path) -> None:
    array = filled(2.0)
    (first, *seen), (second, *also) = cluster.run([look(array, str(tmp_path)), look(array, str(tmp_path))])
    assert first != second
    assert seen == also
    assert seen[0]
    assert seen[0] == seen[1]
    assert seen[2] == MIB / 4


def test_files_are_used_again_along_a_chain(cluster: cs.Cluster) -> None:
    @cs.task
    def step(before: Any) -> Any:
        array, inodes = before
        return np.full(MIB // 8, array[0] + 1), [*inodes, inode_of(array)]

    seen: set[int] = set()
    for _ in range(20):  # what is released is free a moment later
        value: Any = (np.full(MIB // 8, 0.0), [])
        for _ in range(6):
            value = step(value)
        array, inodes = cluster.run(value)
        assert set(array.tolist()) == {6.0}
        assert 0 not in inodes[1:]
        again = seen.intersection(inodes[1:])
        seen.update(inodes[1:])
        if again:
            return
    raise AssertionError("nothing that was released was written again")


def test_an_array_of_another_task_is_read_only_and_the_error_says_what_to_do(cluster: cs.Cluster) -> None:
    @cs.task
    def change(array: Any) -> None:
        array[0] = 1.0

    @cs.task
    def change_a_copy(array: Any) -> float:
        array = array.copy()
        array[0] = 5.0
        return float(array[0])

    with pytest.raises(ValueError, match="read-only") as caught:
        cluster.run(change(filled(2.0)))
    assert any(".copy()" in note for note in caught.value.__notes__)
    assert cluster.run(change_a_copy(filled(2.0))) == 5.0


def test_a_task_that_keeps_an_array_keeps_its_values(cluster: cs.Cluster) -> None:
    @cs.task
    def keep(array: Any) -> None:
        import builtins

        builtins._kept = array  # type: ignore[attr-defined]

    @cs.task
    def kept() -> list[float]:
        import builtins

        time.sleep(0.05)
        found = getattr(builtins, "_kept", None)
        if found is None:
            return []
        del builtins._kept  # type: ignore[attr-defined]
        return sorted(set(found.tolist()))

    for _ in range(3):
        keeper = keep(filled(7.0))
        cluster.run(keeper)
        cluster.run([filled(float(number)) for number in range(6)])
        cluster.run(filled(1.0))
        found = cluster.run([kept() for _ in range(4)])
        assert [7.0] in found
        assert [numbers for numbers in found if numbers not in ([], [7.0])] == []
