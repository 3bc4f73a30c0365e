"""A worker's IPFS node: whatever is wrong with it, the scheduler is asked instead."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.storage.kubo import Kubo
from cascade_worker import ipfs
from cascade_worker.ipfs import BlobNode
from tests.storage.test_kubo import DATA, node, streams

CID = cid_of(DATA)


def used(url: str) -> BlobNode:
    """A node that the scheduler has named."""
    made = BlobNode()
    made.told(url)
    return made


async def test_a_blob_is_written_whole_or_not_at_all(kubo: str, tmp_path: Path) -> None:
    async with Kubo(kubo) as there:
        await there.add(DATA, "theirs")
    blobs = used(kubo)
    path = str(tmp_path / "blob")
    assert await blobs.fetch(CID, len(DATA), [path]) == path
    assert (tmp_path / "blob").read_bytes() == DATA
    assert await blobs.read(CID, len(DATA)) == DATA
    assert await blobs.fetch(cid_of(b"nobody has this"), 15, [str(tmp_path / "none")]) is None
    assert os.listdir(tmp_path) == ["blob"]
    await blobs.close()


async def test_what_is_given_can_be_fetched(kubo: str, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    (tmp_path / "file").write_bytes(data)
    blobs = used(kubo)
    assert await blobs.give(str(tmp_path / "file"), cid_of(data), len(data))
    assert await blobs.read(cid_of(data), len(data)) == data
    assert not await blobs.give(str(tmp_path / "file"), CID, len(data)), "these are other bytes"
    await blobs.close()


async def test_wrong_bytes_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with node(streams(DATA[:-1], b"!")) as url:
        blobs = used(url)
        assert await blobs.fetch(CID, len(DATA), [str(tmp_path / "blob")]) is None
        assert await blobs.read(CID, len(DATA)) is None
        await blobs.close()
    assert os.listdir(tmp_path) == []
    assert f"{cid_to_text(CID)} does not hash to it: refused" in caplog.text


async def test_where_there_is_no_room_the_next_directory_is_tried(kubo: str, tmp_path: Path) -> None:
    async with Kubo(kubo) as there:
        await there.add(DATA, "theirs")
    blobs = used(kubo)
    missing, there_is = str(tmp_path / "missing" / "blob"), str(tmp_path / "blob")
    assert await blobs.fetch(CID, len(DATA), [missing, there_is]) == there_is
    assert await blobs.fetch(CID, len(DATA), [missing]) is None
    await blobs.close()


async def test_a_node_that_hangs_is_left_alone_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipfs, "SILENCE_SECONDS", 0.1)
    (tmp_path / "file").write_bytes(DATA)
    async with node(streams(then="hang")) as url:
        blobs = used(url)
        with caplog.at_level(logging.WARNING, "cascade.worker"):
            for _ in range(3):
                assert await blobs.fetch(CID, len(DATA), [str(tmp_path / "blob")]) is None
                assert await blobs.read(CID, len(DATA)) is None
                assert not await blobs.give(str(tmp_path / "file"), CID, len(DATA))
        assert len(caplog.records) == 1, "it is said once"
        await blobs.close()


async def test_the_schedulers_node_is_used_where_none_is_named(kubo: str) -> None:
    async with Kubo(kubo) as there:
        await there.add(DATA, "theirs")
    blobs = BlobNode()
    assert await blobs.read(CID, len(DATA)) is None
    for url, wanted in ((kubo, DATA), ("", None), ("nonsense", None), (kubo, DATA), (kubo, DATA)):
        blobs.told(url)
        assert await blobs.read(CID, len(DATA)) == wanted
    await blobs.close()
    none = BlobNode("")
    none.told(kubo)
    assert await none.read(CID, len(DATA)) is None, "this worker is to use none"


async def test_a_worker_uses_its_own_node_where_the_scheduler_has_one(kubo: str) -> None:
    async with Kubo(kubo) as there:
        await there.add(DATA, "theirs")
    blobs = BlobNode(kubo)
    for url, wanted in (("", None), ("http://scheduler:5001", DATA), ("", None), ("http://other:5001", DATA)):
        blobs.told(url)
        assert await blobs.read(CID, len(DATA)) == wanted
    await blobs.close()
    with pytest.raises(ValueError, match="ipfs_api_url"):
        BlobNode("nonsense")
