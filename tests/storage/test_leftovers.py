"""What killed processes left: found by their process id, or by a lock that nobody holds; all else stays."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from cascade_dist.storage.leftovers import find_leftovers, remove_leftovers


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def make(path: Path, *files: str) -> Path:
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_bytes(b"x" * 10_000)
    return path


def test_directories_of_dead_processes_are_found_and_removed(tmp_path: Path) -> None:
    dead = dead_pid()
    gone = [make(tmp_path / f"cascade-{dead}-abc", "f"), make(tmp_path / f"cascade-blobs-{dead}-x1", "f")]
    stay = [
        make(tmp_path / f"cascade-{os.getpid()}-abc"),
        make(tmp_path / "cascade-notes-2024"),
        make(tmp_path / f"other-{dead}-abc"),
    ]
    (tmp_path / f"cascade-{dead}-link").symlink_to(stay[1])
    found = find_leftovers([tmp_path])
    assert [leftover.path for leftover in found] == gone
    assert all(leftover.bytes >= 10_000 for leftover in found)
    assert remove_leftovers(found) == found
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stay)


def test_a_worker_that_lives_holds_its_lock(tmp_path: Path) -> None:
    home = tmp_path / f"cascade-{os.getuid()}"
    dead, alive = make(home / "dead", "lock", "object"), make(home / "alive", "lock")
    making = make(home / "making")  # it has no lock yet
    with (alive / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find_leftovers([tmp_path, tmp_path / "nowhere"])
        assert [leftover.path for leftover in found] == [dead]
        assert remove_leftovers(found) == found
    assert not dead.exists()
    assert alive.exists()
    assert making.exists()


def test_what_is_used_again_meanwhile_stays(tmp_path: Path) -> None:
    path = make(tmp_path / f"cascade-{os.getuid()}" / "again", "lock")
    found = find_leftovers([tmp_path])
    with (path / "lock").open("rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_leftovers(found) == []
    assert path.exists()
