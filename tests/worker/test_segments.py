"""Files of released results that are written again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from cascade_dist.codec.values import Packed, dump_inline_or_packed, load
from cascade_worker.directories import Directories
from cascade_worker.executor.files import map_file
from cascade_worker.executor.segments import ObjectWriter, claim, fit
from cascade_worker.objects import ObjectStore

from .tmpfs import ROOT, run_on_tmpfs

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store over two bases, which keeps at most 4 MiB of free segments."""
    return ObjectStore(
        [Directories(tmp_path / name, "w") for name in ("fast", "slow")], free_bytes_max=4 * MIB
    )


def packed(number: float, size: int = MIB) -> Packed:
    """An array as a result."""
    made = dump_inline_or_packed(np.full(size // 8, number))
    assert isinstance(made, Packed)
    return made


class Bench:
    """Writes results as executors do, and releases them."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.writer = ObjectWriter()
        self.directory = store.object_dirs[0]

    def write(self, attempt: int, number: float, size: int = MIB, writer: ObjectWriter | None = None) -> Path:
        payload = packed(number, size)
        path = (writer or self.writer).write(self.directory, f"{attempt:016x}", payload)
        self.store.add_made(attempt, payload.size)
        return Path(path)

    def free(self) -> list[Path]:
        return sorted(Path(self.directory).with_name("free").iterdir())


@pytest.fixture
def bench(store: ObjectStore) -> Bench:
    """A writer into the store's first directory."""
    return Bench(store)


def numbers(path: Path) -> set[float]:
    """What a stored array consists of."""
    return set(load(map_file(str(path))).tolist())


def test_a_released_file_is_written_again(bench: Bench) -> None:
    first = bench.write(1, 1.0)
    inode = first.stat().st_ino
    bench.store.release(1)
    assert not first.exists()
    for attempt in (2, 3, 4):  # the first of them maps it, the others have it mapped
        path = bench.write(attempt, float(attempt))
        assert path.stat().st_ino == inode
        assert numbers(path) == {float(attempt)}
        assert not bench.free()
        bench.store.release(attempt)


@pytest.mark.parametrize("size", [MIB // 2 + 4096, MIB - 8192, MIB + 8192, 2 * MIB - 4096])
def test_a_file_is_made_to_fit(bench: Bench, size: int) -> None:
    inode = bench.write(1, 1.0).stat().st_ino
    bench.store.release(1)
    path = bench.write(2, 2.0, size)
    assert path.stat().st_ino == inode
    assert path.stat().st_size == packed(2.0, size).size
    assert numbers(path) == {2.0}
    bench.store.release(2)
    again = bench.write(3, 3.0, MIB)
    assert again.stat().st_ino == inode
    assert numbers(again) == {3.0}


@pytest.mark.parametrize("size", [MIB // 3, 3 * MIB])
def test_a_file_of_another_size_is_left_alone(bench: Bench, size: int) -> None:
    bench.write(1, 1.0)
    bench.store.release(1)
    bench.write(2, 2.0, size)
    assert len(bench.free()) == 1


def test_a_result_that_grows_a_little_is_written_into_the_same_map(bench: Bench) -> None:
    bench.write(1, 0.0, 2 * MIB)
    bench.store.release(1)
    maps: list[int] = []
    for attempt in range(2, 12):  # 64 bytes more each time
        path = bench.write(attempt, float(attempt), 2 * MIB + 64 * attempt)
        assert numbers(path) == {float(attempt)}
        maps += map(id, bench.writer._kept.values())
        bench.store.release(attempt)
        found = os.stat(bench.free()[0])
        assert found.st_blocks * 512 - found.st_size < 65_536, "what the map has room for takes no memory"
    assert len(set(maps)) == 1


def test_only_what_a_file_lacks_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[tuple[int, int]] = []
    reserve = os.posix_fallocate

    def note(fd: int, begin: int, size: int) -> None:
        reserved.append((begin, size))
        reserve(fd, begin, size)

    monkeypatch.setattr(os, "posix_fallocate", note)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for size in (MIB, MIB, MIB + 64, MIB // 2, MIB):
            fit(fd, size)
            assert os.fstat(fd).st_size == size
        os.ftruncate(fd, 0)
        os.ftruncate(fd, MIB)  # a hole: nothing of it is there
        fit(fd, MIB + 1)
    finally:
        os.close(fd)
    half = MIB // 2
    assert reserved == [(0, MIB), (MIB, 64), (half, MIB - half), (0, MIB + 1)]


def test_what_somebody_has_mapped_is_not_written_again(bench: Bench) -> None:
    path = bench.write(1, 1.0)
    inode = path.stat().st_ino
    held = load(map_file(str(path)))
    bench.store.release(1)
    assert bench.write(2, 2.0).stat().st_ino != inode
    assert set(held.tolist()) == {1.0}
    del held
    assert bench.write(3, 3.0).stat().st_ino == inode


def test_what_another_worker_has_linked_is_not_written_again(bench: Bench, tmp_path: Path) -> None:
    path = bench.write(1, 1.0)
    link = tmp_path / "link"
    os.link(path, link)
    bench.store.release(1)
    assert bench.write(2, 2.0).stat().st_ino != link.stat().st_ino
    assert numbers(link) == {1.0}
    link.unlink()
    bench.write(3, 3.0)
    assert not bench.free()


def test_a_path_that_was_released_cannot_be_mapped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write(1, 1.0)
    opened = os.open(path, os.O_RDONLY)
    bench.store.release(1)
    monkeypatch.setattr(os, "open", lambda *args: opened)  # it was opened just before
    with pytest.raises(FileNotFoundError, match="released while it was opened"):
        map_file(str(path))


def test_two_writers_never_take_the_same_file(bench: Bench) -> None:
    bench.write(1, 1.0)
    bench.store.release(1)
    other = ObjectWriter()
    first, second = bench.write(2, 2.0), bench.write(3, 3.0, writer=other)
    assert first.stat().st_ino != second.stat().st_ino
    assert (numbers(first), numbers(second)) == ({2.0}, {3.0})
    bench.store.release(2)
    third = bench.write(
        4, 4.0, MIB // 2 + 4096, writer=other
    )  # shorter than the map that the first one keeps
    bench.store.release(4)
    fourth = bench.write(5, 5.0)
    assert third.name != fourth.name
    assert numbers(fourth) == {5.0}


def test_free_files_are_bounded_and_the_oldest_go(bench: Bench) -> None:
    for attempt in range(1, 8):
        bench.write(attempt, 1.0)
    for attempt in range(1, 8):
        bench.store.release(attempt)
    assert sum(path.stat().st_size for path in bench.free()) <= 4 * MIB
    assert {path.name.partition("-")[2] for path in bench.free()} == {"5", "6", "7"}


def test_free_files_go_when_nobody_needs_them(bench: Bench) -> None:
    path = bench.write(1, 1.0)
    held = os.open(path, os.O_RDONLY)
    bench.store.release(1)
    bench.store.trim_free(older_than=time.time() - 60)
    assert bench.free()
    bench.store.trim_free(older_than=time.time() + 60)
    assert not bench.free()
    assert os.fstat(held).st_size == 0, "its pages are gone although somebody has it open"
    os.close(held)


def test_a_file_that_is_being_written_is_not_removed(bench: Bench, tmp_path: Path) -> None:
    bench.write(1, 1.0)
    bench.store.release(1)
    claimed = claim(bench.directory, MIB)
    assert claimed is not None
    fd, path = claimed
    bench.store.trim_free(older_than=time.time() + 60)
    assert os.path.exists(path)
    os.close(fd)
    held = map_file(path)
    bench.store.trim_free(older_than=time.time() + 60)
    assert not bench.free()
    assert set(load(held).tolist()) == {1.0}, "who reads it keeps it"


def test_a_failed_write_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, at: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        bench.write(1, 1.0)
    assert list(Path(bench.directory).iterdir()) == []


def test_small_files_and_those_of_a_single_directory_are_removed(bench: Bench, tmp_path: Path) -> None:
    bench.write(1, 1.0, 100_000)
    bench.store.release(1)
    assert not bench.free()
    only = Bench(ObjectStore([Directories(tmp_path / "only", "w")]))
    only.write(1, 1.0)
    only.store.release(1)
    assert not only.free()


SMALL = """
import errno, os, sys
import numpy as np
from cascade_dist.codec.values import dump_inline_or_packed, load
from cascade_worker.executor.files import map_file
from cascade_worker.executor.segments import ObjectWriter, claim, fit

room = sys.argv[1]
for name in ("objects", "free"):
    os.mkdir(os.path.join(room, name))
objects, writer = os.path.join(room, "objects"), ObjectWriter()
def write(name, mib):
    return writer.write(objects, name, dump_inline_or_packed(np.ones(mib << 17)))
first = write("1", 5)
assert load(map_file(first)).sum() == 5 << 17
for name, mib in (("2", 5), ("3", 9)):
    try:
        write(name, mib)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("there was room")
assert os.listdir(objects) == ["1"], os.listdir(objects)
os.rename(first, os.path.join(room, "free", f"{os.stat(first).st_size:x}-1"))
try:
    write("4", 9)  # the free one may grow to it, but there is no room
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("there was room")
print(write("5", 5))
"""


def test_a_full_file_system_is_an_error_and_no_sigbus(
    tmp_path: Path, lacking: Callable[[str], NoReturn]
) -> None:
    done = run_on_tmpfs(SMALL, tmp_path, lacking)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "objects" / "5")]


MANY = """
import resource, sys
from cascade_worker.executor.files import map_file
path, hard = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
maps = []
try:
    for _ in range(100):
        maps.append(map_file(path))
except OSError as error:
    print(error)
print(len(maps))
"""


@pytest.mark.parametrize("hard", [60, 400])
def test_many_maps_take_what_the_hard_limit_of_files_allows(tmp_path: Path, hard: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 5000)
    command = [sys.executable, "-c", MANY, str(path), str(hard)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "worker")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert not done.stderr
    *errors, count = done.stdout.splitlines()
    if hard == 400 or sys.version_info >= (3, 13):
        assert (errors, count) == ([], "100")
    else:
        assert "there may be 60 (ulimit -n)" in errors[0]
        assert int(count) < 60
