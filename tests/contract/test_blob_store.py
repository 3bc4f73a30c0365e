"""What every blob store keeps to: in memory, in files, and in IPFS."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.errors import ConfigError
from cascade_dist.storage.kubo import Kubo
from cascade_scheduler.blobs.base import BlobError, BlobMended, BlobStore, BlobTooLarge, BlobWrong
from cascade_scheduler.blobs.choose import choose_blobs
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.blobs.ipfs import IpfsBlobStore
from cascade_scheduler.blobs.memory import MemoryBlobStore

Make = Callable[[int], BlobStore]


@pytest.fixture(params=["memory", "files", "ipfs"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a store with a bound in bytes."""
    directory = tmp_path / "blobs"
    if request.param == "memory":
        yield MemoryBlobStore
    elif request.param == "files":
        yield lambda bytes_max: FileBlobStore(directory, bytes_max)
    else:
        url, made = request.getfixturevalue("kubo"), []

        def in_ipfs(bytes_max: int) -> BlobStore:
            made.append(
                IpfsBlobStore(FileBlobStore(directory, bytes_max), url, name="contract", temporary=True)
            )
            return made[-1]

        yield in_ipfs
        for store in made:
            await store.close()


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


async def take(store: BlobStore, cid: bytes, into: list[bytes]) -> None:
    """Reads a blob piece by piece."""
    async for piece in store.read(cid):
        into.append(piece)  # noqa: PERF401 - what came before an error counts


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


async def test_what_nobody_needs_is_collected_after_a_while(make: Make) -> None:
    store = make(1 << 20)
    await store.open()
    used, kept, named, idle, fresh = [await put(store, bytes([number]) * 1000) for number in range(5)]
    store.pin([used])
    await store.keep(kept)
    assert await store.collect({named}, idle_seconds=3600) == (0, 0), "all are fresh"
    assert await store.collect({named, fresh}, idle_seconds=0, dry_run=True) == (1, 1000)
    assert store.has(idle)
    assert await store.collect({named, fresh}, idle_seconds=0) == (1, 1000)
    assert [store.has(cid) for cid in (used, kept, named, idle, fresh)] == [True, True, True, False, True]
    assert {info.cid: (info.in_use, info.kept) for info in store.listing()} == {
        used: (True, False),
        kept: (False, True),
        named: (False, False),
        fresh: (False, False),
    }
    store.unpin([used])
    assert await store.let_go(kept)
    assert not await store.let_go(kept)
    assert await store.collect(set(), idle_seconds=0) == (4, 4000)
    assert store.bytes_held == 0
    assert store.listing() == []


async def test_what_is_kept_is_no_room_for_others(make: Make) -> None:
    store = make(10_000)
    cid = await put(store, b"a" * 9_000)
    await store.keep(cid)
    with pytest.raises(BlobTooLarge, match="cascade blobs unpin"):
        await put(store, b"b" * 2_000)
    with pytest.raises(KeyError):
        await store.keep(cid_of(b"nothing"))
    await store.let_go(cid)
    await put(store, b"b" * 2_000)
    assert not store.has(cid)


async def test_find_knows_what_has_knows(make: Make) -> None:
    store = make(1 << 20)
    cid = await put(store, b"bytes")
    assert await store.find(cid) == 5
    assert await store.find(cid_of(b"other")) is None


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


async def test_pins_outlive_the_store(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    kept, free = await put(store, b"a" * 100), await put(store, b"b" * 100)
    await store.keep(kept)
    again = FileBlobStore(tmp_path, 1 << 20)
    assert await again.collect((), idle_seconds=0) == (1, 100)
    assert [again.has(cid) for cid in (kept, free)] == [True, False]


async def test_the_grace_runs_from_the_last_use_also_after_a_restart(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    old, used = await put(store, b"a" * 100), await put(store, b"b" * 100)
    for cid in (old, used):
        os.utime(tmp_path / cid_to_text(cid), (1000, 1000))
    store.pin([used])
    store.unpin([used])
    again = FileBlobStore(tmp_path, 1 << 20)
    assert await again.collect((), idle_seconds=60) == (1, 100)
    assert [again.has(cid) for cid in (old, used)] == [False, True]


@pytest.mark.parametrize("change", [b"", b"short", b"x" * 3_000_000])
async def test_bytes_that_changed_on_disk_are_refused(tmp_path: Path, change: bytes) -> None:
    store = FileBlobStore(tmp_path, 64 << 20)
    cid = await put(store, b"y" * 3_000_000)
    (tmp_path / cid_to_text(cid)).write_bytes(change)
    pieces: list[bytes] = []
    with pytest.raises(BlobWrong, match=f"{cid_to_text(cid)} has changed on disk.*{tmp_path}"):
        await take(store, cid, pieces)
    assert sum(map(len, pieces)) < max(1, len(change)), "the last piece is held back until all are checked"
    assert not store.has(cid)
    assert names(tmp_path) == []
    assert await get(store, await put(store, b"y" * 3_000_000)) == b"y" * 3_000_000


async def test_a_blob_that_another_scheduler_has_put_is_found(tmp_path: Path) -> None:
    store, other = FileBlobStore(tmp_path, 1 << 20), FileBlobStore(tmp_path, 1 << 20)
    first, second = await put(other, b"one"), await put(other, b"two!")
    assert not store.has(first)
    assert await store.find(first) == 3
    assert store.has(first)
    await store.open()
    assert store.has(second)


async def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"now": False}

    def fallocate(fd: int, offset: int, size: int) -> None:
        if full["now"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    store = FileBlobStore(tmp_path, 1 << 20)
    cid = await put(store, b"x" * 100)
    store.pin([cid])
    full["now"] = True
    with pytest.raises(BlobTooLarge, match=f"blob directory {tmp_path} is full.*--blobs"):
        await put(store, b"y" * 100)
    assert store.bytes_held == 100
    assert names(tmp_path) == [cid_to_text(cid)]
    store.unpin([cid])
    with pytest.raises(BlobTooLarge):
        await put(store, b"y" * 100)
    assert not store.has(cid), "on a full disk what nobody needs goes first"


# --- what is the node's own ----------------------------------------------------------------------


async def test_a_node_is_given_what_the_files_hold(kubo: str, tmp_path: Path) -> None:
    local = FileBlobStore(tmp_path, 1 << 20)
    early = await put(local, b"before there was a node")
    store = IpfsBlobStore(local, kubo, name="cascade-mirror")
    await store.open()
    late = await put(store, os.urandom(600_000))
    async with Kubo(kubo) as node:
        await until(lambda: holds(node, early, "cascade-mirror"))
        await until(lambda: holds(node, late, "cascade-mirror"))
        assert cid_of(await node.cat(cid_to_text(late), 600_000)) == late
        await store.collect({late}, idle_seconds=0)
        await until(lambda: lacks(node, early))
        await store.close()
        assert await holds(node, late, "cascade-mirror"), (
            "the directory outlives this process, so do its pins"
        )
        (tmp_path / cid_to_text(late)).unlink()
        again = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 20), kubo, name="cascade-mirror")
        await again.open()
        await until(lambda: lacks(node, late))
        await again.close()


async def test_what_only_the_node_has_is_found_and_checked(kubo: str, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    async with Kubo(kubo) as node:
        await node.add(data, "theirs")
    store = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 20), kubo, name="finder", temporary=True)
    assert await store.find(cid_of(data)) is None, "the network is asked only when somebody has time"
    assert await store.find(cid_of(data), 5.0) == 700_000
    assert await get(store, cid_of(data)) == data
    assert await store.find(cid_of(b"nobody has this"), 0.5) is None
    await store.close()


async def test_a_file_that_has_changed_comes_again_from_the_node(kubo: str, tmp_path: Path) -> None:
    store = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 24), kubo, name="mender", temporary=True)
    cid = await put(store, b"y" * 3_000_000)
    (tmp_path / cid_to_text(cid)).write_bytes(b"x" * 3_000_000)
    with pytest.raises(BlobMended, match=cid_to_text(cid)):
        await get(store, cid)
    assert await get(store, cid) == b"y" * 3_000_000
    await store.close()


async def test_pins_of_dead_schedulers_go(kubo: str, tmp_path: Path) -> None:
    host = socket.gethostname()
    async with Kubo(kubo) as node:
        mine, dead, alive = [cid_of(name) for name in (b"mine", b"dead's", b"alive's")]
        for data, name in (
            (b"mine", "by hand"),
            (b"dead's", f"cascade-of-{host}-999999"),
            (b"alive's", f"cascade-of-{host}-1"),
        ):
            await node.add_pieces(cid_to_text(cid_of(data)), len(data), partial(one, data), pin=name)
        store = IpfsBlobStore(
            FileBlobStore(tmp_path, 1 << 20), kubo, name="sweeper", lives=lambda pid: pid == 1
        )
        await store.open()
        await until(lambda: lacks(node, dead))
        assert set(await node.pins()) >= {cid_to_text(mine), cid_to_text(alive)}
        await store.close()


async def test_a_node_that_is_not_there_is_missed_by_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 20), "http://127.0.0.1:1", name="nobody")
    await store.open()
    cids = [await put(store, os.urandom(1000)) for _ in range(3)]
    assert all(map(store.has, cids))
    assert len(await get(store, cids[0])) == 1000
    assert await store.find(cid_of(b"elsewhere"), 5.0) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no answer of an IPFS node at http://127.0.0.1:1" in caplog.text
    await store.close()


async def one(data: bytes) -> AsyncIterator[bytes]:
    """A stream of one piece."""
    yield data


async def holds(node: Kubo, cid: bytes, name: str) -> bool:
    """Whether the node has pinned it under this name."""
    return (await node.pins()).get(cid_to_text(cid)) == name


async def lacks(node: Kubo, cid: bytes) -> bool:
    """Whether the node has not pinned it."""
    return cid_to_text(cid) not in await node.pins()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - it is a node that changes
            await asyncio.sleep(0.02)


# --- where they lie -----------------------------------------------------------------------------


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
    with pytest.raises(BlobError, match=r"file/blobs cannot be used.*--blobs"):
        FileBlobStore(tmp_path / "file" / "blobs", 1)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "http://x:1",
            "--blobs 'http://x:1' is not memory://, file:///DIRECTORY, a path, or ipfs://HOST:PORT",
        ),
        ("file://host/directory", "file:///DIRECTORY"),
        ("file://", "file:///DIRECTORY"),
        ("memory://x", "is not memory://"),
        ("", "--blobs '' is not"),
        ("ipfs://127.0.0.1:5001?dir=relative", "file:///DIRECTORY"),
        ("ipfs://nowhere", "give the address of its RPC, like ipfs://127.0.0.1:5001"),
        ("ipfs://127.0.0.1:5001/path", "give the address of its RPC"),
    ],
)
def test_a_uri_that_means_nothing_is_refused(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        choose_blobs(uri, state="memory://", bytes_max=1)


def test_aiohttp_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"pip install cascade-dist\[ipfs\]"):
        choose_blobs("ipfs://127.0.0.1:5001", state="memory://", bytes_max=1)


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
    with choose_blobs(f"ipfs://[::1]:5001?dir={tmp_path}/copies", state="memory://", bytes_max=1) as place:
        assert place.store.ipfs_url == "http://[::1]:5001"
    assert (tmp_path / "copies").is_dir()
    choose_blobs("ipfs://127.0.0.1:5001", state="redis://host:1/2", bytes_max=1)
    assert len(list((tmp_path / "state" / "cascade" / "blobs").iterdir())) == 3
    with choose_blobs("ipfs://127.0.0.1:5001", state="memory://", bytes_max=1):
        assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert isinstance(choose_blobs("memory://", state="memory://", bytes_max=1).store, MemoryBlobStore)
