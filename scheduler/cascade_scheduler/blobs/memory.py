"""Blobs in this process's memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from cascade_dist.codec.cid import CidHasher, cid_to_text
from cascade_scheduler.blobs.base import PIECE_BYTES, BlobWrong
from cascade_scheduler.blobs.index import BlobIndex
from cascade_scheduler.blobs.indexed import IndexedBlobs

__all__ = ["MemoryBlobStore"]


class MemoryBlobStore(IndexedBlobs):
    """`memory://`: for tests, and for clusters without large values."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self._data: dict[bytes, bytes] = {}

    async def open(self) -> None:
        """Does nothing."""

    async def find(self, cid: bytes, seconds: float = 0.0) -> int | None:
        """The length of a blob."""
        return self._index.size(cid) if self._index.use(cid) else None

    async def begin(self, cid: bytes, size: int) -> _Upload:
        """Starts to store a blob."""
        for old in self._index.reserve(cid, size):
            del self._data[old]
        return _Upload(self._index, self._data, cid, size)

    async def read(self, cid: bytes, piece_bytes: int = PIECE_BYTES) -> AsyncIterator[bytes]:
        """The blob in pieces."""
        data = self._data[cid]
        self._index.use(cid)
        for start in range(0, len(data), piece_bytes):
            yield data[start : start + piece_bytes]

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        self._index.unpin(cids)

    async def keep(self, cid: bytes) -> None:
        """Keeps a blob, until this process ends."""
        self._index.size(cid)
        self._index.kept.add(cid)

    async def let_go(self, cid: bytes) -> bool:
        """Undoes `keep`."""
        kept = cid in self._index.kept
        self._index.kept.discard(cid)
        self._index.use(cid)
        return kept

    async def drop(self, cids: Iterable[bytes]) -> None:
        """Deletes blobs."""
        for cid in cids:
            self._index.remove(cid)
            del self._data[cid]


class _Upload:
    """One blob on its way in."""

    def __init__(self, index: BlobIndex, data: dict[bytes, bytes], cid: bytes, size: int) -> None:
        self._index = index
        self._data = data
        self._cid = cid
        self._size = size
        self._pieces: list[bytes] = []
        self._hasher = CidHasher()
        self._open = True

    async def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        if self._hasher.size + len(data) > self._size:
            raise BlobWrong(f"blob {cid_to_text(self._cid)} has more than the {self._size} bytes announced")
        self._hasher.update(data)
        self._pieces.append(data)

    async def finish(self) -> None:
        """Checks the bytes and keeps them."""
        check_whole(self._hasher, self._cid, self._size)
        self._open = False
        if self._index.keep(self._cid, self._size):
            self._data[self._cid] = b"".join(self._pieces)

    async def abort(self) -> None:
        """Throws away what came."""
        if self._open:
            self._open = False
            self._index.release(self._size)


def check_whole(hasher: CidHasher, cid: bytes, size: int) -> None:
    """Refuses bytes that are not the whole blob.

    Raises:
        BlobWrong: they are fewer than announced, or do not hash to the CID.
    """
    if hasher.size != size:
        raise BlobWrong(f"blob {cid_to_text(cid)} has {hasher.size} bytes, but {size} were announced")
    found = hasher.digest()
    if found != cid:
        raise BlobWrong(f"the bytes sent as blob {cid_to_text(cid)} are those of {cid_to_text(found)}")
