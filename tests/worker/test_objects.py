"""The files that a worker keeps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cascade_worker.directories import Directories, default_object_dir
from cascade_worker.objects import ObjectStore


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store over two bases, with room for 100 bytes of cache."""
    bases = [Directories(tmp_path / name, "w") for name in ("fast", "slow")]
    return ObjectStore(bases, cache_bytes_max=100)


def made(store: ObjectStore, attempt: int, size: int = 10, place: int = 0) -> Path:
    """A result, as an executor writes it."""
    path = Path(store.object_dirs[place]) / f"{attempt:016x}"
    path.write_bytes(b"x" * size)
    store.add_made(attempt, size)
    return path


def cached(store: ObjectStore, key: int | bytes, size: int) -> Path:
    """A copy or blob, as a transfer leaves it."""
    path = Path(store.paths_for(key)[0])
    path.write_bytes(b"x" * size)
    store.add_cached(key, str(path), size)
    return path


def test_a_result_stays_until_it_is_released(store: ObjectStore) -> None:
    path = made(store, 7)
    assert store.find(7) == (str(path), 10)
    assert store.held() == [7]
    store.release(7)
    assert store.find(7) is None
    assert not path.exists()


def test_a_result_may_lie_in_the_second_directory(store: ObjectStore) -> None:
    path = made(store, 7, place=1)
    assert store.find(7) == (str(path), 10)


def test_a_release_waits_for_who_needs_it_here(store: ObjectStore) -> None:
    path = made(store, 7)
    store.pin(7, 100)
    store.pin(7, 101)
    store.release(7)
    store.unpin([100])
    assert path.exists()
    store.unpin([101])
    assert not path.exists()


def test_the_cache_is_bounded_and_keeps_what_was_used_last(store: ObjectStore) -> None:
    first, second = cached(store, 1, 40), cached(store, b"cid", 40)
    assert store.find(1)
    third = cached(store, 3, 40)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]


def test_copies_that_nobody_needs_go_after_a_while(store: ObjectStore) -> None:
    now = time.monotonic()
    for key in (1, 2, b"cid"):
        store.pin(key, 100)
        store.pin(key, 101 if key == 2 else 100)
    first, second, blob = cached(store, 1, 10), cached(store, 2, 10), cached(store, b"cid", 10)
    store.unpin([100])
    store.drop_idle(now)
    assert first.exists()
    store.drop_idle(now + 60)
    assert [path.exists() for path in (first, second, blob)] == [False, True, True]
    assert store.find(1) is None


def test_what_is_needed_stays_in_the_cache(store: ObjectStore) -> None:
    store.pin(1, 100)
    first, second = cached(store, 1, 80), cached(store, 2, 80)
    assert [path.exists() for path in (first, second)] == [True, False]
    store.unpin([100])
    third = cached(store, 3, 80)
    assert [path.exists() for path in (first, third)] == [False, True]


@pytest.fixture
def neighbour(tmp_path: Path) -> ObjectStore:
    """Another worker of the same host, whose id is `n`."""
    return ObjectStore([Directories(tmp_path / name, "n") for name in ("fast", "slow")])


@pytest.mark.parametrize("place", [0, 1])
def test_a_neighbours_result_is_linked_while_it_is_needed(
    store: ObjectStore, neighbour: ObjectStore, place: int
) -> None:
    path = made(neighbour, 7, place=place)
    assert store.link(7, 10, "n") is None, "nobody needs it"
    store.pin(7, 100)
    found = store.link(7, 10, "n")
    assert found is not None
    link = Path(found[0])
    assert link.samefile(path)
    assert store.find(7) == found
    neighbour.release(7)
    assert link.read_bytes() == b"x" * 10, "it outlives its maker's"
    store.unpin([100])
    assert store.find(7) is None
    assert not link.exists()


@pytest.mark.parametrize("maker", ["", "m", "..", "../n", "n/../n"])
def test_what_is_no_neighbour_is_not_linked(store: ObjectStore, neighbour: ObjectStore, maker: str) -> None:
    made(neighbour, 7)
    store.pin(7, 100)
    assert store.link(7, 10, maker) is None
    assert store.link(7, 11, "n") is None, "it is not what was meant"
    assert store.link(7, 10, "n")


def test_a_published_result_becomes_a_blob(store: ObjectStore) -> None:
    path = made(store, 7)
    store.publish(7, b"cid")
    assert not path.exists()
    assert store.find(7) is None
    found = store.find(b"cid")
    assert found is not None
    assert Path(found[0]).read_bytes() == b"x" * 10


def test_a_discarded_result_is_gone_wherever_it_was(store: ObjectStore) -> None:
    path = Path(store.object_dirs[1]) / f"{9:016x}"
    path.write_bytes(b"half")
    store.discard(9)
    assert not path.exists()


def test_everything_goes_at_the_end(store: ObjectStore, tmp_path: Path) -> None:
    made(store, 7)
    store.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_living_worker_is_not_swept(tmp_path: Path) -> None:
    living = Directories(tmp_path, "living")
    dead = Directories(tmp_path, "dead")
    os.close(dead._lock)
    Directories(tmp_path, "new")
    assert living.root.exists()
    assert not dead.root.exists()


def test_another_users_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(PermissionError, match="--object-dir"):
        Directories(tmp_path, "w")


def test_shared_memory_is_taken_only_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    assert default_object_dir(tmp_path) == tmp_path


# --- bounds -----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> ObjectStore:
    """A store that holds 100 bytes in its first and 50 in its second directory."""
    bases = [Directories(tmp_path / name, "w") for name in ("fast", "slow")]
    return ObjectStore(bases, bytes_max=(100, 50))


def test_the_room_is_what_bounds_leave(small: ObjectStore) -> None:
    told = []
    small.changed = lambda: told.append(small.rooms())
    made(small, 1, 60)
    made(small, 2, 20, place=1)
    cached(small, 3, 30)
    assert told == [[40, 50], [40, 30], [10, 30]]
    assert small.paths_for(9, 10)[0].startswith(str(small._directories[0].root))
    assert [path.split("/")[-5] for path in small.paths_for(9, 11)] == ["slow"]
    assert small.paths_for(9, 31) == []
    assert "--object-memory" in small.refusal(101)
    assert "--spill-max" in small.refusal(101)
    small.release(1)
    small.release(2)
    small.release(3)
    assert small.rooms() == [100, 50]


def test_what_is_used_least_moves_and_what_is_needed_stays(small: ObjectStore) -> None:
    for attempt in (1, 2, 3):
        made(small, attempt, 30)
    small.find(1)
    small.pin(2, 100)
    assert small.crowded
    moved = small.crowd_out()
    assert moved is not None
    assert moved.path.endswith("3")
    target = small.spill_path(moved)
    assert target is not None
    Path(target).write_bytes(b"x" * 30)
    assert small.spilled(moved, target)
    assert small.find(3) == (target, 30)
    assert not Path(moved.path).exists()
    assert small.rooms() == [40, 20]
    assert not small.crowded


def test_what_is_needed_or_released_meanwhile_does_not_move(small: ObjectStore) -> None:
    for attempt in (1, 2, 3):
        made(small, attempt, 30)
    moved = small.crowd_out()
    assert moved is not None
    small.pin(1, 100)
    assert not small.spilled(moved, "/elsewhere/0000000000000001")
    small.unpin([100])
    small.release(1)
    assert not small.spilled(moved, "/elsewhere/0000000000000001")


def test_copies_go_before_anything_moves(small: ObjectStore) -> None:
    made(small, 1, 40)
    path = cached(small, 2, 50)
    assert small.crowd_out() is None
    assert not path.exists()
    assert small.find(1)


def test_without_room_on_the_disk_nothing_moves(small: ObjectStore) -> None:
    made(small, 1, 90)
    moved = small.crowd_out()
    assert moved is not None
    assert small.spill_path(moved) is None
