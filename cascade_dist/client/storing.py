"""What a client does with the blob store of a cluster: putting objects, looking, pinning, fetching."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cascade_dist.client import blobs
from cascade_dist.client.whole_file import whole_file
from cascade_dist.codec.cid import CidHasher, cid_from_text, cid_of_pieces, cid_to_text
from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.pickling import culprit, remedy, type_name
from cascade_dist.codec.values import pack
from cascade_dist.errors import ArgumentSerializationError, BlobNotFoundError, SerializationError
from cascade_dist.language.stored import Stored
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from cascade_dist.wire.convert import duration
from cascade_dist.wire.graphs import Upload

if TYPE_CHECKING:
    from cascade_dist.client.session import Session

__all__ = [
    "BlobInfo",
    "Objects",
    "encode_object",
    "expect",
    "list_blobs",
    "pin",
    "put",
    "ref_of",
    "save",
    "unpin",
]

LOOK_SECONDS = 10.0
"""How long a store in IPFS may look for what a graph needs."""
EXPECTED_SECONDS = 30.0
"""What was there so long ago is taken to be there; the scheduler looks again."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob in the store of a cluster."""

    cid: str
    size: int
    """Bytes."""
    used: datetime
    """When it was last used."""
    in_use: bool
    """A run or a transfer needs it now."""
    pinned: bool
    """It stays until it is unpinned."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "cid": self.cid,
            "size_bytes": self.size,
            "used": self.used.isoformat(),
            "in_use": self.in_use,
            "pinned": self.pinned,
        }


def encode_object(obj: Any) -> tuple[Upload, Stored]:
    """The blob of an object, and its handle. Large buffers are not copied.

    Raises:
        SerializationError: it cannot be pickled; names the part.
    """

    def dump(value: object) -> Any:
        return ByValuePickler().run(value, out_of_band=True)

    try:
        packed = pack(dump(obj))
    except SerializationError:
        raise
    except Exception as error:
        path, part, found = culprit(obj, dump)
        reason = found or error
        at = f", at {path}," if path else ""
        raise ArgumentSerializationError(
            f"the object to put{at} is a {type_name(part)} and cannot be pickled ({reason}): "
            f"{remedy(part, reason)}"
        ) from error
    cid = cid_of_pieces(packed.pieces())
    return Upload(cid, packed.size, packed), Stored(cid_to_text(cid), packed.size)


def put(session: Session, obj: Any, pinned: bool) -> Stored:
    """Stores an object; any thread but the session's."""
    session.check_process()
    upload, handle = encode_object(obj)
    session.put_blob(upload)
    if pinned:
        pin(session, [handle.cid])
    session.expected[upload.cid] = time.monotonic()
    return handle


def expect(session: Session, cids: Iterable[bytes]) -> None:
    """Makes sure that what handles name is in the store.

    Raises:
        BlobNotFoundError: names the first that is not.
    """
    now = time.monotonic()
    expected = session.expected
    wanted = [cid for cid in cids if now - expected.get(cid, -EXPECTED_SECONDS) >= EXPECTED_SECONDS]
    if not wanted:
        return
    request = pb.HasBlobsRequest(cids=wanted, look_for=duration(LOOK_SECONDS))
    answer = session.ask_blobs("HasBlobs", request)
    for cid, present in zip(wanted, answer.present, strict=True):
        if not present:
            expected.pop(cid, None)
            raise not_there(cid_to_text(cid), session.address)
        expected[cid] = now
    while len(expected) > 10_000:
        expected.pop(next(iter(expected)))


def not_there(cid: str, address: str) -> BlobNotFoundError:
    """The error for a blob that a cluster does not have."""
    return BlobNotFoundError(
        f"the cluster at {address} does not have blob {cid}: it was put into another cluster, or nothing "
        "needed it for so long that it was deleted. Put the object again, with pin=True if it is to stay"
    )


def list_blobs(session: Session) -> list[BlobInfo]:
    """What is in the store, the least recently used first."""

    async def collect(link: Any, metadata: Any) -> list[BlobInfo]:
        call = link.blobs.ListBlobs(pb.ListBlobsRequest(), metadata=metadata)
        return [_decode(info) async for part in call for info in part.blobs]

    found: list[BlobInfo] = session.with_blobs(collect)
    return found


def _decode(info: pb.BlobInfo) -> BlobInfo:
    return BlobInfo(
        cid_to_text(info.blob.cid),
        info.blob.size_bytes,
        info.used.ToDatetime(UTC),
        info.in_use,
        info.pinned,
    )


def pin(session: Session, cids: Sequence[str]) -> None:
    """Keeps blobs until they are unpinned.

    Raises:
        ValueError: one is no content id.
        BlobNotFoundError: one is not there; the others are pinned.
    """
    request = pb.PinBlobsRequest(cids=map(cid_from_text, cids))
    answer = session.ask_blobs("PinBlobs", request)
    for cid, present in zip(cids, answer.present, strict=True):
        if not present:
            raise not_there(cid, session.address)


def unpin(session: Session, cids: Sequence[str]) -> list[bool]:
    """Keeps blobs no longer; for each, whether it was pinned.

    Raises:
        ValueError: one is no content id.
    """
    request = pb.UnpinBlobsRequest(cids=map(cid_from_text, cids))
    return list(session.ask_blobs("UnpinBlobs", request).pinned)


def save(session: Session, cid: str, write: Callable[[bytes], object]) -> int:
    """Writes a blob's bytes, which are checked; returns how many there are.

    Args:
        session: of the cluster.
        cid: content id.
        write: is given pieces in order, not in this thread.

    Raises:
        ValueError: it is no content id.
        BlobNotFoundError: it is not there.
        RunLostError: other bytes came than were meant.
        OSError: whatever writing raised.
    """
    binary = cid_from_text(cid)

    async def get(link: Any, metadata: Any) -> int:
        hasher = CidHasher()
        request = pb.GetBlobRequest(cid=binary)
        try:
            async for response in link.blobs.GetBlob(request, metadata=metadata):
                await session.in_thread(hasher.update, response.data)
                await session.in_thread(write, response.data)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise not_there(cid, session.address) from None
            if hasher.size:  # what is written cannot be taken back
                raise blobs.blob_error(session.address, error) from None
            raise
        if hasher.digest() != binary:
            ref = value_pb2.BlobRef(cid=binary)
            raise blobs.damaged(ref, "bytes that do not hash to its name")
        return hasher.size

    size: int = session.with_blobs(get)
    return size


def ref_of(handle: Stored) -> value_pb2.BlobRef:
    """How a handle's blob is named on the wire."""
    return value_pb2.BlobRef(cid=cid_from_text(handle.cid), size_bytes=handle.size)


class Objects:
    """The part of a cluster's handle that is about its blob store."""

    _session: Session

    def put(self, obj: Any, *, pin: bool = False) -> Stored:
        """Stores an object in the cluster, once, and gives a handle that stands for it in arguments of tasks.

        Each worker fetches it once, when it first needs it; arrays in it are read-only there. It stays as
        long as runs need it and a day after they last did (the scheduler's `--blob-grace`), whatever becomes
        of this client.

        Args:
            obj: anything that can be pickled, without lazy results in it.
            pin: it stays until somebody unpins it (`unpin`, ``cascade blobs unpin``).

        Raises:
            SerializationError: it cannot be pickled.
            StoreFullError: the store has no room for it.
            ConnectionFailedError: the scheduler is lost.
        """
        return put(self._session, obj, pin)

    def blobs(self) -> list[BlobInfo]:
        """What is in the cluster's blob store, the least recently used first."""
        return list_blobs(self._session)

    def pin(self, *blobs: Stored | str) -> None:
        """Keeps blobs, by handle or content id, until they are unpinned.

        Raises:
            ValueError: one is no content id.
            BlobNotFoundError: one is not there; the others are pinned.
        """
        pin(self._session, [_cid_text(blob) for blob in blobs])

    def unpin(self, *blobs: Stored | str) -> list[bool]:
        """Keeps blobs no longer; for each, whether it was pinned.

        Raises:
            ValueError: one is no content id.
        """
        return unpin(self._session, [_cid_text(blob) for blob in blobs])

    def save_blob(self, blob: Stored | str, path: str | os.PathLike[str]) -> int:
        """Writes a blob, as it is stored, into a file; returns its length in bytes.

        Raises:
            ValueError: it is no content id.
            BlobNotFoundError: it is not there.
            ConfigError: the file cannot be written.
        """
        with whole_file(path) as file:
            return self.write_blob(blob, file.write)

    def write_blob(self, blob: Stored | str, write: Callable[[bytes], object]) -> int:
        """Gives a blob's bytes, as they are stored, to `write` in pieces, in another thread; their number.

        Raises:
            ValueError: it is no content id.
            BlobNotFoundError: it is not there.
        """
        return save(self._session, _cid_text(blob), write)


def _cid_text(blob: Stored | str) -> str:
    return blob.cid if isinstance(blob, Stored) else blob
