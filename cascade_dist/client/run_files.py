"""Runs as files: fetched from a scheduler, checked, and given to another."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import grpc
import grpc.aio

from cascade_dist.client.diagnosis import rpc_error
from cascade_dist.client.records import Record, RunStatus, status_of
from cascade_dist.client.whole_file import whole_file
from cascade_dist.errors import CascadeError, ConfigError, RunConflictError, RunFileError, RunRefusedError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1.runfile_pb2 import RunFilePart
from cascade_dist.wire.run_file import PIECE_BYTES, RunFileReader

if TYPE_CHECKING:
    from cascade_dist.client.session import Session

__all__ = ["ExportedRun", "ImportedRun", "export_run", "import_run"]

_REFUSALS: dict[grpc.StatusCode, type[CascadeError]] = {
    grpc.StatusCode.ALREADY_EXISTS: RunConflictError,
    grpc.StatusCode.INVALID_ARGUMENT: RunFileError,
    grpc.StatusCode.FAILED_PRECONDITION: RunRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RunRefusedError,
    grpc.StatusCode.DATA_LOSS: RunRefusedError,
}


@dataclass(frozen=True, slots=True)
class ExportedRun(Record):
    """What went into a file.

    Attributes:
        run_id: of the run.
        file: where it is.
        bytes: its size.
        results: how many values it has.
        skipped: how many nodes were skipped.
        blobs: how many large values and arguments it has.
    """

    run_id: str
    file: str
    bytes: int
    results: int
    skipped: int
    blobs: int


@dataclass(frozen=True, slots=True)
class ImportedRun(Record):
    """What came out of a file.

    Attributes:
        run_id: which the run has there.
        status: where it stands.
        existed: the very run was there already, and nothing was changed.
        results: how many values it has.
        blobs: how many large values and arguments came with it.
    """

    run_id: str
    status: RunStatus
    existed: bool
    results: int
    blobs: int


def export_run(session: Session, run_id: str, file: str | os.PathLike[str]) -> ExportedRun:
    """Writes a stored run to a file; see `Cluster.export_run`."""
    session.check_process()
    path = Path(file)
    with whole_file(path) as target:
        return session.background.call(_receive(session, run_id, path, target))


async def _receive(session: Session, run_id: str, path: Path, target: BinaryIO) -> ExportedRun:
    """Takes the pieces, and checks that they are a whole run file before it has a name."""
    link = await session.link_up()
    reader = RunFileReader(f"what the scheduler at {session.address} sent")
    counts = {"result": 0, "skip": 0, "blob": 0}
    size = 0
    try:
        request = pb.ExportRunRequest(run_id=run_id)
        async for response in link.client.ExportRun(request, metadata=session.metadata):
            for part in reader.feed(response.data):
                kind = _counted(part)
                if kind in counts:
                    counts[kind] += 1
            size += len(response.data)
            await session.in_thread(target.write, response.data)
    except grpc.aio.AioRpcError as error:
        raise _refusal(session, error) from None
    reader.finish()
    return ExportedRun(run_id, str(path), size, counts["result"], counts["skip"], counts["blob"])


def _counted(part: RunFilePart) -> str:
    """The kind of a part; of a blob only the first piece counts."""
    kind = part.WhichOneof("part") or ""
    return "" if kind == "blob" and not part.blob.HasField("blob") else kind


def import_run(session: Session, file: str | os.PathLike[str], run_id: str) -> ImportedRun:
    """Gives a run file to the scheduler; see `Cluster.import_run`."""
    session.check_process()
    path = Path(file)
    try:
        with path.open("rb") as source:
            _check(path, source)
            source.seek(0)
            answer = session.background.call(_send(session, source, run_id))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    return ImportedRun(answer.run_id, status_of(answer.state), answer.existed, answer.results, answer.blobs)


def _check(path: Path, source: BinaryIO) -> None:
    """Reads a file from end to end before anything of it is sent."""
    reader = RunFileReader(str(path))
    while data := source.read(PIECE_BYTES):
        for _ in reader.feed(data):
            pass
    reader.finish()


async def _send(session: Session, source: BinaryIO, run_id: str) -> pb.ImportRunResponse:
    link = await session.link_up()

    async def pieces() -> AsyncIterator[pb.ImportRunRequest]:
        first = run_id
        while data := await session.in_thread(source.read, PIECE_BYTES):
            yield pb.ImportRunRequest(run_id=first, data=data)
            first = ""

    try:
        answer: pb.ImportRunResponse = await link.client.ImportRun(pieces(), metadata=session.metadata)
        return answer
    except grpc.aio.AioRpcError as error:
        raise _refusal(session, error) from None


def _refusal(session: Session, error: grpc.aio.AioRpcError) -> CascadeError:
    kind = _REFUSALS.get(error.code())
    return rpc_error(session.address, error) if kind is None else kind(error.details() or "")
