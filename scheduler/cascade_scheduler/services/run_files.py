"""Runs that leave as files, and runs that come as files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from cascade_dist.codec.cid import CID_BYTES, cid_to_text
from cascade_dist.errors import RunFileError
from cascade_dist.v1 import client_pb2
from cascade_dist.v1.runfile_pb2 import RunFileBlob, RunFilePart
from cascade_dist.v1.value_pb2 import BlobRef
from cascade_dist.wire.run_file import PIECE_BYTES, RunFileReader, RunFileWriter
from cascade_scheduler import resuming
from cascade_scheduler.blobs.base import BlobError, BlobTooLarge, BlobUpload, BlobWrong
from cascade_scheduler.hub import Hub
from cascade_scheduler.recalling import recall
from cascade_scheduler.services.submits import is_run_id
from cascade_scheduler.store.base import Record, RunDropped, RunImporting, StoredRun, StoreUnavailable
from cascade_scheduler.wire.run_files import ImportedRun, blobs_of_parts, parts_of
from cascade_scheduler.wire.updates import RUN_STATES
from cascade_scheduler.wire.values import BadMessage

__all__ = ["RunFileRefused", "RunFiles"]

PIECE_SECONDS = 60.0
"""How long one piece of a file may be waited for."""
WRITE_RECORDS = 1_000
WRITE_BYTES = 1 << 20
"""Records are written in groups of about so many."""
PARTS_AT_ONCE = 200
FIND_SECONDS = 10.0
"""How long the network may be asked for a blob."""
SAME_SECONDS = 0.001
"""Two times of a submit are the same within so much: files round them."""

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger("cascade.scheduler")


class RunFileRefused(Exception):
    """What was asked cannot be; `code` says in which way."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        super().__init__(message)


class RunFiles:
    """Exports and imports of one scheduler.

    Args:
        hub: of the scheduler.
        stores: whether the scheduler stores runs at all.
        state: the store as people may see it.
    """

    def __init__(self, hub: Hub, *, stores: bool, state: str) -> None:
        self._hub = hub
        self._stores = stores
        self._state = state
        self.importing: set[str] = set()
        """Runs that are being written."""

    def _check_stores(self, what: str) -> None:
        if not self._stores:
            raise RunFileRefused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this scheduler keeps its state in {self._state}, so there is nothing that could be {what}: "
                "start it with `cascade-scheduler --state redis://…`",
            )

    async def _load(self, run_id: str) -> StoredRun | None:
        try:
            return await resuming.load(self._hub.writer, run_id)
        except StoreUnavailable as error:
            raise RunFileRefused(grpc.StatusCode.UNAVAILABLE, f"the store is away: {error}") from None

    # --- out -------------------------------------------------------------------------------------

    async def export(self, run_id: str) -> AsyncIterator[bytes]:
        """The file of a run, in pieces.

        Raises:
            RunFileRefused: there is no such run, or a blob that it needs is gone.
        """
        self._check_stores("exported")
        await self._landed()
        stored = await self._load(run_id)
        if stored is None:
            raise RunFileRefused(
                grpc.StatusCode.NOT_FOUND,
                f"no run {run_id!r} is stored here: it was never submitted, it was forgotten, or it was "
                "written with another seal key",
            )
        needed, of_results = blobs_of_parts(stored)
        blobs = self._hub.blobs
        named = (*needed, *of_results)
        blobs.pin(named)
        try:
            sizes = {cid: await blobs.find(cid, FIND_SECONDS) for cid in named}
            gone = [cid for cid in needed if sizes[cid] is None]
            if gone:
                raise RunFileRefused(
                    grpc.StatusCode.DATA_LOSS,
                    f"run {run_id!r} cannot be exported: blob {cid_to_text(gone[0])}, which its graph needs, "
                    "is no longer in the blob store",
                )
            async for piece in _pieces(self._file(stored, sizes)):
                yield piece
        finally:
            blobs.unpin(named)

    async def _file(self, stored: StoredRun, sizes: dict[bytes, int | None]) -> AsyncIterator[bytes]:
        hub, writer = self._hub, RunFileWriter()
        lost = frozenset(cid for cid, size in sizes.items() if size is None)
        for cid in lost:
            logger.warning("blob %s of run %s is gone: left out", cid_to_text(cid), stored.created.run_id)
        yield writer.begin()
        for number, part in enumerate(parts_of(stored, lost, hub.now())):
            yield writer.part(part)
            if not number % PARTS_AT_ONCE:
                await asyncio.sleep(0)  # other runs go on meanwhile
        for cid, size in sizes.items():
            if size is None:
                continue
            ref: BlobRef | None = BlobRef(cid=cid, size_bytes=size)
            async for piece in hub.blobs.read(cid, PIECE_BYTES):
                yield writer.part(RunFilePart(blob=RunFileBlob(blob=ref, data=piece)))
                ref = None
            if ref is not None:
                yield writer.part(RunFilePart(blob=RunFileBlob(blob=ref)))
        yield writer.end()

    # --- in --------------------------------------------------------------------------------------

    async def take(self, context: Context) -> client_pb2.ImportRunResponse:
        """Stores a run from the pieces that a client sends.

        Raises:
            RunFileRefused: it cannot be stored.
            RunFileError: it is no sound run file.
        """
        self._check_stores("imported into")
        incoming = _Incoming(self)
        try:
            return await incoming.take(context)
        except BadMessage as error:
            raise RunFileError(f"the file is damaged: {error}") from None
        except BlobWrong as error:
            raise RunFileError(f"the file is damaged: {error}") from None
        except BlobError as error:
            raise RunFileRefused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None
        finally:
            await incoming.close()

    async def _landed(self) -> None:
        """Waits until all that was posted is in the store."""
        landed = asyncio.get_running_loop().create_future()
        self._hub.turn.post(None, then=partial(_settle, landed))
        await landed

    async def write(self, run_id: str, records: Iterable[Record]) -> None:
        """Posts records of an import; waits while the store's backlog is full.

        Raises:
            RunFileRefused: somebody has submitted a run of this id meanwhile.
        """
        hub = self._hub
        if not hub.writer.room.is_set():
            await hub.writer.room.wait()
        self.check_free(run_id)
        hub.turn.post(None, records=tuple(records))

    def check_free(self, run_id: str) -> None:
        """Raises RunFileRefused when a run of this id is known."""
        if run_id in self._hub.runs:
            raise taken(run_id, "is known here")


def taken(run_id: str, how: str) -> RunFileRefused:
    """The id belongs to another run."""
    return RunFileRefused(
        grpc.StatusCode.ALREADY_EXISTS,
        f"a run {run_id!r} {how}, and it is another one: import it under another id, with --run-id NEW",
    )


class _Incoming:
    """One import."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._hub = files._hub
        self._reader = RunFileReader("the file")
        self._run: ImportedRun
        self._records: list[Record] = []
        self._records_bytes = 0
        self._existing: StoredRun | None = None
        self._began = False
        self._writing = False
        """Something of it is in the store, and not all."""
        self._upload: BlobUpload | None = None
        self._pinned: list[bytes] = []
        self._blobs = 0

    async def take(self, context: Context) -> client_pb2.ImportRunResponse:
        first = await _next(context)
        if first is None:
            self._reader.finish()
        assert first is not None
        if first.run_id and not is_run_id(first.run_id):
            raise RunFileRefused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{first.run_id[:80]!r} is no run id: see `cascade import -h`",
            )
        self._run = ImportedRun(first.run_id)
        piece: client_pb2.ImportRunRequest | None = first
        while piece is not None:
            for number, part in enumerate(self._reader.feed(piece.data)):
                await self._take_part(part)
                if not number % PARTS_AT_ONCE:
                    await asyncio.sleep(0)  # other runs go on meanwhile
            piece = await _next(context)
        self._reader.finish()
        return await self._finish()

    async def _take_part(self, part: RunFilePart) -> None:
        if part.HasField("blob"):
            if self._existing is None:
                await self._take_blob(part.blob)
            return
        fresh = self._run.created is None
        records = self._run.take(part)
        if fresh:
            await self._begin()
        if self._existing is not None:
            return
        self._check_size()
        for record in records:
            self._records.append(record)
        self._records_bytes += part.ByteSize()
        if len(self._records) >= WRITE_RECORDS or self._records_bytes >= WRITE_BYTES:
            await self._write()

    async def _begin(self) -> None:
        """The run's name is known: nobody else may have it."""
        run_id, files = self._run.run_id, self._files
        if not is_run_id(run_id):
            raise RunFileError("the file is damaged: its run has no id")
        if run_id in files.importing:
            raise taken(run_id, "is being imported")
        files.importing.add(run_id)
        self._began = True
        await files._landed()
        stored = await files._load(run_id)
        if stored is not None:
            if not self._is(stored):
                raise taken(run_id, "is stored here")
            self._existing = stored
            return
        await files.write(run_id, (RunImporting(run_id),))
        self._writing = True

    def _is(self, stored: StoredRun) -> bool:
        """The stored run is the very one of the file."""
        here, there = stored.created, self._run.created
        assert there is not None
        same = (here.target_id, here.template_id, here.params_digest, here.node_count) == (
            there.target_id,
            there.template_id,
            there.params_digest,
            there.node_count,
        )
        return same and abs(here.submitted - there.submitted) < SAME_SECONDS

    def _check_size(self) -> None:
        most = self._hub.bounds.graph_bytes_max
        if self._run.bytes > most:
            raise RunFileRefused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the graph of the run has more than {most:,} bytes, the most that this scheduler takes; "
                "raise --graph-bytes-max",
            )

    async def _write(self) -> None:
        records, self._records, self._records_bytes = self._records, [], 0
        if records:
            await self._files.write(self._run.run_id, records)

    # --- blobs -----------------------------------------------------------------------------------

    async def _take_blob(self, piece: RunFileBlob) -> None:
        if piece.HasField("blob"):
            await self._end_blob()
            cid, size = piece.blob.cid, piece.blob.size_bytes
            if len(cid) != CID_BYTES:
                raise RunFileError("the file is damaged: a blob has no name")
            self._hub.blobs.pin((cid,))
            self._pinned.append(cid)
            self._blobs += 1
            if not self._hub.blobs.has(cid):
                self._upload = await self._begin_blob(cid, size)
        if self._upload is not None and piece.data:
            await self._upload.write(piece.data)

    async def _begin_blob(self, cid: bytes, size: int) -> BlobUpload:
        while True:
            try:
                return await self._hub.blobs.begin(cid, size)
            except BlobTooLarge:
                if not self._hub.make_room():
                    raise

    async def _end_blob(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            try:
                await upload.finish()
            finally:
                await upload.abort()

    # --- the end ---------------------------------------------------------------------------------

    async def _finish(self) -> client_pb2.ImportRunResponse:
        run_id, files, hub = self._run.run_id, self._files, self._hub
        if self._run.created is None:
            raise RunFileError("the file is damaged: it has no run in it")
        if self._existing is not None:
            stored = self._existing
            return client_pb2.ImportRunResponse(
                run_id=run_id, existed=True, state=RUN_STATES[stored.state], results=len(stored.results)
            )
        await self._end_blob()
        self._records.extend(self._run.end(hub.now()))
        await self._write()
        self._writing = False
        await files._landed()
        imported = await files._load(run_id)
        if imported is None or len(imported.results) != self._run.results:
            raise RunFileRefused(
                grpc.StatusCode.ABORTED, f"the store has lost a part of run {run_id!r}: import it again"
            )
        await recall(hub, imported)
        logger.info("run %s was imported with %d results", run_id, self._run.results)
        return client_pb2.ImportRunResponse(
            run_id=run_id, state=RUN_STATES[imported.state], results=self._run.results, blobs=self._blobs
        )

    async def close(self) -> None:
        """Lets go of what the import held; what was written of one that failed goes again."""
        if self._upload is not None:
            await self._upload.abort()
        if self._began:
            run_id = self._run.run_id
            self._files.importing.discard(run_id)
            if self._writing and run_id not in self._hub.runs:
                self._hub.turn.post(None, records=(RunDropped(run_id),))
        self._hub.blobs.unpin(self._pinned)


async def _next(context: Context) -> client_pb2.ImportRunRequest | None:
    try:
        piece = await asyncio.wait_for(context.read(), PIECE_SECONDS)
    except TimeoutError:
        raise RunFileRefused(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"no piece of the file within {PIECE_SECONDS:.0f} s"
        ) from None
    if piece is grpc.aio.EOF:
        return None
    if len(piece.data) > PIECE_BYTES:
        raise RunFileRefused(
            grpc.StatusCode.INVALID_ARGUMENT, f"a piece of the file has more than {PIECE_BYTES:,} bytes"
        )
    return piece  # type: ignore[no-any-return]


async def _pieces(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The bytes of parts, in pieces of at most `PIECE_BYTES`."""
    waiting = bytearray()
    async for part in parts:
        waiting += part
        while len(waiting) >= PIECE_BYTES:
            yield bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]
    if waiting:
        yield bytes(waiting)


def _settle(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)
