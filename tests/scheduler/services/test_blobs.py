"""BlobService over real streams; health and reflection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.storage.kubo import Kubo
from cascade_dist.v1 import client_pb2, value_pb2
from cascade_scheduler.blobs import memory
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.blobs.ipfs import IpfsBlobStore
from cascade_scheduler.blobs.memory import MemoryBlobStore
from tests.scheduler.peers import SECONDS, Client, Worker, done, one_task, put_blob, scheduler


async def get(client: Client, cid: bytes) -> tuple[bytes, int]:
    """(bytes, announced length) of a blob."""
    data, size = bytearray(), -1
    async for piece in client.blobs.GetBlob(client_pb2.GetBlobRequest(cid=cid), timeout=SECONDS):
        if size < 0:
            size = piece.size_bytes
        assert len(piece.data) <= 1 << 20
        data += piece.data
    return bytes(data), size


@pytest.mark.parametrize("size", [0, 10, 3_500_000])
async def test_a_blob_goes_there_and_back(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    store = FileBlobStore(tmp_path, 64 << 20)
    async with scheduler(blobs=store) as it, Client(it.address) as client:
        cid = await put_blob(client, data)
        assert await get(client, cid) == (data, size)
        present = await client.blobs.HasBlobs(client_pb2.HasBlobsRequest(cids=[cid, cid_of(b"no")]))
        assert list(present.present) == [True, False]


@pytest.mark.parametrize(
    ("cid", "size", "told"),
    [
        (cid_of(b"other"), None, "are those of bafk"),
        (None, 11, "has 10 bytes, but 11 were announced"),
        (None, 9, "more than the 9 bytes"),
        (b"short", None, "names the blob by its CID"),
    ],
)
async def test_wrong_bytes_are_refused(cid: bytes | None, size: int | None, told: str) -> None:
    async with scheduler() as it, Client(it.address) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=told) as raised:
            await put_blob(client, b"0123456789", cid=cid, size=size)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert it.hub.blobs.bytes_held == 0


async def test_the_room_of_a_refused_blob_is_free_when_its_sender_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    abort = memory._Upload.abort

    async def slow(upload: memory._Upload) -> None:
        await asyncio.sleep(0.05)
        await abort(upload)

    monkeypatch.setattr(memory._Upload, "abort", slow)
    async with scheduler(blobs=MemoryBlobStore(1_000)) as it, Client(it.address) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="are those of"):
            await put_blob(client, b"x" * 600, cid=cid_of(b"y"))
        assert it.hub.blobs.bytes_held == 0
        await put_blob(client, b"x" * 600)


async def test_an_unknown_blob() -> None:
    async with scheduler() as it, Client(it.address) as client:
        for cid in (cid_of(b"no"), b"nonsense"):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await get(client, cid)
            assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_full_store_refuses_and_finished_runs_make_room() -> None:
    blobs = MemoryBlobStore(1000)
    async with scheduler(blobs=blobs) as it, Client(it.address) as client, Worker(it.address) as worker:
        with pytest.raises(grpc.aio.AioRpcError, match="does not fit") as raised:
            await put_blob(client, b"x" * 1001)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.submit("r", one_task())
        await client.accepted()
        cid = await put_blob(client, b"result" * 100)
        work = await worker.work()
        blob = value_pb2.BlobRef(cid=cid, size_bytes=600)
        await worker.report(done(work.assignments[0].attempt, value_pb2.Value(blob=blob)))
        values, _ = await client.finish("r")
        assert values[0].blob == blob
        await put_blob(client, b"other" * 100)  # needs the room of the finished run's result
        with pytest.raises(grpc.aio.AioRpcError, match="'r' is known"):
            await client.stub.GetRun(client_pb2.GetRunRequest(run_id="r"))
        assert not it.hub.blobs.has(cid)
        assert not it.hub.core.runs


async def test_bytes_that_changed_on_disk_are_not_given(tmp_path: Path) -> None:
    async with scheduler(blobs=FileBlobStore(tmp_path, 1 << 20)) as it, Client(it.address) as client:
        cid = await put_blob(client, b"0123456789")
        (tmp_path / cid_to_text(cid)).write_bytes(b"9876543210")
        with pytest.raises(grpc.aio.AioRpcError, match="has changed on disk") as raised:
            await get(client, cid)
        assert raised.value.code() == grpc.StatusCode.DATA_LOSS
        with pytest.raises(grpc.aio.AioRpcError, match="is not here") as raised:
            await get(client, cid)
        assert await get(client, await put_blob(client, b"0123456789")) == (b"0123456789", 10)


async def test_blobs_are_listed_and_pinned() -> None:
    blobs = MemoryBlobStore(1000)
    async with scheduler(blobs=blobs) as it, Client(it.address) as client:
        first, second = await put_blob(client, b"x" * 600), await put_blob(client, b"y" * 100)
        pin = client_pb2.PinBlobsRequest(cids=[first, cid_of(b"no"), b"nonsense"])
        assert list((await client.blobs.PinBlobs(pin)).present) == [True, False, False]
        parts = [part async for part in client.blobs.ListBlobs(client_pb2.ListBlobsRequest())]
        found = [(info.blob.cid, info.blob.size_bytes, info.pinned) for part in parts for info in part.blobs]
        assert sorted(found) == sorted([(first, 600, True), (second, 100, False)])
        with pytest.raises(grpc.aio.AioRpcError, match="cascade blobs unpin"):
            await put_blob(client, b"z" * 500)
        unpin = client_pb2.UnpinBlobsRequest(cids=[first, second])
        assert list((await client.blobs.UnpinBlobs(unpin)).pinned) == [True, False]
        await put_blob(client, b"z" * 500)
        assert not blobs.has(first)


class Later(MemoryBlobStore):
    """Nothing goes before the test says so."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.go = asyncio.Event()

    async def collect(
        self, named: Container[bytes], *, idle_seconds: float, dry_run: bool = False
    ) -> tuple[int, int]:
        await self.go.wait()
        return await super().collect(named, idle_seconds=idle_seconds, dry_run=dry_run)


async def test_what_nothing_needs_goes_after_its_grace() -> None:
    store = Later()
    async with (
        scheduler(blobs=store, blob_grace=0.5) as it,
        Client(it.address) as client,
        Worker(it.address) as worker,
    ):
        pinned, idle = await put_blob(client, b"pinned"), await put_blob(client, b"idle")
        await client.blobs.PinBlobs(client_pb2.PinBlobsRequest(cids=[pinned]))
        await client.submit("r", one_task())
        await client.accepted()
        result = await put_blob(client, b"result")
        work = await worker.work()
        blob = value_pb2.BlobRef(cid=result, size_bytes=6)
        await worker.report(done(work.assignments[0].attempt, value_pb2.Value(blob=blob)))
        await client.finish("r")
        store.go.set()
        async with asyncio.timeout(SECONDS):
            while idle in {info.cid for info in it.hub.blobs.listing()}:  # noqa: ASYNC110 - its time
                await asyncio.sleep(0.01)
        assert {info.cid for info in it.hub.blobs.listing()} == {pinned, result}, "the run may be asked for"


async def test_many_blobs_are_listed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade_scheduler.services.blobs.LIST_AT_ONCE", 2)
    async with scheduler() as it, Client(it.address) as client:
        for number in range(5):
            await put_blob(client, bytes([number]))
        parts = [part async for part in client.blobs.ListBlobs(client_pb2.ListBlobsRequest())]
        assert [len(part.blobs) for part in parts] == [2, 2, 1]


async def test_a_store_in_ipfs_looks_for_what_others_have(kubo: str, tmp_path: Path) -> None:
    async with Kubo(kubo) as node:
        await node.add(b"only the node has it", "theirs")
    cid = cid_of(b"only the node has it")
    blobs = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 20), kubo, name="service", temporary=True)
    async with scheduler(blobs=blobs) as it, Client(it.address) as client:
        request = client_pb2.HasBlobsRequest(cids=[cid])
        assert list((await client.blobs.HasBlobs(request)).present) == [False]
        request.look_for.seconds = 5
        assert list((await client.blobs.HasBlobs(request)).present) == [True]
        assert await get(client, cid) == (b"only the node has it", 20)


async def test_bytes_that_the_node_has_mend_those_that_changed_on_disk(kubo: str, tmp_path: Path) -> None:
    blobs = IpfsBlobStore(FileBlobStore(tmp_path, 1 << 20), kubo, name="service", temporary=True)
    async with scheduler(blobs=blobs) as it, Client(it.address) as client:
        cid = await put_blob(client, b"right bytes")
        (tmp_path / cid_to_text(cid)).write_bytes(b"wrong bytes")
        with pytest.raises(grpc.aio.AioRpcError, match="is whole again") as raised:
            await get(client, cid)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE, "who hears that calls again"
        assert await get(client, cid) == (b"right bytes", 11)


async def test_health_is_told_without_a_token() -> None:
    async with scheduler(token="secret") as it:
        client = Client(it.address)
        stub = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", "live", "ready", "cascade.Scheduler"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        await client.channel.close()


async def test_reflection_names_the_services() -> None:
    async with scheduler() as it:
        client = Client(it.address)
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {"cascade_dist.v1.ClientService", "cascade_dist.v1.WorkerService"} <= names
        await client.channel.close()
