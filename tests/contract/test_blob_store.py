"""What every blob store keeps to: in memory and in files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_scheduler.blobs.base import BlobError, BlobStore, BlobTooLarge, BlobWrong
from cascade_scheduler.blobs.choose import choose_blobs
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.blobs.memory import MemoryBlobStore

Make = Callable[[int], BlobStore]


@pytest.fixture(params=["memory", "files"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a store with a bound in bytes."""
    if request.param == "memory":
        return MemoryBlobStore
    return lambda bytes_max: FileBlobStore(tmp_path / "blobs", bytes_max)


async def put(store: BlobStore, data: bytes, cid: bytes | None = None, size: int | None = None) -> bytes:
    """Stores some bytes in small pieces; returns their CID."""
    cid = cid_of(data) if cid is None else cid
    upload = await store.begin(cid, len(data) if size is None else size)
    try:
        for start in range(0, len(data), 1000):
            await upload.write(data[start : start + 1000])
        await upload.finish()
    finally:
        await upload.abort()
    return cid


async def get(store: BlobStore, cid: bytes, piece_bytes: int = 1 << 20) -> bytes:
    """All bytes of a blob."""
    return b"".join([piece async for piece in store.read(cid, piece_bytes)])


def names(directory: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(os.listdir(directory)) if directory.exists() else []


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 262_144, 262_145, 600_000])
async def test_round_trip(make: Make, size: int) -> None:
    store = make(1 << 30)
    data = os.urandom(size)
    cid = await put(store, data)
    assert store.has(cid)
    assert store.size(cid) == size
    assert store.bytes_held == size
    assert await get(store, cid) == data
    assert [len(piece) for piece in [p async for p in store.read(cid, 262_144)]] == [
        *([262_144] * (size // 262_144)),
        *([size % 262_144] if size % 262_144 else []),
    ]


async def test_what_is_not_there(make: Make) -> None:
    store = make(1 << 20)
    assert not store.has(cid_of(b"x"))
    with pytest.raises(KeyError):
        await get(store, cid_of(b"x"))
    with pytest.raises(KeyError):
        store.size(cid_of(b"x"))


async def test_bytes_of_another_cid_are_refused(make: Make) -> None:
    store = make(1 << 20)
    with pytest.raises(BlobWrong, match=cid_to_text(cid_of(b"other"))):
        await put(store, b"bytes", cid_of(b"other"))
    with pytest.raises(BlobWrong, match="has 5 bytes, but 6 were announced"):
        await put(store, b"bytes", size=6)
    with pytest.raises(BlobWrong, match="more than the 4 bytes"):
        await put(store, b"bytes", size=4)
    assert not store.has(cid_of(b"other"))
    assert store.bytes_held == 0


async def test_an_upload_that_is_given_up_leaves_nothing(make: Make, tmp_path: Path) -> None:
    store = make(1 << 20)
    upload = await store.begin(cid_of(b"bytes"), 5)
    await upload.write(b"byt")
    assert store.bytes_held == 5
    await upload.abort()
    await upload.abort()
    assert store.bytes_held == 0
    assert not store.has(cid_of(b"bytes"))
    assert names(tmp_path / "blobs") == []


async def test_the_least_recently_used_goes_first(make: Make) -> None:
    store = make(30_000)
    a, b, c = [await put(store, bytes([number]) * 10_000) for number in range(3)]
    assert await get(store, a)
    d = await put(store, b"d" * 10_000)
    assert [store.has(cid) for cid in (a, b, c, d)] == [True, False, True, True]
    assert store.bytes_held == 30_000


async def test_what_is_in_use_stays(make: Make) -> None:
    store = make(30_000)
    a, b, c = [await put(store, bytes([number]) * 10_000) for number in range(3)]
    store.pin([a, b])
    store.pin([a])
    d = await put(store, b"d" * 10_000)
    assert [store.has(cid) for cid in (a, b, c, d)] == [True, True, False, True]
    with pytest.raises(BlobTooLarge, match=r"blob bafk.*19.5 KiB|--blob-bytes-max"):
        await put(store, b"e" * 20_000)
    assert store.has(d), "what does not fit pushes nothing out"
    store.unpin([a, b])
    await put(store, b"e" * 20_000)
    assert [store.has(cid) for cid in (a, b, d)] == [True, False, False]


async def test_one_larger_than_the_bound_is_refused(make: Make) -> None:
    with pytest.raises(BlobTooLarge, match="does not fit"):
        await put(make(1000), b"x" * 1001)


async def test_the_same_blob_twice_at_once(make: Make) -> None:
    store = make(1 << 20)
    data = os.urandom(5000)
    cids = await asyncio.gather(*(put(store, data) for _ in range(4)))
    assert await get(store, cids[0]) == data
    assert store.bytes_held == 5000


async def test_a_blob_that_goes_while_it_comes_again(make: Make) -> None:
    store = make(10_000)
    data = os.urandom(10_000)
    cid = await put(store, data)
    await put(store, b"x" * 10_000)
    assert not store.has(cid)
    await put(store, data)
    assert await get(store, cid) == data


# --- what is the files' own ----------------------------------------------------------------------


async def test_files_are_found_again_oldest_first(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    old, new = await put(store, b"a" * 100), await put(store, b"b" * 100)
    os.utime(tmp_path / cid_to_text(old), (1000, 1000))
    (tmp_path / "README").write_text("not a blob")
    (tmp_path / "dead.0123.partial").write_text("half")
    os.utime(tmp_path / "dead.0123.partial", (1000, 1000))
    again = FileBlobStore(tmp_path, 250)
    assert again.bytes_held == 200
    assert await get(again, new) == b"b" * 100
    await put(again, b"c" * 100)
    assert not again.has(old)
    assert [name for name in names(tmp_path) if not name.startswith("baf")] == ["README"]


async def test_a_file_that_somebody_deleted(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    cid = await put(store, b"bytes")
    (tmp_path / cid_to_text(cid)).unlink()
    with pytest.raises(KeyError):
        await get(store, cid)
    assert not store.has(cid)
    assert await get(store, await put(store, b"bytes")) == b"bytes"


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BlobError, match=r"file/blobs cannot be used.*--blob-dir"):
        FileBlobStore(tmp_path / "file" / "blobs", 1)


def test_where_blobs_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp" / "cascade-blobs-99999999-dead").mkdir(parents=True)
    with choose_blobs(None, state="memory://", bytes_max=1):
        (temporary,) = (tmp_path / "tmp").iterdir()
        assert temporary.name.startswith(f"cascade-blobs-{os.getpid()}-")
    assert not temporary.exists()
    for password in ("one", "two"):
        choose_blobs(None, state=f"redis://:{password}@host:1/0", bytes_max=1)
    choose_blobs(None, state="redis://host:1/1", bytes_max=1)
    assert len(list((tmp_path / "state" / "cascade" / "blobs").iterdir())) == 2
    with choose_blobs(str(tmp_path / "mine"), state="memory://", bytes_max=1):
        pass
    assert (tmp_path / "mine").is_dir()
    assert isinstance(choose_blobs("memory://", state="memory://", bytes_max=1).store, MemoryBlobStore)
