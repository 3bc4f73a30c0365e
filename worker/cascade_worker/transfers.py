"""Moving bytes: inputs from other workers and the scheduler, results to the blob store.

Everything is streamed into files in pieces of at most 1 MiB; the worker never holds a large value. What
several attempts need at once is fetched once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import mmap
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio

from cascade_dist.codec.cid import CidHasher, cid_of, cid_to_text
from cascade_dist.errors import CascadeError
from cascade_dist.v1 import (
    client_pb2,
    client_pb2_grpc,
    value_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from cascade_dist.wire import TokenAuth
from cascade_dist.wire.blobs import send_blob
from cascade_dist.wire.convert import duration
from cascade_worker.executor import frames
from cascade_worker.executor.files import reserve
from cascade_worker.ipfs import BlobNode
from cascade_worker.objects import ObjectStore
from cascade_worker.peers import PAUSE, SILENCE, TRIES, PeerFetcher, UnreachableError, pieces_of

__all__ = ["FetchError", "NoRoomError", "ObjectsLostError", "Transfers"]

log = logging.getLogger("cascade.worker")

_PIECE_BYTES = 1 << 20
_FUNCTION_BYTES_MAX = 1 << 30
"""A larger function is not looked for in IPFS."""
_LOOK_SECONDS = 5.0
"""How long the scheduler may look for what was given to this worker's IPFS node."""
_BYTES_PER_SECOND_MIN = 1 << 20
"""A scheduler that fetches more slowly from the node is not waited for."""
_CONCURRENT_MAX = 16

T = TypeVar("T")


class FetchError(CascadeError):
    """Something could not be moved; names it and the reason."""


class ObjectsLostError(FetchError):
    """Objects that no holder has."""

    def __init__(self, attempts: tuple[int, ...], text: str) -> None:
        super().__init__(text)
        self.attempts = attempts


class NoRoomError(FetchError):
    """There is no room for it in a directory."""


class File(NamedTuple):
    """Where something lies now."""

    path: str
    size: int


class Transfers:
    """Fetches and publishes for one worker.

    Args:
        store: where files go.
        auth: the cluster's token.
        credentials: for channels to other workers.
        scheduler: gives the scheduler's channel, waiting while there is none.
        spill_dir: where long lists are put.
        node: an IPFS node, for blobs.
    """

    def __init__(
        self,
        store: ObjectStore,
        auth: TokenAuth,
        credentials: grpc.ChannelCredentials | None,
        scheduler: Callable[[], Awaitable[grpc.aio.Channel]],
        spill_dir: str,
        node: BlobNode,
    ) -> None:
        self._store = store
        self._metadata = auth.metadata
        self._scheduler = scheduler
        self._spill_dir = spill_dir
        self._node = node
        self._peers = PeerFetcher(auth.metadata, credentials)
        self._flights: dict[int | bytes, asyncio.Task[File]] = {}
        self._room = asyncio.Semaphore(_CONCURRENT_MAX)
        self._spilled = 0
        self.copied: Callable[[int], None] = lambda attempt: None
        """Told of each object that was fetched."""

    # --- inputs -------------------------------------------------------------------------------------

    def local(self, value: value_pb2.Value, attempt: int) -> Any:
        """A value as executors take it, when all of it is here; None otherwise. Pins it for the attempt."""
        form = value.WhichOneof("form")
        if form == "inline":
            return value.inline
        if form == "object":
            return self._local_object(value.object, attempt)
        if form == "blob":
            return self._local_file(value.blob.cid, attempt)
        if form == "item":
            item = value.item
            if item.HasField("list"):
                found = self._local_object(item.list, attempt)
            else:
                found = self._local_file(item.blob.cid, attempt)
            return None if found is None else (frames.ITEM, found[1], found[2], item.index)
        if form == "list":
            return self._local_all(value.list.items, attempt)
        if form == "compound":
            compound = value.compound
            template: Any = compound.template
            if compound.HasField("template_blob"):
                template = self._local_file(compound.template_blob.cid, attempt)
            made = self._local_all(compound.inputs, attempt)
            return None if made is None or template is None else (frames.COMPOUND, template, made[1])
        return None

    def local_blob(self, reference: value_pb2.BlobRef, attempt: int) -> Any:
        """A blob as executors take it, when it is here; None otherwise. Pins it for the attempt."""
        return self._local_file(reference.cid, attempt)

    def _local_object(self, reference: value_pb2.ObjectRef, attempt: int) -> Any:
        key = reference.attempt
        found = self._local_file(key, attempt)
        if found is None and key not in self._flights:
            linked = self._store.link(key, reference.size_bytes, reference.maker)
            found = None if linked is None else (frames.FILE, *linked)
        return found

    def _local_file(self, key: int | bytes, attempt: int) -> Any:
        self._store.pin(key, attempt)
        found = self._store.find(key)
        return None if found is None else (frames.FILE, *found)

    def _local_all(self, values: Any, attempt: int) -> Any:
        made = []
        for value in values:
            one = self.local(value, attempt)
            if one is None:
                return None
            made.append(one)
        return (frames.LIST, made)

    async def inputs(self, assignment: worker_pb2.Assignment) -> tuple[Any, list[Any]]:
        """Arguments and inputs of an assignment as executors take them, after everything was fetched.

        Raises:
            ObjectsLostError: names all inputs that no holder has.
            FetchError: something else cannot be had.
        """
        attempt = assignment.attempt
        wanted = [self._value(value, attempt) for value in assignment.inputs]
        args: Any = assignment.args
        if assignment.HasField("args_blob"):
            wanted.insert(0, self._blob(assignment.args_blob, attempt))
        made = await _all(wanted)
        if assignment.HasField("args_blob"):
            args = made.pop(0)[1:]
        return args, made

    async def _value(self, value: value_pb2.Value, attempt: int) -> Any:
        form = value.WhichOneof("form")
        if form == "inline":
            return value.inline
        if form == "object":
            return await self._object(value.object, attempt)
        if form == "blob":
            return await self._blob(value.blob, attempt)
        if form == "item":
            item = value.item
            if item.HasField("list"):
                _, path, size = await self._object(item.list, attempt)
            else:
                _, path, size = await self._blob(item.blob, attempt)
            return (frames.ITEM, path, size, item.index)
        if form == "list":
            return (frames.LIST, await _all([self._value(item, attempt) for item in value.list.items]))
        if form == "compound":
            compound = value.compound
            template = await self._template(compound, attempt)
            return (
                frames.COMPOUND,
                template,
                await _all([self._value(part, attempt) for part in compound.inputs]),
            )
        if form == "deferred":
            return await self._deferred(value.deferred, attempt)
        raise FetchError(
            f"an input has the form {form!r}, which this worker does not know: install one version"
        )

    async def _template(self, holder: Any, attempt: int) -> Any:
        """The pickle of a container: bytes, or a file."""
        if holder.HasField("template_blob"):
            return await self._blob(holder.template_blob, attempt)
        return holder.template

    async def _object(self, reference: value_pb2.ObjectRef, attempt: int) -> Any:
        found = self._local_object(reference, attempt)
        if found is None:
            fetched = await self._once(reference.attempt, lambda: self._fetch_object(reference))
            found = (frames.FILE, *fetched)
        return found

    async def _blob(self, reference: value_pb2.BlobRef, attempt: int) -> Any:
        key = reference.cid
        self._store.pin(key, attempt)
        found = self._store.find(key) or await self._once(key, lambda: self._fetch_blob(reference))
        return (frames.FILE, *found)

    async def _once(self, key: int | bytes, fetch: Callable[[], Coroutine[Any, Any, File]]) -> File:
        """Joins the transfer that is under way, or starts one; it goes on when one who waits is cancelled."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(fetch())
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: int | bytes, flight: asyncio.Task[File]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled() and flight.exception() is None:
            self._store.add_cached(key, *flight.result())
            if isinstance(key, int):
                self.copied(key)

    # --- objects ------------------------------------------------------------------------------------

    async def _fetch_object(self, reference: value_pb2.ObjectRef) -> File:
        what = f"object {reference.attempt:x}"

        async def receive(path: str) -> None:
            try:
                await self._peers.fetch(reference, path)
            except UnreachableError as error:
                raise ObjectsLostError((reference.attempt,), f"{what} cannot be had: {error}") from None
            except OSError as error:
                raise _unwritable(what, reference.size_bytes, path, error) from error

        async with self._room:
            return await self._where_there_is_room(reference.attempt, reference.size_bytes, receive)

    async def _where_there_is_room(
        self, key: int | bytes, size: int, receive: Callable[[str], Awaitable[None]]
    ) -> File:
        """Receives a file into the first directory that has room for it."""
        paths = self._store.paths_for(key, size)
        if not paths:
            raise NoRoomError(f"an input of {size:,} bytes cannot be kept: {self._store.refusal(size)}")
        *others, last = paths
        for path in others:
            try:
                await receive(path)
                return File(path, size)
            except NoRoomError as error:
                log.warning("%s", error)
        await receive(last)
        return File(last, size)

    # --- the scheduler ------------------------------------------------------------------------------

    async def _fetch_blob(self, reference: value_pb2.BlobRef) -> File:
        what = f"blob {cid_to_text(reference.cid)}"
        request = client_pb2.GetBlobRequest(cid=reference.cid)

        async def fetch(channel: grpc.aio.Channel) -> File:
            async def receive(path: str) -> None:
                call = client_pb2_grpc.BlobServiceStub(channel).GetBlob(request, metadata=self._metadata)
                await _receive(call, path, reference.size_bytes, reference.cid, what)

            return await self._where_there_is_room(reference.cid, reference.size_bytes, receive)

        async with self._room:
            paths = self._store.paths_for(reference.cid)
            path = await self._node.fetch(reference.cid, reference.size_bytes, paths)
            if path is not None:
                return File(path, reference.size_bytes)
            return await self._from_scheduler(what, fetch)

    async def _from_scheduler(self, what: str, ask: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """Asks the scheduler, again after a lost connection, but not for ever."""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE * 2 ** (number - 1))
            try:
                return await ask(await self._scheduler())
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name} {error.details()}"
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    break
            except TimeoutError:
                reason = f"nothing was heard for {SILENCE:g} s"
        raise FetchError(f"{what} cannot be had from the scheduler: {reason}")

    async def _deferred(self, reference: value_pb2.DeferredValue, attempt: int) -> Any:
        """Streams a long list into a file, part by part."""
        what = f"the value of node {reference.node} of run {reference.run_id}"
        self._spilled += 1
        path = os.path.join(self._spill_dir, f"{attempt:016x}-{self._spilled}")

        async def fetch(channel: grpc.aio.Channel) -> Any:
            template: Any = None
            call = worker_pb2_grpc.WorkerServiceStub(channel).FetchValue(
                worker_pb2.FetchValueRequest(value=reference), metadata=self._metadata
            )
            with open(path, "wb") as file:  # noqa: ASYNC230 - shared memory, or the page cache
                async for part in pieces_of(call):
                    if part.compound:
                        template = await self._template(part, attempt)
                    items = await _all([self._value(item, attempt) for item in part.items])
                    file.write(frames.dumps(items))
            return (frames.PARTS, path, template)

        try:
            return await self._from_scheduler(what, fetch)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

    async def function(self, cid: bytes) -> bytes:
        """The body of a function that the scheduler believed to be here, or that is too large for messages.

        Raises:
            FetchError: it does not have it either.
        """

        async def fetch(channel: grpc.aio.Channel) -> bytes:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            request = worker_pb2.FetchFunctionsRequest(cids=[cid])
            try:
                answer = await stub.FetchFunctions(request, metadata=self._metadata, timeout=SILENCE)
                body = next((function.body for function in answer.functions if function.cid == cid), b"")
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                body = b""
            if body:
                return body
            return await self._node.read(cid, _FUNCTION_BYTES_MAX) or await _blob_bytes(
                channel, cid, self._metadata
            )

        what = f"function {cid_to_text(cid)}"
        body = await self._from_scheduler(what, fetch)
        if await asyncio.to_thread(cid_of, body) != cid:
            raise FetchError(f"{what}: the bytes that came have another content id")
        return body

    # --- publishing ---------------------------------------------------------------------------------

    async def publish(self, attempt: int) -> tuple[bytes, int]:
        """Puts a result into the blob store. Returns its CID and size.

        Raises:
            FetchError: it cannot be stored.
        """
        found = self._store.find(attempt)
        if found is None:
            raise FetchError(f"object {attempt:x} is not here any more")
        path, size = found
        cid = await asyncio.to_thread(_cid_of_file, path)
        await self.put_file(path, cid, size)
        self._store.publish(attempt, cid)
        return cid, size

    async def put_file(self, path: str, cid: bytes, size: int) -> None:
        """Puts a file into the blob store, under the CID of its bytes.

        Raises:
            FetchError: it cannot be stored.
        """

        async def found(channel: grpc.aio.Channel) -> bool:
            """Whether the scheduler has fetched it from the node, or from one that is joined to it."""
            request = client_pb2.HasBlobsRequest(cids=[cid], look_for=duration(_LOOK_SECONDS))
            stub = client_pb2_grpc.BlobServiceStub(channel)
            timeout = SILENCE + size / _BYTES_PER_SECOND_MIN
            try:
                answer = await stub.HasBlobs(request, metadata=self._metadata, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                return False
            return list(answer.present) == [True]

        async def put(channel: grpc.aio.Channel) -> None:
            stub = client_pb2_grpc.BlobServiceStub(channel)
            blob = value_pb2.BlobRef(cid=cid, size_bytes=size)
            await send_blob(stub, blob, partial(_pieces_of_file, path), self._metadata)

        what = f"storing blob {cid_to_text(cid)} of {size:,} bytes:"
        async with self._room:
            if not (await self._node.give(path, cid, size) and await self._from_scheduler(what, found)):
                await self._from_scheduler(what, put)

    async def close(self) -> None:
        """Closes all channels."""
        for flight in list(self._flights.values()):
            flight.cancel()
        await self._node.close()
        await self._peers.close()


async def _all(wanted: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Awaits all; of several lost objects names every one."""
    if len(wanted) == 1:
        return [await wanted[0]]
    made = await asyncio.gather(*wanted, return_exceptions=True)
    lost = [error for error in made if isinstance(error, ObjectsLostError)]
    for error in made:
        if isinstance(error, BaseException) and not isinstance(error, ObjectsLostError):
            raise error
    if lost:
        attempts = tuple(dict.fromkeys(attempt for error in lost for attempt in error.attempts))
        raise ObjectsLostError(attempts, "; ".join(str(error) for error in lost[:5]))
    return made


async def _blob_bytes(channel: grpc.aio.Channel, cid: bytes, metadata: Any) -> bytes:
    """A blob of a few MiB, in memory."""
    call = client_pb2_grpc.BlobServiceStub(channel).GetBlob(
        client_pb2.GetBlobRequest(cid=cid), metadata=metadata
    )
    return b"".join([piece.data async for piece in pieces_of(call)])


async def _receive(call: Any, path: str, size: int, cid: bytes | None, what: str) -> None:
    """Writes a stream of pieces into a file, which gets its name when all is there and right.

    Raises:
        NoRoomError: the file system is full.
        FetchError: other bytes came than were meant, or the file cannot be written.
    """
    part = f"{path}.part"
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    hasher = CidHasher() if cid is not None else None
    try:
        reserve(fd, size)
        at = 0
        async with contextlib.aclosing(pieces_of(call)) as pieces:
            async for piece in pieces:
                at += len(piece.data)
                if at > size:
                    break
                os.pwrite(fd, piece.data, at - len(piece.data))
                if hasher is not None:
                    hasher.update(piece.data)
        if at != size:
            raise FetchError(f"{what} should have {size:,} bytes, {at:,} came")
        if hasher is not None and hasher.digest() != cid:
            raise FetchError(f"{what}: the bytes that came have another content id")
        os.rename(part, path)
    except OSError as error:
        raise _unwritable(what, size, path, error) from error
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _unwritable(what: str, size: int, path: str, error: OSError) -> FetchError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    kind = NoRoomError if full else FetchError
    return kind(f"{what} of {size:,} bytes cannot be kept in {path}: {error.strerror}")


def _cid_of_file(path: str) -> bytes:
    hasher = CidHasher()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = memoryview(mapped)
        try:
            for at in range(0, len(view), _PIECE_BYTES):
                with view[at : at + _PIECE_BYTES] as piece:
                    hasher.update(piece)
        finally:
            view.release()
    return hasher.digest()


def _pieces_of_file(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE_BYTES):
            yield data
