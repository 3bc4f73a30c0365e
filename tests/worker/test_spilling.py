"""Results move to the disk by themselves."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from cascade_worker import spilling
from cascade_worker.directories import Directories
from cascade_worker.objects import ObjectStore
from cascade_worker.spilling import Spiller

PIECE = 1 << 20


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is true."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
    """A store that holds 4 MiB in its first directory, and is kept within that."""
    monkeypatch.setattr(spilling, "_PAUSE", 0.01)
    made = ObjectStore(
        [Directories(tmp_path / name, "w") for name in ("fast", "slow")], bytes_max=(4 * PIECE, 8 * PIECE)
    )
    spiller = Spiller(made, lambda rooms: None)
    task = asyncio.create_task(spiller.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def write(store: ObjectStore, attempt: int) -> None:
    """A result, as an executor writes it."""
    path = Path(store.object_dirs[0]) / f"{attempt:016x}"
    path.write_bytes(attempt.to_bytes() * PIECE)
    store.add_made(attempt, PIECE)


def place_of(store: ObjectStore, attempt: int) -> str:
    """Where a result lies; it must be whole."""
    found = store.find(attempt)
    assert found is not None
    assert Path(found[0]).read_bytes() == attempt.to_bytes() * PIECE
    return "fast" if found[0].startswith(os.path.dirname(store.object_dirs[0])) else "slow"


async def test_the_oldest_move_and_are_read_from_there(store: ObjectStore) -> None:
    for attempt in range(1, 5):
        write(store, attempt)
    await until(lambda: not store.crowded)
    assert [place_of(store, attempt) for attempt in range(1, 5)] == ["slow", "fast", "fast", "fast"]
    for attempt in range(5, 9):
        write(store, attempt)
        await until(lambda: not store.crowded)
    assert [place_of(store, attempt) for attempt in range(1, 9)].count("fast") == 3
    for attempt in range(1, 9):
        store.release(attempt)
    assert [os.listdir(folder) for folder in store.object_dirs] == [[], []]


async def test_what_is_needed_moves_when_it_is_needed_no_more(store: ObjectStore) -> None:
    for attempt in range(1, 5):
        store.pin(attempt, 100)
        write(store, attempt)
    await asyncio.sleep(0.05)
    assert store.crowded
    store.unpin([100])
    await until(lambda: not store.crowded)


async def test_a_full_disk_is_told_once_and_nothing_is_lost(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = spilling.reserve
    tried = []

    def full(fd: int, size: int) -> None:
        tried.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spilling, "reserve", full)
    with caplog.at_level(logging.WARNING, "cascade.worker"):
        for attempt in range(1, 5):
            write(store, attempt)
        await until(lambda: len(tried) > 2)
    assert [record.getMessage() for record in caplog.records] == [
        "results above --object-memory cannot be moved to the disk: No space left on device"
    ]
    assert [place_of(store, attempt) for attempt in range(1, 5)] == ["fast"] * 4
    monkeypatch.setattr(spilling, "reserve", real)
    await until(lambda: not store.crowded)


async def test_what_is_released_while_it_moves_is_left(store: ObjectStore) -> None:
    for attempt in range(1, 4):
        write(store, attempt)
    short = Path(store.object_dirs[0]) / f"{4:016x}"
    short.write_bytes(b"x" * 100)  # as when its file is written again, or its pages are gone
    store.find(1)
    store.add_made(4, PIECE)
    for attempt in (1, 2, 3):
        store.find(attempt)
    await asyncio.sleep(0.05)
    store.release(4)
    write(store, 5)
    await until(lambda: not store.crowded)
    assert [place_of(store, attempt) for attempt in (1, 2, 3, 5)].count("slow") == 1
