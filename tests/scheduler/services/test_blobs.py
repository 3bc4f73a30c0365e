"""BlobService over real streams; health and reflection."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import client_pb2, value_pb2
from cascade_scheduler.blobs.files import FileBlobStore
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
